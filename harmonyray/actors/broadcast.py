"""The learner's weights to every engine through a torch.distributed process group: gloo on CPU, NCCL on GPUs.

Rank 0 is the learner and hosts the store; engines are ranks 1..W-1. A group that lost a member is never repaired: everybody
joins a new one under another name. Tensors travel packed into buckets.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from harmonyray.actors.specs import GroupSpec
from harmonyray.engines.weights import TensorSpec, pack, plan_buckets, unpack
from harmonyray.errors import WeightSyncError


class WeightStore:
    """The rendezvous store of all broadcast groups of a run, hosted by the learner."""

    def __init__(self, host: str, timeout_s: float) -> None:
        self.host = host
        self.store = dist.TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=timeout_s))

    @property
    def port(self) -> int:
        return int(self.store.port)


class WeightGroup:
    """One member's end of a broadcast group."""

    def __init__(self, spec: GroupSpec, rank: int, store: WeightStore | None = None) -> None:
        """Blocks until every member has joined. Raises WeightSyncError when they do not within the timeout."""
        self.spec, self.rank = spec, rank
        timeout = timedelta(seconds=spec.timeout_s)
        here: Any = None
        try:
            root = (
                store.store
                if store
                else dist.TCPStore(spec.host, spec.port, is_master=False, wait_for_workers=False, timeout=timeout)
            )
            here = dist.PrefixStore(spec.name, root)
            here.set(f"member-{rank}", "joined")
            self.group: Any = _process_group(here, rank, spec, timeout)
        except (RuntimeError, dist.DistError) as e:
            raise WeightSyncError(
                f"rank {rank} ({spec.members[rank]}) could not join broadcast group {spec.name!r} of {spec.world_size} "
                f"within {spec.timeout_s:g} s: {_missing(spec, here)} ({str(e).splitlines()[0]})"
            ) from e

    def send(self, weights: Mapping[str, torch.Tensor], specs: list[TensorSpec], bucket_bytes: int) -> int:
        """Broadcasts the weights from rank 0; returns the bytes sent to each engine."""
        total = 0
        for i, bucket in enumerate(plan_buckets(specs, bucket_bytes)):
            flat = pack(bucket, weights)
            self._broadcast(flat, i, bucket)
            total += len(flat)
        return total

    def receive(self, specs: list[TensorSpec], bucket_bytes: int, device: torch.device) -> dict[str, torch.Tensor]:
        """The broadcast weights by name, on `device`."""
        weights: dict[str, torch.Tensor] = {}
        for i, bucket in enumerate(plan_buckets(specs, bucket_bytes)):
            flat = torch.empty(sum(s.num_bytes for s in bucket), dtype=torch.uint8, device=device)
            self._broadcast(flat, i, bucket)
            weights.update(unpack(bucket, flat))
        return weights

    def _broadcast(self, flat: torch.Tensor, index: int, bucket: list[TensorSpec]) -> None:
        options = dist.BroadcastOptions()
        options.rootRank = 0
        try:
            self.group.broadcast([flat], options).wait(timedelta(seconds=self.spec.timeout_s))
        except (RuntimeError, dist.DistError) as e:
            raise WeightSyncError(
                f"broadcast group {self.spec.name!r}, rank {self.rank} ({self.spec.members[self.rank]}): bucket {index} "
                f"(from tensor {bucket[0].name!r}, {len(flat)} bytes) "
                f"did not arrive within {self.spec.timeout_s:g} s: {str(e).splitlines()[0]}"
            ) from e


def _process_group(store: Any, rank: int, spec: GroupSpec, timeout: timedelta) -> Any:
    if spec.backend == "nccl":
        options = dist.ProcessGroupNCCL.Options()
        options._timeout = timeout
        return dist.ProcessGroupNCCL(store, rank, spec.world_size, options)
    return dist.ProcessGroupGloo(store, rank, spec.world_size, timeout)


def _missing(spec: GroupSpec, store: Any) -> str:
    """Who has not announced itself in the group's store."""
    try:
        absent = [f"rank {i} ({name})" for i, name in enumerate(spec.members) if not store.check([f"member-{i}"])]
    except (AttributeError, RuntimeError, dist.DistError):
        return f"the learner's store at {spec.host}:{spec.port} does not answer"
    return f"{', '.join(absent)} did not join" if absent else "every rank announced itself, but they could not connect"


def own_address() -> str:
    """An address of this machine that other nodes reach (the one Ray announced, where there is one)."""
    import ray.util

    address: str = ray.util.get_node_ip_address()
    socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
    return address
