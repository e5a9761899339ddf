"""vLLM's own NCCL and CUDA IPC engines, inside its workers, with the checks and the announcements of harmonyray's broadcasts.

Written from the source of vLLM 0.32 and never run (they need a GPU). Only vLLM's processes import this module.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from vllm.distributed.weight_transfer.ipc_engine import IPCWeightTransferEngine
from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferEngine, NCCLWeightTransferInitInfo

from harmonyray.engines.roll_call import GroupSpec, RollCall
from harmonyray.engines.vllm_gpu import open_roll
from harmonyray.engines.vllm_weights import CheckedLoad
from harmonyray.engines.weights import TensorSpec, combine
from harmonyray.errors import WeightSyncError


@dataclass(kw_only=True)
class NcclInitInfo(NCCLWeightTransferInitInfo):
    """`group`: the fields of a GroupSpec."""

    group: dict[str, Any] = field(default_factory=dict)


class Watched:
    """Stands in for the model while vLLM's engine receives: every part that it loads goes through the checks."""

    def __init__(self, load: CheckedLoad, roll: RollCall | None) -> None:
        self.load, self.roll, self.num_parts = load, roll, 0

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        self.load.load(weights)
        self.num_parts += 1
        if self.roll is not None:
            self.roll.took(self.num_parts, last=False)


class _Checked:
    """What both engines do otherwise than vLLM's. Mixed in before them."""

    model: Any
    model_config: Any
    parallel_config: Any
    load: CheckedLoad | None = None
    watched: Watched | None = None
    roll: RollCall | None = None
    report: tuple[int, list[str]] | None = None
    complete = True  # an update that broke off leaves layers without weights: finishing it finds them

    def start_weight_update(self) -> None:
        if self.roll is not None:
            self.roll.begin()
        self.load = CheckedLoad(self.model, self.model_config, self.parallel_config.world_size)
        self.watched = Watched(self.load, self.roll)
        self.load.begin()

    def receive_weights(self, update_info: Any) -> None:
        model, self.model = self.model, self.watched
        try:
            super().receive_weights(update_info)  # type: ignore[misc]
        finally:
            self.model = model

    def finish_weight_update(self) -> None:
        """Raises WeightSyncError if a check of `CheckedLoad` fails."""
        assert self.load is not None, "no update was started"
        load, self.load, self.watched = self.load, None, None
        with torch.no_grad():
            unread = load.finish()
        specs = [TensorSpec(name, sent.shape, sent.dtype) for name, sent in load.sent.items()]
        self.report = combine((s, load.sent[s.name].digest) for s in specs), unread

    def refuse(self, why: str) -> None:
        """Tells the group that this engine takes part in no broadcast."""
        if self.roll is not None:
            self.roll.begin()
            self.roll.give_up(why)


class NcclTransfer(_Checked, NCCLWeightTransferEngine):
    init_info_cls = NcclInitInfo

    def init_transfer_engine(self, init_info: Any) -> None:
        from harmonyray.engines.vllm_transfer import worker_number

        spec = GroupSpec(**init_info.group)
        self.roll = open_roll(spec, init_info.rank_offset + worker_number(self.parallel_config))
        super().init_transfer_engine(init_info)

    def receive_weights(self, update_info: Any) -> None:
        """Raises WeightSyncError, after telling the group, if NCCL fails."""
        assert self.roll is not None
        assert self.watched is not None
        try:
            super().receive_weights(update_info)
            torch.accelerator.synchronize()
        except RuntimeError as e:
            self.roll.give_up(str(e))
            raise WeightSyncError(f"{self.roll.spec.who(self.roll.rank)}: {e}") from e
        self.roll.took(self.watched.num_parts, last=True)


class IpcTransfer(_Checked, IPCWeightTransferEngine):
    """The engine's process announces what was taken: it has the payloads."""

    def finish_weight_update(self) -> None:
        super().finish_weight_update()
        self._packed_importer.close()
