"""The processes that share an update: where each stands, how they meet, and how one knows that it has lost the others."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import torch.distributed as dist

from harmonyray.engines.loading import device


@dataclass(frozen=True, slots=True)
class Rank:
    """A process among the ranks, and the store that they meet at; one that is alone needs none."""

    number: int = 0
    store: dist.Store | None = None


ALONE = Rank()


def meet(rank: Rank, num_ranks: int, timeout_s: float) -> None:
    """Joins the group of all ranks, once in a process. One that waits for the others longer than `timeout_s`, now or in any
    later exchange, gets an error."""
    if not dist.is_initialized():
        backend = "nccl" if device().type == "cuda" else "gloo"
        store = dist.HashStore() if rank.store is None else rank.store
        timeout = timedelta(seconds=timeout_s)
        dist.init_process_group(backend, rank=rank.number, world_size=num_ranks, timeout=timeout, store=store)
    assert (dist.get_rank(), dist.get_world_size()) == (rank.number, num_ranks), "a process has one rank"


def has_lost_others(error: BaseException) -> bool:
    """Whether an error means that another rank is gone, or did not come in time. (gloo's are plain RuntimeErrors, which name the
    source file that raised them.)"""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))
