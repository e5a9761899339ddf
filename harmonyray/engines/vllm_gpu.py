"""GPU transports of vLLM's own weight transfer, both ends: NCCL with packed buffers, and CUDA IPC on one GPU.

Written from the source of vLLM 0.32 and never run: what is tested (on a CPU) are the names of arguments, the ranks, how the
packed buffers are cut, and how payloads for CUDA IPC get from the learner to the engine. The checks of a load are those of gloo.
vLLM is imported by the functions and classes here when they are needed, also in the learner's process.
"""

from __future__ import annotations

import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from harmonyray.engines.roll_call import POLL_S, GroupSpec, RollCall
from harmonyray.engines.weight_group import missing, not_taken, said
from harmonyray.engines.weights import Bucket, TensorSpec, checksum
from harmonyray.errors import WeightSyncError

END = b"end"  # in place of a payload: there are no more


def open_roll(spec: GroupSpec, rank: int, store: Any = None) -> RollCall:
    """This rank's place in the group's store, announced. `store`: the learner's. Raises WeightSyncError if it does not answer."""
    try:
        timeout = timedelta(seconds=spec.timeout_s)
        root = store or dist.TCPStore(spec.host, spec.port, is_master=False, wait_for_workers=False, timeout=timeout)
        roll = RollCall(spec, rank, dist.PrefixStore(spec.name, root))
        roll.announce()
    except RuntimeError as e:
        raise WeightSyncError(f"{spec.who(rank)} could not join: {missing(spec, None)} ({said(e)})") from e
    return roll


def packed_plan(specs: Sequence[TensorSpec], buffer_bytes: int) -> list[Bucket]:
    """How vLLM cuts tensors into packed buffers for NCCL: one is full once it holds more than `buffer_bytes`."""
    plan, bucket, size = list[Bucket](), list[TensorSpec](), 0
    for spec in specs:
        bucket.append(spec)
        size += spec.num_bytes
        if size > buffer_bytes:
            plan.append(Bucket(tuple(bucket), (), size))
            bucket, size = [], 0
    return [*plan, Bucket(tuple(bucket), (), size)] if bucket else plan


def nccl_init_info(spec: GroupSpec, rank: int, port: int, buffer_bytes: int) -> dict[str, Any]:
    """What a worker's NCCLWeightTransferInitInfo is made of, for an engine whose first rank is `rank`."""
    return {
        "master_address": spec.host,
        "master_port": port,
        "rank_offset": rank,
        "world_size": spec.world_size,
        "packed": True,
        "packed_buffer_size_bytes": buffer_bytes,
    }


class Relay:
    """Payloads from the learner to one engine through the group's store, each taken before the next is given."""

    def __init__(self, roll: RollCall) -> None:
        self.roll, self.count = roll, 0

    def begin(self) -> None:
        self.roll.begin()
        self.count = 0

    def put(self, payload: Any) -> None:
        """For the learner: waits until the engine has taken it. Raises WeightSyncError if it does not in time."""
        self.roll.store.set(self._key(self.count), pickle.dumps(payload))
        self.count += 1
        self._wait(f"{self._key(self.count - 1)}-taken")

    def end(self) -> None:
        self.roll.store.set(self._key(self.count), END)
        self.roll.wait_for_all()

    def take(self) -> Iterator[Any]:
        """For the engine: the payloads of one broadcast; one counts as taken when the next is asked for."""
        while True:
            self._wait(self._key(self.count))
            data = self.roll.store.get(self._key(self.count))
            if data == END:
                self.roll.took(self.count, last=True)
                return
            yield pickle.loads(data)
            self.roll.took(self.count + 1, last=False)
            self.roll.store.set(f"{self._key(self.count)}-taken", "yes")
            self.count += 1

    def _key(self, index: int) -> str:
        return f"payload-{self.roll.number}-{index}"

    def _wait(self, key: str) -> None:
        while not self.roll.store.check([key]):
            self.roll.check()
            time.sleep(POLL_S)


@dataclass
class Client:
    """vLLM's VLLMWeightSyncClient for a learner whose driver calls the engines itself: only IPC's payloads go through it."""

    relay: Relay | None = None

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """The engines get theirs from the driver."""

    def start_weight_update(self) -> None:
        """The engines start by themselves."""

    def update_weights(self, update_info: Any) -> None:
        if self.relay is not None:
            self.relay.put(update_info)

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """The engines finish by themselves, with the version."""


class VllmSender:
    """The learner's end of `vllm_nccl` or `ipc`."""

    def __init__(self, spec: GroupSpec, store: Any) -> None:
        self.spec = spec
        self.engine: Any = None
        self.roll = open_roll(spec, 0, store)
        self.relay = Relay(self.roll) if spec.backend == "ipc" else None

    def send(self, weights: Mapping[str, torch.Tensor], specs: Sequence[TensorSpec], bucket_bytes: int) -> int:
        """See `WeightGroup.send`. The first call meets the engines."""
        plan = packed_plan(specs, bucket_bytes)
        try:
            (self.relay or self.roll).begin()
            if self.engine is None:
                self.engine = self._limited(lambda: self._open(weights, specs, bucket_bytes))
            self.engine.source = _source(weights, specs)
            self._limited(self.engine.send_weights)
            self.relay.end() if self.relay is not None else self.roll.wait_for_all()
        except (RuntimeError, WeightSyncError) as e:
            if self.engine is not None:
                self.engine.shutdown()
            raise WeightSyncError(not_taken(self.roll, plan, self.roll.failed() or said(e))) from e
        self._sent = {s.name: weights[s.name] for s in specs}
        return sum(s.num_bytes for s in specs)

    def sent_checksum(self) -> int:
        """See `TorchSender.sent_checksum`."""
        sent, self._sent = self._sent, {}
        return checksum(sent)

    def _open(self, weights: Mapping[str, torch.Tensor], specs: Sequence[TensorSpec], bucket_bytes: int) -> Any:
        from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

        if self.relay is not None:
            from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo

            size = max(bucket_bytes, *(s.num_bytes for s in specs))  # IPC's buffer must hold any one tensor
            info: Any = IPCTrainerInitInfo(rank=0, packed=True, packed_buffer_size_bytes=size)
        else:
            from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

            port = free_port(self.spec.host)
            self.roll.store.set("nccl-port", str(port))
            info = NCCLTrainerInitInfo(self.spec.host, port, self.spec.world_size, True, bucket_bytes, rank=0)
        return WeightTransferTrainerFactory.trainer_init(info, client=Client(self.relay), source=_source(weights, specs))

    def _limited(self, call: Callable[[], Any]) -> Any:
        """What `call` returns. NCCL waits for ever for a lost member, so it runs in a thread that is left behind."""
        done: list[Any] = []
        failed: list[BaseException] = []
        device = torch.cuda.current_device() if torch.cuda.is_available() else None

        def run() -> None:
            try:
                if device is not None:
                    torch.cuda.set_device(device)
                done.append(call())
            except BaseException as e:  # noqa: BLE001 (it is raised in the caller's thread)
                failed.append(e)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(10 * POLL_S)
            if thread.is_alive():
                self.roll.check()
        if failed:
            raise failed[0]
        return done[0]


def free_port(host: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as s:
        s.bind((host, 0))
        return int(s.getsockname()[1])


def _source(weights: Mapping[str, torch.Tensor], specs: Sequence[TensorSpec]) -> Any:
    """vLLM's WeightSource over the learner's tensors."""
    from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource

    class Source(WeightSource):
        def metadata(self) -> list[Any]:
            return [ParamMeta(s.name, s.dtype, s.shape) for s in specs]

        def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
            return ((s.name, weights[s.name]) for s in specs)

    return Source()
