"""How a transformers engine takes part in weight broadcasts: it receives beside its model, then exchanges the tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from harmonyray.engines.roll_call import GroupSpec
from harmonyray.engines.turns import Turns
from harmonyray.engines.weight_group import Memory, WeightGroup
from harmonyray.engines.weights import TensorSpec, checksum, specs


class ReceivesWeights:
    """A part of `HfEngine`. On a CPU it holds the weights twice: those it computes with, and where the next ones arrive."""

    model: Any
    policy_version: int
    lock: Turns  # held by whoever computes with the weights
    num_weight_ranks: ClassVar[int] = 1
    weight_transports: ClassVar[tuple[str, ...]] = ("gloo", "nccl")

    _group: WeightGroup | None = None
    _memory: Memory | None = None  # what the present weights lie in, if they were received
    _spare: Memory | None = None

    def join_weights(self, group: GroupSpec, rank: int) -> None:
        """Joins a broadcast group, and leaves the one before. Raises WeightSyncError."""
        self._group = None
        self._group = WeightGroup(group, rank)

    def receive_weights(self, sent: Sequence[TensorSpec], bucket_bytes: int, policy_version: int) -> None:
        """Takes part in one broadcast of exactly the model's tensors.

        Other threads may generate meanwhile: only the exchange of the tensors holds `lock`, and a broadcast that fails changes
        nothing. Raises KeyError or ValueError for other tensors than the model has, WeightSyncError.
        """
        assert self._group is not None, "join a broadcast group first"
        own = dict(self.model.named_parameters())
        try:
            check_same(sent, specs(own))
        except (KeyError, ValueError) as e:
            self._group.refuse(e)
            raise
        ours = next(iter(own.values())).device
        device = ours if self._group.spec.backend == "nccl" else torch.device("cpu")
        memory = (self._spare if device.type == "cpu" else None) or Memory()
        received = self._group.receive(sent, bucket_bytes, device, memory)
        with self.lock:
            for name, tensor in received.weights.items():
                if device == ours:
                    own[name].data = tensor
                else:
                    own[name].data.copy_(tensor)
            self.policy_version = policy_version
        self._memory, self._spare = (memory, self._memory) if device == ours else (None, memory)

    def held_checksum(self) -> int:
        """The checksum of what the model holds, in the kind of memory that the learner sent from. Other threads may generate
        meanwhile, but no weights may come."""
        assert self._group is not None, "join a broadcast group first"
        weights = {name: p.data for name, p in self.model.named_parameters()}
        return checksum(weights if self._group.spec.backend == "nccl" else {name: t.cpu() for name, t in weights.items()})


def check_same(sent: Sequence[TensorSpec], own: Sequence[TensorSpec]) -> None:
    """Raises KeyError for names that only one side has, ValueError for another shape or dtype."""
    there, here = {s.name: s for s in sent}, {s.name: s for s in own}
    surplus, lacking = [n for n in there if n not in here], [n for n in here if n not in there]
    if surplus or lacking:
        which = f"does not have {surplus[0]!r}, which was" if surplus else f"has {lacking[0]!r}, which was not"
        raise KeyError(
            f"the engine's model {which} sent ({len(surplus)} tensors too many, {len(lacking)} too few): learner and engine need "
            "the same model"
        )
    for name, s in there.items():
        if s != here[name]:
            want = here[name]
            raise ValueError(f"tensor {name!r} is {s.dtype} {s.shape}, expected {want.dtype} {want.shape}: use one model.dtype")
