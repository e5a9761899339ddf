"""What the driver sends to its actors to set them up: plain data, no torch, so that the driver need not load it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harmonyray.registry import PluginOptions, resolve

SAMPLING = "sampling"  # an engine actor's calls that take long, apart from those that must not wait for them


@dataclass(frozen=True, slots=True)
class PartSpec:
    """How an actor builds its part: the plug-in's name and options, and the constructor's further arguments."""

    kind: str
    type: str
    options: PluginOptions
    arguments: dict[str, Any]

    def build(self, **more: Any) -> Any:
        return resolve(self.kind, self.type)(options=self.options, **self.arguments, **more)


@dataclass(frozen=True, slots=True)
class RunSpec:
    """The parts that the actors of a run are built from. `learner` None makes a runtime that only samples."""

    engines: Mapping[str, PartSpec]  # by the name of the engine group
    learner: PartSpec | None
    loss: PartSpec
    grader: PartSpec
