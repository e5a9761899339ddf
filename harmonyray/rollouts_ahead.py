"""A step's rollouts, sampled when they are asked for, or ahead: while the step before is learned from."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor, Future, wait

from harmonyray.clock import Clock
from harmonyray.collect import collect
from harmonyray.parts import Parts
from harmonyray.types import Collected


class Rollouts:
    """Samples one step ahead at most, in another thread, which sends the weights first."""

    def __init__(self, p: Parts, threads: Executor) -> None:
        self._p, self._threads = p, threads
        self._ahead: Future[Collected] | None = None
        self._given: Future[Mapping[str, float]] | None = None

    @property
    def begun(self) -> bool:
        """Whether the next step's are being sampled."""
        return self._ahead is not None

    def begin(self, step: int) -> None:
        """Does not wait. The engines get the learner's weights first; `synced` says when it has given them. The rollouts are of
        that policy version, or of whichever the engines come to hold where that may change."""
        self._given = Future()
        self._ahead = self._threads.submit(self._sync_and_collect, step, self._given)

    def synced(self) -> Mapping[str, float]:
        """Waits until the learner has given its weights to the engines, and may learn on. What the broadcast took, nothing if
        none was begun. Raises what it raised."""
        given, self._given = self._given, None
        return {} if given is None else given.result()

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

    def _sync_and_collect(self, step: int, given: Future[Mapping[str, float]]) -> Collected:
        try:
            self._p.runtime.sync(given.set_result)
        except BaseException as e:
            if not given.done():
                given.set_exception(e)
            raise
        return self._collect(step, None if self._p.syncs_in_flight else self._p.runtime.engine_version)

    def _collect(self, step: int, version: int | None) -> Collected:
        p = self._p
        return collect(p.runtime, p.grader, p.asks, p.schedule.draw(step), version, (p.seed, "train", step))
