"""What the driver sends to its actors to set them up: plain data, no torch, so that the driver need not load it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harmonyray.registry import PluginOptions, resolve


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
class GroupSpec:
    """What a member needs to join a broadcast group: where the store is, the group's name, who belongs to it in order of
    rank (the learner first), backend and timeout."""

    host: str
    port: int
    name: str
    members: tuple[str, ...]
    backend: str
    timeout_s: float

    @property
    def world_size(self) -> int:
        return len(self.members)
