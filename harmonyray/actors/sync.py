"""The learner's weights to engine actors: who joins which broadcast group, and whether everybody holds what was sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harmonyray.actors.pool import ActorPool
from harmonyray.actors.replicas import Replica
from harmonyray.actors.specs import GroupSpec
from harmonyray.config import SyncConfig
from harmonyray.errors import AlteredWeightsError


class WeightSync:
    """Broadcasts from `learner` (an actor that has started, with `num_gpus`) to engine actors."""

    def __init__(self, pool: ActorPool, learner: Any, num_gpus: float, config: SyncConfig) -> None:
        self.pool, self.learner, self.num_gpus, self.config = pool, learner, num_gpus, config
        self.weight_specs = learner.weight_specs.remote()
        self.host, self.port = pool.get(learner.address.remote())
        self._group_number = 0
        self._joined: list[Any] = []  # the handles that are in the present group

    def forget(self) -> None:
        """The next broadcast makes a new group: the present one has lost a member or is out of step."""
        self._joined = []

    def broadcast(self, replicas: Sequence[Replica], policy_version: int) -> int:
        """Sends the weights to these engines; returns the bytes sent to each.

        Raises AlteredWeightsError if one acknowledges another policy version or checksum than what was sent.
        """
        engines = [r.handle for r in replicas]
        bucket_bytes = int(self.config.bucket_mb * 1024 * 1024)
        if self._joined != engines:
            self._group_number += 1
            members = ("learner", *(r.name for r in replicas))
            name, backend = f"weights-{self._group_number}", self._backend(replicas)
            spec = GroupSpec(self.host, self.port, name, members, backend, self.config.timeout_s)
            self.pool.get([self.learner.join.remote(spec)] + [e.join.remote(spec, i + 1) for i, e in enumerate(engines)])
            self._joined = engines
        acks = [e.receive.remote(self.weight_specs, bucket_bytes, policy_version) for e in engines]
        num_bytes, expected = self.pool.get(self.learner.send.remote(self.weight_specs, bucket_bytes))
        for replica, held in zip(replicas, self.pool.get(acks), strict=True):
            if held != expected:
                raise AlteredWeightsError(
                    f"{replica.name} acknowledged policy version {held[0]} with checksum {held[1]}, the learner sent "
                    f"version {expected[0]} with checksum {expected[1]}: the engine does not hold the broadcast weights"
                )
        return int(num_bytes)

    def _backend(self, replicas: Sequence[Replica]) -> str:
        if self.config.backend != "auto":
            return self.config.backend
        # NCCL refuses two members on one GPU, which a share of one may mean.
        return "nccl" if min(self.num_gpus, *(r.num_gpus for r in replicas)) >= 1 else "gloo"
