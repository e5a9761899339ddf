"""The driver's end of the grader actor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

import ray

from harmonyray.actors.kept import Stored
from harmonyray.actors.placement import Seat
from harmonyray.actors.pool import DEATHS, ActorPool
from harmonyray.actors.specs import PartSpec
from harmonyray.actors.workers import GraderWorker
from harmonyray.types import AnswerGroup, ProblemRollouts


@dataclass(slots=True)
class _Call:
    """Problems that an actor was asked about in one call, and what it returns: answers, and of each problem the texts."""

    handle: Any
    items: list[ProblemRollouts]
    answers: Any
    texts: list[Any]


class RayGrader:
    """A `protocols.Grader`. The actor holds no state, so a dead one is replaced and asked again."""

    def __init__(self, pool: ActorPool, bundle: int, seat: Seat, spec: PartSpec) -> None:
        self._pool, self._seat = pool, (GraderWorker, bundle, seat.num_gpus, spec)
        self.handle = pool.start(*self._seat)
        self.started = self.handle.start.remote()
        self._turn = Lock()

    def group(self, rollouts: Iterable[ProblemRollouts]) -> list[AnswerGroup]:
        """While the actor works on some problems, those that arrive are gathered for its next call."""
        calls: list[_Call] = []
        waiting: list[ProblemRollouts] = []
        for item in rollouts:
            waiting.append(item)
            if not calls or ray.wait([calls[-1].answers], timeout=0)[0]:
                calls.append(self._ask(waiting))
                waiting = []
        if waiting:
            calls.append(self._ask(waiting))
        return [group for call in calls for group in self._answers(call)]

    def equal(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        while True:
            handle = self.handle
            try:
                equal: list[bool] = self._pool.get(handle.equal.remote(list(pairs)), name="the grader")
                return equal
            except DEATHS:
                self._replace(handle)

    def _ask(self, items: list[ProblemRollouts]) -> _Call:
        handle = self.handle
        answers, *texts = handle.group.options(num_returns=1 + len(items)).remote(items)
        return _Call(handle, items, answers, texts)

    def _answers(self, call: _Call) -> list[AnswerGroup]:
        while True:
            try:
                groups: list[AnswerGroup] = self._pool.get(call.answers, name="the grader")
            except DEATHS:
                self._replace(call.handle)
                call = self._ask(call.items)
            else:
                return [replace(group, texts=Stored(ref)) for group, ref in zip(groups, call.texts, strict=True)]

    def _replace(self, dead: Any) -> None:
        """A new actor in the dead one's seat, once it is built, unless it has one already; calls that were made to the dead one
        have to be made again."""
        with self._turn:
            while self.handle is dead:
                self.handle = self._pool.replace("the grader", dead, *self._seat)
                try:
                    self._pool.get(self.handle.start.remote(), name="the grader")
                except DEATHS:
                    dead = self.handle
