"""The whole system in one process, for `pdb` and small machines: one engine for each model, one learner, no ray."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from harmonyray.algos.batching import fill_batch
from harmonyray.config_sections import RolloutConfig
from harmonyray.engines.weights import checksum
from harmonyray.errors import AlteredWeightsError, RunError
from harmonyray.protocols import UNTRAINED, Ask, Seeds, View
from harmonyray.rollouts import Place, Tally, keep, prompt_lengths, serve
from harmonyray.types import FailedAttempt, Failure, FloatArray, GroupRows, Problem, ProblemRollouts, UpdateReport

CLOSE_S = 5.0  # longest wait for a thread that samples


class InProcessRuntime:
    """Has the interface of the actors' runtime. `engine` has the trained model, `others` those with models of their own, by
    view; `learner` is None where nothing is trained."""

    def __init__(
        self, engine: Any, learner: Any | None, rollout: RolloutConfig, others: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        self.engine, self.others, self.learner, self.rollout = engine, others, learner, rollout
        self._closed = False
        self._idle = threading.Event()  # whether no call of `sample` is under way
        self._idle.set()

    @property
    def policy_version(self) -> int:
        return self.learner.policy_version if self.learner else self.engine.policy_version

    @property
    def engine_version(self) -> int:
        version: int = self.engine.policy_version
        return version

    def count_tokens(self, views: Sequence[View], problems: Sequence[Problem]) -> dict[str, list[int]]:
        return {view.name: prompt_lengths(self.others.get(view.name, self.engine), view, problems) for view in views}

    def sample(
        self, asks: Sequence[Ask], problems: Sequence[Problem], policy_version: int | None, seed_parts: Seeds
    ) -> Iterator[ProblemRollouts | FailedAttempt]:
        self._idle.clear()
        try:
            yield from self._sample(Tally(asks, problems, seed_parts, self.rollout.max_attempts), policy_version)
        finally:
            self._idle.set()

    def _sample(self, tally: Tally, policy_version: int | None) -> Iterator[ProblemRollouts | FailedAttempt]:
        places = tally.places()
        while places:
            self._check_open()
            again: list[Place] = []
            for engine in dict.fromkeys([self.engine, *self.others.values()]):
                own = [place for place in places if self.others.get(tally.asks[place[0]].view.name, self.engine) is engine]
                version = policy_version if engine is self.engine else UNTRAINED
                wants = [tally.want(place) for place in own]
                for w, group in serve(engine, wants, version, self.rollout.request_timeout_s) if wants else ():
                    self._check_open()
                    if isinstance(group, Failure):
                        failed = tally.fail(own[w], group.reason)
                        again += [] if failed.last else [own[w]]
                        yield failed
                    elif whole := tally.put(own[w], keep(group)):
                        yield whole
            places = [place for place in again if not tally.left_out(place)]

    def _check_open(self) -> None:
        if self._closed:
            raise RunError("the run has ended")

    def prepare(self, asks: Sequence[Ask], problems: Sequence[Problem]) -> None:
        """Nothing: here nobody has time to spare."""

    def score(self, plan: Sequence[GroupRows], statistics: Sequence[str]) -> Mapping[str, FloatArray]:
        assert self.learner is not None
        scored: Mapping[str, FloatArray] = self.learner.score(fill_batch(plan), statistics)
        return scored

    def update(self, plan: Sequence[GroupRows], step: int) -> UpdateReport:
        assert self.learner is not None
        report: UpdateReport = self.learner.update(fill_batch(plan), step)
        return report

    def sync(self, given: Callable[[Mapping[str, float]], object] | None = None) -> Mapping[str, float]:
        """Copies the learner's weights into the engine. Raises AlteredWeightsError if the engine's checksum differs."""
        assert self.learner is not None
        start = time.perf_counter()
        weights = self.learner.weights()
        sent, held = checksum(weights), self.engine.load_weights(weights, self.learner.policy_version)
        if sent != held:
            raise AlteredWeightsError(f"weights altered on the way to the engine: checksum {held}, expected {sent}")
        metrics = {"seconds": time.perf_counter() - start}
        if given is not None:
            given(metrics)
        return metrics

    def take_restarts(self) -> int:
        return 0

    def save(self, directory: Path) -> None:
        assert self.learner is not None
        self.learner.save(directory)

    def load(self, directory: Path) -> None:
        assert self.learner is not None
        self.learner.load(directory)

    def scale_rate(self, scale: float) -> None:
        assert self.learner is not None
        self.learner.scale_rate(scale)

    def save_model(self, directory: Path) -> None:
        assert self.learner is not None
        self.learner.save_model(directory)

    def close(self) -> None:
        """Ends the engines that have anything to end. Whoever samples in another thread gets an error before, if its batch ends
        within CLOSE_S."""
        self._closed = True
        self._idle.wait(CLOSE_S)
        for engine in (self.engine, *self.others.values()):
            end = getattr(engine, "close", None)
            if end is not None:
                end()
