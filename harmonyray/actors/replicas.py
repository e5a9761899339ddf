"""An engine actor and the seat it sits in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harmonyray.actors.placement import EngineGroup


@dataclass(slots=True)
class Replica:
    """An engine actor, the seat it sits in, and its answer to `start` (None: not asked yet)."""

    name: str
    group: EngineGroup
    bundle: int
    num_gpus: float
    handle: Any
    started: Any
    dead: bool = False
    version: int | None = None  # the policy version that it has acknowledged
    behind: bool = False  # started again, and still without the learner's weights

    @property
    def trained(self) -> bool:
        return self.group.model is None
