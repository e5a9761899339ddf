"""Broadcast groups of real processes of which one is lost or stands still: who is named, how soon, and what the others hear."""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

import pytest
import torch

from harmonyray.actors.broadcast import WeightStore
from harmonyray.engines.roll_call import GroupSpec
from harmonyray.engines.weight_group import WeightGroup
from harmonyray.engines.weights import checksum, specs
from harmonyray.errors import WeightSyncError

pytestmark = pytest.mark.alone

MEMBERS = ("learner", "view solver replica 0", "view reframer replica 0", "view reframer replica 1")
BUCKET = 4 << 20
WEIGHTS = {f"layers.{i}": torch.full((1 << 20,), float(i)) for i in range(10)}  # 4 MiB each: as many buckets
TIMEOUT_S = 4.0  # of a broadcast
PATIENCE_S = 60.0


def engine(spec: GroupSpec, rank: int, fault: str, at: int, pipe: Connection) -> None:
    """Joins, says so, receives twice and reports; once it holds `at` buckets of the second broadcast it meets its fault."""
    group = WeightGroup(replace(spec, timeout_s=PATIENCE_S), rank)
    group.spec = group.roll.spec = spec
    took = group.roll.took

    def perhaps(num_buckets: int, last: bool) -> None:
        if group.roll.number == 2 and num_buckets == at:
            os.kill(os.getpid(), getattr(signal, fault))
        took(num_buckets, last)

    if fault:
        group.roll.took = perhaps  # type: ignore[method-assign]
    pipe.send("joined")
    try:
        for _ in range(2):
            received = group.receive(specs(WEIGHTS), BUCKET, torch.device("cpu"))
            pipe.send(checksum(received.weights))
    except WeightSyncError as e:
        pipe.send(str(e))


class Engines:
    """Engine processes of one group, and the learner's end in this process."""

    def __init__(self, faults: dict[int, tuple[str, int]], num: int) -> None:
        self.store = WeightStore("127.0.0.1", 10)
        spec = GroupSpec(self.store.host, self.store.port, "faults", MEMBERS[: num + 1], "gloo", TIMEOUT_S)
        context = mp.get_context("spawn")
        self.pipes: dict[int, Any] = {}
        self.processes: dict[int, Any] = {}
        for rank in range(1, num + 1):
            self.pipes[rank], theirs = context.Pipe()
            fault, at = faults.get(rank, ("", 0))
            self.processes[rank] = context.Process(target=engine, args=(spec, rank, fault, at, theirs))
            self.processes[rank].start()
            theirs.close()
        self.learner = WeightGroup(replace(spec, timeout_s=PATIENCE_S), 0, self.store.store)
        assert [self.hear(rank) for rank in self.pipes] == ["joined"] * num
        self.learner.spec = self.learner.roll.spec = spec

    def hear(self, rank: int) -> Any:
        assert self.pipes[rank].poll(PATIENCE_S), f"rank {rank} hangs"
        return self.pipes[rank].recv()

    def close(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.join(10)


@pytest.fixture
def started() -> Iterator[list[Engines]]:
    made: list[Engines] = []
    yield made
    for engines in made:
        engines.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("victim", "fault", "at", "num"),
    [
        (1, "SIGSTOP", 3, 1),
        (2, "SIGSTOP", 3, 3),
        (1, "SIGSTOP", 7, 3),
        (2, "SIGKILL", 3, 3),
        (1, "SIGKILL", 5, 3),
        (1, "SIGSTOP", 10, 1),
    ],
)
def test_the_lost_rank_is_named_with_the_bucket_that_it_did_not_take(
    started: list[Engines], victim: int, fault: str, at: int, num: int
) -> None:
    """Announcing bucket `at - 1` is what it does not do any more. Gloo passes buckets on from rank to rank, so the loss of one
    rank also keeps others waiting: they are not blamed. One that stops after the last bucket is found, too."""
    engines = Engines({victim: (fault, at)}, num)
    started.append(engines)
    sum_, num_bytes = checksum(WEIGHTS), 10 * BUCKET
    assert engines.learner.send(WEIGHTS, specs(WEIGHTS), BUCKET) == num_bytes
    assert [engines.hear(rank) for rank in engines.pipes] == [sum_] * num
    start = time.monotonic()
    with pytest.raises(WeightSyncError) as caught:
        engines.learner.send(WEIGHTS, specs(WEIGHTS), BUCKET)
    said = f"rank {victim} ({MEMBERS[victim]}) did not take bucket {at - 1} (tensor 'layers.{at - 1}', 4194304 bytes)"
    assert said in str(caught.value)
    assert str(caught.value).count("did not take") == 1, str(caught.value)
    others = [engines.hear(rank) for rank in engines.pipes if rank != victim]
    assert all(heard == sum_ or "did not arrive" in heard for heard in others), others
    assert time.monotonic() - start < PATIENCE_S, "it was not the limit of the broadcast"


def test_an_engine_that_refuses_says_why_at_once() -> None:
    """The learner does not wait for the timeout."""
    store = WeightStore("127.0.0.1", 10)
    spec = GroupSpec(store.host, store.port, "refusal", MEMBERS[:2], "gloo", 30.0)
    refused = threading.Event()

    def refuse() -> None:
        group = WeightGroup(spec, 1)
        group.refuse(KeyError("no such tensor"))
        refused.wait(20)
        assert group.rank == 1

    thread = threading.Thread(target=refuse)
    thread.start()
    learner = WeightGroup(spec, 0, store.store)
    start = time.monotonic()
    with pytest.raises(WeightSyncError, match=r"rank 1 \(view solver replica 0\).*did not take bucket.*no such tensor"):
        learner.send(WEIGHTS, specs(WEIGHTS), BUCKET)
    assert time.monotonic() - start < 15
    refused.set()
    thread.join(10)
