"""The learner's end of weight broadcasts: the store that every group meets at, and a sender for each transport."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from datetime import timedelta

import torch
import torch.distributed as dist

from harmonyray.engines.roll_call import GroupSpec
from harmonyray.engines.vllm_gpu import VllmSender
from harmonyray.engines.weight_group import WeightGroup
from harmonyray.engines.weights import TensorSpec, checksum
from harmonyray.learners.ranks import Rank


class WeightStore:
    """The rendezvous store of all broadcast groups of a run, hosted by the learner."""

    def __init__(self, host: str, timeout_s: float) -> None:
        self.host = host
        self.store = dist.TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=timeout_s))

    @property
    def port(self) -> int:
        return int(self.store.port)


def own_address() -> str:
    """An address of this machine that other nodes reach (the one Ray announced, where there is one)."""
    import ray.util

    address: str = ray.util.get_node_ip_address()
    socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
    return address


def rank_at(number: int, meeting: tuple[str, int], timeout_s: float) -> Rank:
    """A rank of the learner that meets the others at this address, where rank 0 has opened a store."""
    host, port = meeting
    return Rank(number, dist.TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=timeout_s)))


class TorchSender:
    """Rank 0 of a group of `WeightGroup`s: gloo, or NCCL with transformers engines."""

    def __init__(self, spec: GroupSpec, store: WeightStore) -> None:
        self.group = WeightGroup(spec, 0, store.store)

    def send(self, weights: Mapping[str, torch.Tensor], specs: Sequence[TensorSpec], bucket_bytes: int) -> int:
        """See `WeightGroup.send`."""
        if self.group.spec.backend == "gloo":
            weights = {name: tensor.cpu() for name, tensor in weights.items()}
        self._sent = {s.name: weights[s.name] for s in specs}
        return self.group.send(weights, specs, bucket_bytes)

    def sent_checksum(self) -> int:
        """The checksum of what was sent last, as long as the learner has not learned since; lets go of it. Once a broadcast."""
        sent, self._sent = self._sent, {}
        return checksum(sent)


def sender(spec: GroupSpec, store: WeightStore) -> TorchSender | VllmSender:
    """The learner's end of a group. Blocks until every engine has joined (through vLLM: the first `send` does); raises
    WeightSyncError if one does not."""
    return VllmSender(spec, store.store) if spec.backend in ("vllm_nccl", "ipc") else TorchSender(spec, store)
