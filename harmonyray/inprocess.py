"""The whole system in one process, for `pdb` and small machines: one engine for each model, one learner, no ray."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from harmonyray.engines.weights import checksum
from harmonyray.errors import AlteredWeightsError
from harmonyray.protocols import UNTRAINED
from harmonyray.types import Batch, Prompt, Rollout, SampleRequest, Sampling, UpdateReport


class InProcessRuntime:
    """Has the interface of the actors' runtime. `engine` has the trained model, `others` those with models of their own, by
    view; `learner` is None where nothing is trained."""

    def __init__(self, engine: Any, learner: Any | None, others: Mapping[str, Any] = MappingProxyType({})) -> None:
        self.engine, self.others, self.learner = engine, others, learner

    @property
    def policy_version(self) -> int:
        return self.learner.policy_version if self.learner else self.engine.policy_version

    def count_tokens(self, prompts: Mapping[str, Sequence[Prompt]]) -> dict[str, list[int]]:
        return {view: self.others.get(view, self.engine).count_tokens(asked) for view, asked in prompts.items()}

    def sample(
        self, requests: Mapping[str, Sequence[SampleRequest]], sampling: Mapping[str, Sampling], policy_version: int
    ) -> dict[str, list[tuple[Rollout, ...]]]:
        out = {}
        for view, asked in requests.items():
            engine, version = (self.others[view], UNTRAINED) if view in self.others else (self.engine, policy_version)
            out[view] = engine.sample(asked, sampling[view], version)
        return out

    def update(self, batch: Batch, step: int) -> UpdateReport:
        assert self.learner is not None
        report: UpdateReport = self.learner.update(batch, step)
        return report

    def sync(self) -> dict[str, float]:
        """Copies the learner's weights into the engine. Raises AlteredWeightsError if the engine's checksum differs."""
        assert self.learner is not None
        start = time.perf_counter()
        weights = self.learner.weights()
        sent, held = checksum(weights), self.engine.load_weights(weights, self.learner.policy_version)
        if sent != held:
            raise AlteredWeightsError(f"weights altered on the way to the engine: checksum {held}, expected {sent}")
        return {"seconds": time.perf_counter() - start}

    def take_restarts(self) -> int:
        return 0

    def save(self, directory: Path) -> None:
        assert self.learner is not None
        self.learner.save(directory)

    def load(self, directory: Path) -> None:
        assert self.learner is not None
        self.learner.load(directory)

    def save_model(self, directory: Path) -> None:
        assert self.learner is not None
        self.learner.save_model(directory)

    def close(self) -> None:
        pass
