"""Weight transfer inside vLLM's workers, through vLLM's own interface (`vllm.distributed.weight_transfer`).

Only vLLM's processes import this module: it is the one that `worker_extension_cls` names, so importing it registers `Transfer`
in each of them. Every worker process is a rank of the broadcast group, from the engine's `rank_offset` on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from vllm.distributed.weight_transfer.base import WeightTransferEngine, WeightTransferInitInfo, WeightTransferUpdateInfo
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

from harmonyray.engines.roll_call import GroupSpec
from harmonyray.engines.vllm_weights import CheckedLoad, WeightsExtension
from harmonyray.engines.weight_group import Received, WeightGroup
from harmonyray.engines.weights import TensorSpec, combine
from harmonyray.errors import WeightSyncError

BACKEND = "harmonyray"

Report = tuple[int, list[str]]
"""The checksum of what a worker received and loaded, and the names that could not be read back from its layers."""


@dataclass
class GlooInitInfo(WeightTransferInitInfo):
    """`group`: the fields of a GroupSpec."""

    group: dict[str, Any]
    rank_offset: int


@dataclass
class GlooUpdateInfo(WeightTransferUpdateInfo):
    names: list[str]
    dtype_names: list[str]
    shapes: list[list[int]]
    bucket_bytes: int

    def specs(self) -> list[TensorSpec]:
        columns = zip(self.names, self.shapes, self.dtype_names, strict=True)
        return [TensorSpec(name, tuple(shape), getattr(torch, dtype)) for name, shape, dtype in columns]


class GlooTransfer(WeightTransferEngine[GlooInitInfo, GlooUpdateInfo]):
    """Receives through `WeightGroup` into memory beside the model; only `finish_weight_update` touches the model."""

    init_info_cls = GlooInitInfo
    update_info_cls = GlooUpdateInfo
    group: WeightGroup | None = None
    received: Received | None = None
    report: Report | None = None

    def init_transfer_engine(self, init_info: GlooInitInfo) -> None:
        self.group = None
        spec = GroupSpec(**init_info.group)
        self.group = WeightGroup(spec, init_info.rank_offset + worker_number(self.parallel_config))

    def start_weight_update(self) -> None:
        self.received = self.report = None

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self.receive_weights(self.parse_update_info(update_info))  # vLLM's own would synchronise an accelerator

    def receive_weights(self, update_info: GlooUpdateInfo) -> None:
        assert self.group is not None, "join a broadcast group first"
        self.received = self.group.receive(update_info.specs(), update_info.bucket_bytes, torch.device("cpu"), digests=True)

    def finish_weight_update(self) -> None:
        """Loads what was received. Raises WeightSyncError if a check of `CheckedLoad` fails."""
        assert self.received is not None
        received, self.received = self.received, None
        with torch.no_grad():
            load = CheckedLoad(self.model, self.model_config, self.parallel_config.world_size)
            load.begin()
            load.load(received.weights.items(), received.digests)
            unread = load.finish()
        specs = [TensorSpec(name, sent.shape, sent.dtype) for name, sent in load.sent.items()]
        self.report = combine((s, load.sent[s.name].digest) for s in specs), unread

    def refuse(self, why: str) -> None:
        """Tells the group that this engine takes part in no broadcast."""
        assert self.group is not None, "join a broadcast group first"
        self.group.refuse(WeightSyncError(why))

    @property
    def complete(self) -> bool:
        return self.received is not None

    def shutdown(self) -> None:
        self.group = None


def transport(name: str) -> Any:
    """The class that receives by one of the transports that `VllmReceivesWeights` offers."""
    if name == "gloo":
        return GlooTransfer
    from harmonyray.engines.vllm_gpu_workers import IpcTransfer, NcclTransfer

    return {"vllm_nccl": NcclTransfer, "ipc": IpcTransfer}[name]


class Transfer(WeightTransferEngine[Any, Any]):
    """The one backend that harmonyray's engines are started with: the transport is chosen anew whenever a group is joined.

    A WeightSyncError is kept for `weights_failure` instead of raised: from the first worker that raises vLLM takes no further
    answers, and would take those of the others for answers to the next call.
    """

    supports_draft_weight_update = False
    inner: Any = None
    failure: str | None = None

    def parse_init_info(self, init_dict: dict[str, Any]) -> Any:
        """`init_dict`: `transport`, and what that transport's own init info holds."""
        self.shutdown()
        fields = {k: v for k, v in init_dict.items() if k != "transport"}
        self.inner = transport(init_dict["transport"])(self.config, self.vllm_config, self.device, self.model)
        return self.inner.parse_init_info(fields)

    def init_transfer_engine(self, init_info: Any) -> None:
        with self._keeping_failure():
            self.inner.init_transfer_engine(init_info)

    def start_weight_update(self) -> None:
        self.inner.start_weight_update()

    def update_weights(self, update_info: dict[str, Any]) -> None:
        with self._keeping_failure():
            self.inner.update_weights(update_info)

    def receive_weights(self, update_info: Any) -> None:
        self.inner.receive_weights(update_info)

    def finish_weight_update(self) -> None:
        """Ends an update; one of which nothing came is only forgotten."""
        if self.inner.complete:
            with self._keeping_failure():
                self.inner.finish_weight_update()

    def shutdown(self) -> None:
        self.failure = None
        if self.inner is not None:
            self.inner.shutdown()
            self.inner = None

    @contextmanager
    def _keeping_failure(self) -> Iterator[None]:
        try:
            yield
        except WeightSyncError as e:
            self.failure = str(e)


class TransferExtension(WeightsExtension):
    """What the engine asks of its workers beside vLLM's own four methods."""

    weight_transfer_engine: Any

    def weights_failure(self) -> str | None:
        """The failure that no call has told of yet."""
        transfer = self.weight_transfer_engine
        failure, transfer.failure = transfer.failure, None
        return failure

    def weights_report(self) -> Report:
        """What the last update was: see `Report`."""
        report: Report = self.weight_transfer_engine.inner.report
        return report

    def refuse_weights(self, why: str) -> None:
        self.weight_transfer_engine.inner.refuse(why)


def worker_number(parallel_config: Any) -> int:
    """This worker's place among those of its engine."""
    return int(parallel_config.data_parallel_index * parallel_config.world_size + parallel_config.rank)


if BACKEND not in WeightTransferEngineFactory._registry:  # this module may be imported under a test's own process, too
    WeightTransferEngineFactory.register_engine(BACKEND, Transfer)
