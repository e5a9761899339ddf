"""An engine that makes rollouts up and a learner that only takes them in: the orchestration without the models.

Plug-ins for benchmarks, e.g. `rollout.engine.type=synthetic:SyntheticEngine` with this folder on PYTHONPATH.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import PositiveInt

from harmonyray.engines.receiving import LoadsWeights
from harmonyray.engines.weights import checksum
from harmonyray.registry import PluginOptions
from harmonyray.types import Batch, Failure, Prompt, Rollout, SampleRequest, UpdateReport

WORDS = ["so", "then", "we", "add", "the", "two", "and", "get"]


def tiny_weights() -> dict[str, torch.Tensor]:
    return {"weight": torch.zeros(4)}


class SyntheticEngine(LoadsWeights):
    """Every response has `response_tokens` tokens, three sections of together about as many words, and one of three answers."""

    class Options(PluginOptions):
        response_tokens: PositiveInt = 64

    def __init__(self, options: Options, model: str, dtype: str, max_tokens: int | None) -> None:
        self.options = options
        self.policy_version = 0
        self.held = tiny_weights()

    def count_tokens(self, prompts: Sequence[Prompt]) -> list[int]:
        return [8] * len(prompts)

    def stream(
        self, requests: list[SampleRequest], policy_version: int | None, timeout_s: float | None = None
    ) -> Iterator[tuple[int, tuple[Rollout, ...] | Failure]]:
        for i, request in enumerate(requests):
            yield i, tuple(self._rollout(request.prompt, seed) for seed in request.seeds)

    def load_weights(self, weights: Mapping[str, torch.Tensor], policy_version: int) -> int:
        self.held, self.policy_version = dict(weights), policy_version
        return checksum(self.held)

    def _rollout(self, prompt: Prompt, seed: int) -> Rollout:
        length = self.options.response_tokens
        draw = random.Random(seed)
        words, answer = " ".join(draw.choices(WORDS, k=length // 3)), draw.choices((1, 2, 3), (6, 2, 1))[0]
        text = f"STRATEGY: {words}\nREWRITTEN PROBLEM: {words}\nSOLUTION: {words} \\boxed{{{answer}}}"
        tokens = np.full(length, seed % 30, dtype=np.int64)
        logprobs = np.full(length, -1.0, dtype=np.float32)
        return Rollout(prompt, np.arange(8), tokens, logprobs, text, "stop", self.policy_version)


class SyntheticLearner:
    """Counts what it is given."""

    class Options(PluginOptions):
        pass

    def __init__(self, options: Options, loss: Any, objective: Any, model: str, dtype: str, steps: int, seed: int) -> None:
        self.policy_version = 0

    def update(self, batch: Batch, step: int) -> UpdateReport:
        self.policy_version += 1
        return UpdateReport(self.policy_version, {"num_rows": float(batch.num_rows), "tokens": float(batch.lengths.sum())})

    def weights(self) -> dict[str, torch.Tensor]:
        return tiny_weights()

    def save(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "policy_version").write_text(str(self.policy_version))

    def load(self, directory: Path) -> None:
        raise NotImplementedError

    def save_model(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
