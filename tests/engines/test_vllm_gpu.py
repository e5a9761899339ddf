"""What can be checked of the GPU transports without a GPU: arguments against vLLM's own classes, ranks, buffers, the relay."""

from __future__ import annotations

import threading
from dataclasses import fields

import pytest
import torch
from vllm_process import VllmProcess, needs_vllm

from harmonyray.actors.broadcast import WeightStore
from harmonyray.engines.roll_call import GroupSpec
from harmonyray.engines.vllm_gpu import Client, Relay, nccl_init_info, open_roll, packed_plan
from harmonyray.engines.weights import TensorSpec
from harmonyray.errors import WeightSyncError


def group(store: WeightStore, timeout_s: float) -> GroupSpec:
    return GroupSpec(store.host, store.port, "g", ("learner", "engine"), "ipc", timeout_s)


def test_packed_buffers_are_full_once_they_hold_more_than_their_size() -> None:
    tensors = [TensorSpec(str(i), (n,), torch.uint8) for i, n in enumerate((4, 6, 1, 25, 10, 3))]
    assert [[s.num_bytes for s in b.specs] for b in packed_plan(tensors, 10)] == [[4, 6, 1], [25], [10, 3]]
    assert packed_plan([], 10) == []


def test_payloads_get_to_the_engine_one_at_a_time_and_in_order() -> None:
    store = WeightStore("127.0.0.1", 10)
    spec = group(store, 10)
    taken: list[tuple[int, int]] = []
    given: list[int] = []

    def engine() -> None:
        relay = Relay(open_roll(spec, 1))
        for _ in range(2):
            relay.begin()
            for payload in relay.take():
                taken.append((payload["chunk"], len(given)))

    thread = threading.Thread(target=engine)
    thread.start()
    client = Client(Relay(open_roll(spec, 0, store.store)))
    assert client.relay is not None
    for _ in range(2):
        client.relay.begin()
        for chunk in range(3):
            client.update_weights({"chunk": chunk})
            given.append(chunk)
        client.relay.end()
    thread.join(10)
    # While a payload is being taken, only those before it have been given away.
    assert taken == [(i % 3, i) for i in range(6)]


def test_a_payload_that_nobody_takes_ends_with_the_time() -> None:
    store = WeightStore("127.0.0.1", 10)
    relay = Relay(open_roll(group(store, 0.5), 0, store.store))
    relay.begin()
    with pytest.raises(WeightSyncError, match=r"within 0\.5 s"):
        relay.put({"chunk": 0})


IN_VLLM = """
from dataclasses import fields
import inspect, torch
from vllm.distributed.weight_transfer.base import VLLMWeightSyncClient
from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo, IPCWeightTransferEngine, IPCWeightTransferInitInfo
from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo, NCCLWeightTransferEngine
from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferUpdateInfo
from vllm.distributed.weight_transfer.packed_tensor import pack_tensors
from harmonyray.engines.vllm_gpu import Client, _source
from harmonyray.engines.vllm_gpu_workers import IpcTransfer, NcclInitInfo, NcclTransfer
from harmonyray.engines.vllm_join import _update_info
from harmonyray.engines.vllm_transfer import transport, worker_number
from harmonyray.engines.weights import specs

weights = {str(i): torch.full((n,), i, dtype=torch.uint8) for i, n in enumerate(sizes)}
source, chunks = _source(weights, specs(weights)), []
stream = iter(source)
while (chunk := pack_tensors(stream, lambda item: item[1], 10)) is not None:
    chunks.append(chunk.tensor_sizes)
trainer = NCCLTrainerInitInfo("host", 7, 4, True, 10, rank=0)
class Parallel: data_parallel_index, world_size, rank = 0, 2, 1
result = {
    "worker": vars(NcclInitInfo(**init)),
    "trainer": [getattr(trainer, f.name) for f in fields(trainer)],
    "ipc": vars(IPCTrainerInitInfo(rank=0, packed=True, packed_buffer_size_bytes=9)),
    "ipc worker": vars(IPCWeightTransferInitInfo(packed=True)),
    "update": vars(NCCLWeightTransferUpdateInfo(**_update_info(specs(weights)))),
    "metadata": [(m.name, m.shape) for m in source.metadata()],
    "chunks": chunks,
    "client": isinstance(Client(), VLLMWeightSyncClient),
    "number": worker_number(Parallel),
    "classes": (transport("vllm_nccl") is NcclTransfer, transport("ipc") is IpcTransfer),
    "abstract": [sorted(c.__abstractmethods__) for c in (NcclTransfer, IpcTransfer)],
    "finish": all("finalize_layerwise_reload" in inspect.getsource(c.finish_weight_update) for c in
                  (NCCLWeightTransferEngine, IPCWeightTransferEngine)),
}
"""


@pytest.mark.slow
@pytest.mark.vllm
@needs_vllm[-1]
def test_arguments_and_buffers_are_those_of_vllm(vllm_process: VllmProcess) -> None:
    spec = GroupSpec("host", 1, "g", ("learner", "a", "b, worker 0", "b, worker 1"), "vllm_nccl", 5.0)
    init = nccl_init_info(spec, 2, 7, 10) | {"group": {f.name: getattr(spec, f.name) for f in fields(spec)}}
    sizes = (4, 6, 1, 25, 10, 3)
    got = vllm_process.run(IN_VLLM, init=init, sizes=sizes)
    assert {k: got["worker"][k] for k in init} == init
    assert got["worker"]["nccl_unique_id_b64"] is None
    assert got["trainer"] == [0, "host", 7, spec.world_size, init["packed"], init["packed_buffer_size_bytes"], 2]
    assert (got["ipc"]["packed"], got["ipc"]["packed_buffer_size_bytes"], got["ipc worker"]) == (True, 9, {"packed": True})
    assert got["update"] == {"names": list("012345"), "dtype_names": ["uint8"] * 6, "shapes": [[n] for n in sizes]}
    assert got["metadata"] == [(str(i), (n,)) for i, n in enumerate(sizes)]
    tensors = [TensorSpec(str(i), (n,), torch.uint8) for i, n in enumerate(sizes)]
    assert got["chunks"] == [[s.num_bytes for s in b.specs] for b in packed_plan(tensors, 10)]
    # The second worker of an engine at rank 2 is rank 3, the last of four.
    assert (got["number"] + 2, got["client"], got["classes"], got["abstract"]) == (3, True, (True, True), [[], []])
    assert got["finish"], "vLLM ends an update otherwise than CheckedLoad does"
