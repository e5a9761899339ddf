"""Weight broadcast between real actors: every engine holds the learner's weights bit for bit, or the run says why not."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from actor_helpers import assert_same_weights, engine_weights, expire, inside, learner_weights, pid_of, small_config

from harmonyray import build
from harmonyray.actors.broadcast import WeightStore
from harmonyray.engines.roll_call import GroupSpec
from harmonyray.engines.weight_group import WeightGroup
from harmonyray.engines.weights import checksum, specs
from harmonyray.errors import AlteredWeightsError, StaleWeightsError, WeightSyncError
from harmonyray.protocols import Ask
from harmonyray.types import Problem

MEMBERS = ("learner", "view solver replica 0", "view reframer replica 0")


@pytest.fixture(scope="module")
def opened(local_ray: None) -> Iterator[tuple[Any, Any]]:
    """One run of two views; the tests that use it leave it working."""
    config = small_config("sync.timeout_s=5", "runtime.max_restarts=9")
    with build.open_runtime(config, build.make_views(config)) as runtime_and_grader:
        yield runtime_and_grader


@pytest.fixture
def runtime(opened: tuple[Any, Any]) -> Any:
    opened[0].sync()
    return opened[0]


def asked() -> tuple[list[Ask], list[Problem]]:
    """The solver's part of what a sampler is asked."""
    config = small_config()
    return build.make_asks(config, build.make_views(config))[:1], build.load_problems(config)[0][:2]


def nudge_learner(runtime: Any) -> None:
    """New weights under the next policy version, as an update would leave them."""

    def change(self: Any) -> int:
        for tensor in self.learner.weights().values():
            tensor.add_(0.01)
        self.learner.policy_version += 1
        return int(self.learner.policy_version)

    runtime.policy_version = inside(runtime.learner, change)


@pytest.mark.parametrize("bucket_mb", [64, 1e-4])
def test_every_engine_holds_the_learners_weights_after_each_update(
    opened: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, bucket_mb: float
) -> None:
    """1e-4 MiB is 104 bytes: nearly every tensor is a bucket of its own."""
    runtime, _ = opened
    monkeypatch.setattr(runtime.weight_sync, "sync_config", runtime.sync_config.model_copy(update={"bucket_mb": bucket_mb}))
    assert [r.name for r in runtime.replicas] == list(MEMBERS[1:])
    start, seen = runtime.policy_version, [learner_weights(runtime)]
    for step in (1, 2, 3):
        nudge_learner(runtime)
        figures = runtime.sync()
        sent = learner_weights(runtime)
        assert all((sent[k] != seen[-1][k]).any() for k in sent), "the update changed nothing: the test would prove nothing"
        seen.append(sent)
        for replica in runtime.replicas:
            assert_same_weights(engine_weights(replica.handle), sent)
            assert inside(replica.handle, lambda self: self.engine.policy_version) == start + step
        assert figures["bytes"] == sum(w.nbytes for w in sent.values())


def test_weights_of_another_version_are_refused_by_name(runtime: Any) -> None:
    with pytest.raises(StaleWeightsError) as caught:
        list(runtime.sample(*asked(), runtime.policy_version + 7, (1,)))
    message = str(caught.value)
    assert message.startswith(f"asked to generate with policy version {runtime.policy_version + 7}")
    assert "\n" not in message, "the user sees this sentence, not Ray's traceback"


def test_an_engine_that_holds_other_weights_than_were_sent_is_named(runtime: Any) -> None:
    handle = runtime.replicas[1].handle

    def corrupt(self: Any) -> None:
        group = self.engine._group
        receive = group.receive

        def altered(*args: Any) -> Any:
            received = receive(*args)
            next(iter(received.weights.values())).view(-1)[3] += 1e-3  # as if the network had altered what this engine got
            group.receive = receive
            return received

        group.receive = altered

    said = r"view reframer replica 0 acknowledged policy version \d+ with checksum"
    uses = {
        "sampling": lambda: list(runtime.sample(*asked(), runtime.policy_version, (1,))),
        "learning": lambda: runtime.update([], 1),
        "the next broadcast": lambda: (nudge_learner(runtime), runtime.sync()),
    }
    for name, use in uses.items():
        runtime.sync()
        runtime.weight_sync.verify()
        inside(handle, corrupt)
        nudge_learner(runtime)
        runtime.sync()
        with pytest.raises(AlteredWeightsError, match=said):
            use()
            pytest.fail(f"{name} went on")
        nudge_learner(runtime)
        runtime.sync()
        runtime.weight_sync.verify()
        assert_same_weights(engine_weights(handle), learner_weights(runtime))


def test_joining_again_and_again_leaves_no_threads_or_sockets_behind(runtime: Any) -> None:
    def held(handle: Any) -> tuple[int, int]:
        pid = pid_of(handle)
        return len(os.listdir(f"/proc/{pid}/task")), len(os.listdir(f"/proc/{pid}/fd"))

    def rejoin() -> None:
        expire(runtime)
        runtime.sync()

    handles = [runtime.learner, *(r.handle for r in runtime.replicas)]
    for _ in range(3):
        rejoin()
    before = [held(h) for h in handles]
    for _ in range(8):
        rejoin()
    after = [held(h) for h in handles]
    for (threads, files), (threads_then, files_then) in zip(before, after, strict=True):
        assert threads_then - threads < 8, f"threads grew from {threads} to {threads_then} in 8 groups"
        assert files_then - files < 8, f"open files grew from {files} to {files_then} in 8 groups"


def test_an_engine_that_does_not_join_is_named_within_the_timeout(runtime: Any) -> None:
    handle = runtime.replicas[1].handle

    def stay_away_once(self: Any) -> None:
        from harmonyray.engines import hf_weights

        real = hf_weights.WeightGroup

        def absent(*args: Any) -> None:
            hf_weights.WeightGroup = real

        hf_weights.WeightGroup = absent

    inside(handle, stay_away_once)
    expire(runtime)
    start = time.monotonic()
    with pytest.raises(WeightSyncError, match=r"rank 2 \(view reframer replica 0\) did not join"):
        runtime.sync()
    assert time.monotonic() - start < 20
    runtime.sync()
    assert_same_weights(engine_weights(handle), learner_weights(runtime))


def test_one_engine_alone_gets_the_weights_while_the_other_is_busy(runtime: Any) -> None:
    """As after a revival: learner and engine meet in a group of two, and nobody waits for the other engine."""
    alone, busy = runtime.replicas

    def nap(self: Any) -> None:
        import time

        time.sleep(4)

    before = engine_weights(busy.handle)
    napping = busy.handle.__ray_call__.remote(nap)
    nudge_learner(runtime)
    sent = sum(w.nbytes for w in before.values())
    assert runtime.weight_sync.broadcast([alone], runtime.policy_version) == sent
    assert ray.wait([napping], timeout=0)[0] == [], "the other engine was waited for"
    assert_same_weights(engine_weights(alone.handle), learner_weights(runtime))
    assert_same_weights(engine_weights(busy.handle), before)
    runtime.sync()
    assert_same_weights(engine_weights(busy.handle), learner_weights(runtime))


def test_an_engine_that_dies_within_a_broadcast_is_named_and_then_replaced(runtime: Any) -> None:
    replica, restarts = runtime.replicas[1], runtime.pool.restarts

    def doom(self: Any) -> None:
        import os
        import signal

        self.engine._group.roll.took = lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGKILL)

    runtime.sync()
    inside(replica.handle, doom)
    nudge_learner(runtime)
    said = r"rank 2 \(view reframer replica 0\) did not take bucket 0 \(tensor 'model\.embed_tokens\.weight' and \d+ more, "
    with pytest.raises(WeightSyncError, match=said):
        runtime.weight_sync.broadcast(runtime.replicas, runtime.policy_version)
    runtime.sync()
    assert runtime.pool.restarts == restarts + 1
    for r in runtime.replicas:
        assert_same_weights(engine_weights(r.handle), learner_weights(runtime))


@pytest.mark.slow
def test_an_engine_that_hangs_is_replaced_like_a_dead_one(runtime: Any) -> None:
    replica, restarts = runtime.replicas[0], runtime.pool.restarts
    pid = pid_of(replica.handle)
    os.kill(pid, signal.SIGSTOP)
    try:
        nudge_learner(runtime)
        runtime.sync()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert runtime.pool.restarts == restarts + 1
    assert pid_of(replica.handle) != pid
    assert_same_weights(engine_weights(replica.handle), learner_weights(runtime))


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
    spec = group(store, "vain", ("learner", "view solver replica 0"), timeout_s=2)
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
    said = "rank 1 (view solver replica 0): bucket 0 (tensor 'embedding', 64 bytes) did not arrive: nothing came within 2 s"
    assert said in str(caught[0])


def test_paths_reach_the_learner_whole(runtime: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The learner's process has a working directory of its own."""
    monkeypatch.chdir(tmp_path)
    Path("here").mkdir()
    runtime.save_model(Path("here"))
    assert (tmp_path / "here" / "config.json").is_file()
