"""The Ray actors: thin shells around an engine, a learner and a grader. One process each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harmonyray.actors.broadcast import GroupSpec, WeightGroup, WeightStore, own_address
from harmonyray.engines.weights import TensorSpec, checksum, specs
from harmonyray.registry import PluginOptions, resolve
from harmonyray.types import AnswerGroup, Batch, ProblemRollouts, Prompt, Rollout, SampleRequest, Sampling, UpdateReport


@dataclass(frozen=True, slots=True)
class PartSpec:
    """How an actor builds its part: the plug-in's name and options, and the constructor's further arguments."""

    kind: str
    type: str
    options: PluginOptions
    arguments: dict[str, Any]

    def build(self) -> Any:
        return resolve(self.kind, self.type)(options=self.options, **self.arguments)


class EngineWorker:
    """One replica of a view group."""

    def __init__(self, spec: PartSpec) -> None:
        self.engine = spec.build()
        self.group: WeightGroup | None = None

    def pid(self) -> int:
        return os.getpid()

    def count_tokens(self, prompts: Sequence[Prompt]) -> list[int]:
        lengths: list[int] = self.engine.count_tokens(prompts)
        return lengths

    def sample(self, requests: Sequence[SampleRequest], sampling: Sampling, policy_version: int) -> list[tuple[Rollout, ...]]:
        rollouts: list[tuple[Rollout, ...]] = self.engine.sample(requests, sampling, policy_version)
        return rollouts

    def join(self, group: GroupSpec, rank: int) -> None:
        self.group = WeightGroup(group, rank)

    def receive(self, weight_specs: list[TensorSpec], bucket_bytes: int, policy_version: int) -> int:
        """Takes part in one broadcast, loads what arrived and acknowledges with the checksum of what it now holds."""
        assert self.group is not None, "join a broadcast group first"
        device = torch.device("cuda" if self.group.spec.backend == "nccl" else "cpu")
        held: int = self.engine.load_weights(self.group.receive(weight_specs, bucket_bytes, device), policy_version)
        return held


class LearnerWorker:
    """The learner; also rank 0 of every broadcast group."""

    def __init__(self, spec: PartSpec, loss: PartSpec, store_timeout_s: float) -> None:
        self.learner = PartSpec(spec.kind, spec.type, spec.options, {**spec.arguments, "loss": loss.build()}).build()
        self.store = WeightStore(own_address(), store_timeout_s)
        self.group: WeightGroup | None = None

    def address(self) -> tuple[str, int]:
        return self.store.host, self.store.port

    def policy_version(self) -> int:
        version: int = self.learner.policy_version
        return version

    def weight_specs(self) -> list[TensorSpec]:
        return specs(self.learner.weights())

    def join(self, group: GroupSpec) -> None:
        self.group = WeightGroup(group, 0, self.store)

    def send(self, weight_specs: list[TensorSpec], bucket_bytes: int) -> tuple[int, int]:
        """Broadcasts the weights; returns bytes per engine and the checksum that every engine must acknowledge."""
        assert self.group is not None, "join a broadcast group first"
        weights = self.learner.weights()
        if self.group.spec.backend == "gloo":
            weights = {name: tensor.cpu() for name, tensor in weights.items()}
        return self.group.send(weights, weight_specs, bucket_bytes), checksum(weights)

    def update(self, batch: Batch, step: int) -> UpdateReport:
        report: UpdateReport = self.learner.update(batch, step)
        return report

    def save(self, directory: Path) -> None:
        self.learner.save(directory)

    def save_model(self, directory: Path) -> None:
        self.learner.save_model(directory)

    def load(self, directory: Path) -> int:
        self.learner.load(directory)
        version: int = self.learner.policy_version
        return version


class GraderWorker:
    """The grader, away from the driver because model output is hostile."""

    def __init__(self, spec: PartSpec) -> None:
        self.grader = spec.build()

    def group(self, rollouts: Sequence[ProblemRollouts]) -> list[AnswerGroup]:
        groups: list[AnswerGroup] = self.grader.group(rollouts)
        return groups

    def equal(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        equal: list[bool] = self.grader.equal(pairs)
        return equal

    def close(self) -> None:
        self.grader.close()
