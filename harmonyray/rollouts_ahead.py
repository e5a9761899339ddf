"""A step's rollouts, sampled when they are asked for, or ahead: while the step before is learned from."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor, Future, wait
from typing import Any

from harmonyray.clock import Clock
from harmonyray.collect import collect
from harmonyray.parts import Parts
from harmonyray.types import Collected


class Rollouts:
    """Samples one step ahead at most, in other threads: one sends the weights, the other waits for that and samples."""

    def __init__(self, p: Parts, threads: Executor) -> None:
        self._p, self._threads = p, threads
        self._ahead: Future[Collected] | None = None
        self._syncing: Future[Mapping[str, float]] | None = None

    @property
    def begun(self) -> bool:
        """Whether the next step's are being sampled."""
        return self._ahead is not None

    def begin(self, step: int) -> None:
        """Does not wait. The engines get the learner's weights first; `synced` says when they have changed hands. The rollouts
        are of that policy version, or of whichever the engines come to hold where that may change."""
        self._syncing = self._threads.submit(self._p.runtime.sync)
        self._ahead = self._threads.submit(self._collect_after, self._syncing, step)

    def synced(self) -> Mapping[str, float]:
        """Waits until the engines hold the learner's weights, which may change from then on. What the broadcast took, nothing if
        none was begun. Raises what it raised."""
        syncing, self._syncing = self._syncing, None
        return {} if syncing is None else syncing.result()

    def take(self, step: int, clock: Clock) -> Collected:
        """The step's rollouts and their answers. The seconds are counted as sampling, those of grading alone apart."""
        ahead, self._ahead = self._ahead, None
        with clock("generate"):
            got = self._collect(step, self._p.runtime.engine_version) if ahead is None else ahead.result()
        clock.move("generate", "grade", got.grade_s if ahead is None else 0.0)
        return got

    def settle(self) -> None:
        """Waits until nothing is sampled, whatever comes of it."""
        wait([] if self._ahead is None else [self._ahead])

    def _collect_after(self, syncing: Future[Any], step: int) -> Collected:
        syncing.result()
        return self._collect(step, None if self._p.syncs_in_flight else self._p.runtime.engine_version)

    def _collect(self, step: int, version: int | None) -> Collected:
        p = self._p
        return collect(p.runtime, p.grader, p.asks, p.schedule.draw(step), version, (p.seed, "train", step))
