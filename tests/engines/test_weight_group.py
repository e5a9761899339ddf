"""Broadcast groups between the threads of one process: what arrives, and who is named when something does not."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from harmonyray.actors.broadcast import WeightStore
from harmonyray.engines.roll_call import GroupSpec
from harmonyray.engines.weight_group import WeightGroup
from harmonyray.engines.weights import checksum, specs
from harmonyray.errors import WeightSyncError

MEMBERS = ("learner", "view solver replica 0", "view reframer replica 0")


def group(store: WeightStore, name: str, members: tuple[str, ...], timeout_s: float = 10) -> GroupSpec:
    return GroupSpec(store.host, store.port, name, members, "gloo", timeout_s)


def test_a_member_that_never_joins_is_named_by_rank_and_name() -> None:
    store = WeightStore("127.0.0.1", 10)
    spec = group(store, "absent", MEMBERS, timeout_s=1.5)
    caught: dict[int, WeightSyncError] = {}

    def join(rank: int) -> None:
        try:
            WeightGroup(spec, rank, store.store if rank == 0 else None)
        except WeightSyncError as e:
            caught[rank] = e

    threads = [threading.Thread(target=join, args=(rank,)) for rank in (0, 1)]
    start = time.monotonic()
    for t in threads:
        t.start()
    for t in threads:
        t.join(30)
    assert time.monotonic() - start < 15
    for rank in (0, 1):
        assert f"rank {rank} ({MEMBERS[rank]}) could not join" in str(caught[rank])
        assert "rank 2 (view reframer replica 0) did not join" in str(caught[rank])


def test_a_store_that_is_not_there_is_an_error_that_says_where() -> None:
    spec = GroupSpec("127.0.0.1", 1, "nowhere", MEMBERS, "gloo", 1.0)
    with pytest.raises(WeightSyncError, match=r"store at 127\.0\.0\.1:1 does not answer"):
        WeightGroup(spec, 1)


@pytest.mark.parametrize("bucket_bytes", [1, 100, 1 << 20])
def test_odd_shapes_and_types_arrive_as_sent(bucket_bytes: int) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = {
        "a": torch.randn(7, 3, generator=generator),
        "half": torch.randn(5, generator=generator).bfloat16(),
        "scalar": torch.tensor(3.5, dtype=torch.float64),
        "transposed": torch.randn(4, 6, generator=generator).t(),
        "ids": torch.arange(9, dtype=torch.int64),
    }
    store = WeightStore("127.0.0.1", 10)
    spec = group(store, f"odd-{bucket_bytes}", ("learner", "view solver replica 0"))
    received: dict[str, torch.Tensor] = {}

    def engine() -> None:
        received.update(WeightGroup(spec, 1).receive(specs(weights), bucket_bytes, torch.device("cpu")).weights)

    thread = threading.Thread(target=engine)
    thread.start()
    num_bytes = WeightGroup(spec, 0, store.store).send(weights, specs(weights), bucket_bytes)
    thread.join(30)
    assert checksum(weights) == checksum(received)
    assert num_bytes == 7 * 3 * 4 + 5 * 2 + 8 + 24 * 4 + 9 * 8
    assert list(received) == list(weights)
    for name, sent in weights.items():
        assert received[name].dtype == sent.dtype
        assert torch.equal(received[name], sent), name


def test_a_receiver_that_waits_in_vain_names_the_bucket() -> None:
    weights = {"embedding": torch.zeros(4, 4)}
    store = WeightStore("127.0.0.1", 10)
    spec = group(store, "vain", ("learner", "view solver replica 0"), timeout_s=8)
    caught: list[WeightSyncError] = []

    def engine() -> None:
        try:
            WeightGroup(spec, 1).receive(specs(weights), 1 << 20, torch.device("cpu"))
        except WeightSyncError as e:
            caught.append(e)

    thread = threading.Thread(target=engine)
    thread.start()
    learner = WeightGroup(spec, 0, store.store)
    thread.join(30)
    assert learner.rank == 0
    said = "rank 1 (view solver replica 0): bucket 0 (tensor 'embedding', 64 bytes) did not arrive: nothing came within 8 s"
    assert said in str(caught[0])
