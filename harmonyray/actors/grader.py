"""The driver's end of the grader actor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harmonyray.actors.placement import Seat
from harmonyray.actors.pool import DEATHS, ActorPool
from harmonyray.actors.specs import PartSpec
from harmonyray.actors.workers import GraderWorker
from harmonyray.types import AnswerGroup, ProblemRollouts


class RayGrader:
    """A `protocols.Grader`. The actor holds no state, so a dead one is replaced and asked again."""

    def __init__(self, pool: ActorPool, bundle: int, seat: Seat, spec: PartSpec) -> None:
        self._pool, self._seat = pool, (GraderWorker, bundle, seat.num_gpus, spec)
        self.handle = pool.start(*self._seat)
        self.started = self.handle.start.remote()

    def group(self, rollouts: Sequence[ProblemRollouts]) -> list[AnswerGroup]:
        groups: list[AnswerGroup] = self._call("group", list(rollouts))
        return groups

    def equal(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        equal: list[bool] = self._call("equal", list(pairs))
        return equal

    def _call(self, method: str, argument: Any) -> Any:
        while True:
            try:
                self._pool.get(self.started)
                return self._pool.get(getattr(self.handle, method).remote(argument))
            except DEATHS:
                self.handle = self._pool.replace("the grader", self.handle, *self._seat)
                self.started = self.handle.start.remote()
