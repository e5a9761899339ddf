"""Weight broadcast between real actors: every engine holds the learner's weights bit for bit, or the run says why not."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import ray
from actor_helpers import assert_same_weights, drive, engine_weights, expire, inside, learner_weights, pid_of, small_config

from harmonyray import build
from harmonyray.errors import AlteredWeightsError, RunError, StaleWeightsError, WeightSyncError
from harmonyray.protocols import Ask
from harmonyray.types import Problem

pytestmark = pytest.mark.alone

LIMIT_S = 180.0
MEMBERS = ("learner", "view solver replica 0", "view reframer replica 0")


@pytest.fixture(scope="module")
def opened(local_ray: None) -> Iterator[tuple[Any, Any]]:
    """One run of two views; the tests that use it leave it working."""
    config = small_config("sync.timeout_s=15", "runtime.max_restarts=50")
    with build.open_runtime(config, build.make_views(config)) as runtime_and_grader:
        yield runtime_and_grader


@pytest.fixture
def runtime(opened: tuple[Any, Any]) -> Any:
    """All engines in one broadcast group."""
    nudge_learner(opened[0])
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
    with pytest.raises(WeightSyncError, match=r"within 15 s: rank 2 \(view reframer replica 0\) did not join"):
        runtime.sync()
    runtime.sync()
    assert_same_weights(engine_weights(handle), learner_weights(runtime))


def test_one_engine_alone_gets_the_weights_while_the_other_is_busy(runtime: Any, tmp_path: Path) -> None:
    """As after a revival: learner and engine meet in a group of two, and nobody waits for the other engine."""
    alone, busy = runtime.replicas

    awake = str(tmp_path / "awake")

    def nap(self: Any) -> None:
        import os
        import time

        while not os.path.exists(awake):
            time.sleep(0.01)

    before = engine_weights(busy.handle)
    napping = busy.handle.__ray_call__.remote(nap)
    nudge_learner(runtime)
    sent = sum(w.nbytes for w in before.values())
    try:
        assert runtime.weight_sync.send([alone], runtime.policy_version) == sent
        runtime.weight_sync.loaded()
        assert ray.wait([napping], timeout=0)[0] == []
    finally:
        Path(awake).touch()
    ray.get(napping)
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

    inside(replica.handle, doom)
    nudge_learner(runtime)
    said = r"rank 2 \(view reframer replica 0\) did not take bucket 0 \(tensor 'model\.embed_tokens\.weight' and \d+ more, "
    with pytest.raises(WeightSyncError, match=said):
        runtime.weight_sync.send(runtime.replicas, runtime.policy_version)
    runtime.sync()
    assert runtime.pool.restarts == restarts + 1
    for r in runtime.replicas:
        assert_same_weights(engine_weights(r.handle), learner_weights(runtime))


# --- engines that load what they were sent ------------------------------------------------------------------------------------


def load_slowly(handle: Any, go_on: Path) -> None:
    """The engine will load the next weights once that file is there."""

    def change(self: Any) -> None:
        receive = self.engine._group.receive

        def received(*args: Any) -> Any:
            out = receive(*args)
            while not go_on.exists():
                time.sleep(0.01)
            self.engine._group.receive = receive
            return out

        self.engine._group.receive = received

    inside(handle, change)


def die_loading(handle: Any) -> None:
    """The engine will die as soon as it has all of the next weights."""

    def change(self: Any) -> None:
        receive = self.engine._group.receive
        self.engine._group.receive = lambda *args: (receive(*args), os.kill(os.getpid(), signal.SIGKILL))

    inside(handle, change)


def be_patient(runtime: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is held up on purpose is not given up."""
    monkeypatch.setattr(runtime.weight_sync, "sync_config", runtime.sync_config.model_copy(update={"timeout_s": LIMIT_S}))


def assert_all_hold(runtime: Any, wanted: Any) -> None:
    runtime.weight_sync.verify()
    for replica in runtime.replicas:
        assert_same_weights(engine_weights(replica.handle), wanted)


def test_the_learner_may_learn_while_an_engine_still_loads(runtime: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the engine loads, and what the checksums are of, are the weights as they were sent."""
    be_patient(runtime, monkeypatch)
    given, go_on = threading.Event(), tmp_path / "go on"
    load_slowly(runtime.replicas[1].handle, go_on)
    nudge_learner(runtime)
    sent = learner_weights(runtime)
    with ThreadPoolExecutor(2) as beside:
        try:
            syncing = beside.submit(runtime.sync, lambda metrics: given.set())
            assert given.wait(LIMIT_S), "the learner waited for an engine that loads"
            beside.submit(runtime.save, tmp_path / "saved").result(LIMIT_S)  # takes what an update takes
            nudge_learner(runtime)
            assert not syncing.done()
        finally:
            go_on.touch()
        assert syncing.result(LIMIT_S)["bytes"] > 0
    assert_all_hold(runtime, sent)
    assert any((w != sent[name]).any() for name, w in learner_weights(runtime).items())


def test_an_engine_that_dies_while_it_loads_is_replaced_and_all_hold_the_newest_weights(runtime: Any) -> None:
    restarts = runtime.pool.restarts
    die_loading(runtime.replicas[1].handle)
    nudge_learner(runtime)
    runtime.sync(lambda metrics: nudge_learner(runtime))
    assert runtime.pool.restarts == restarts + 1
    assert runtime.engine_version == runtime.policy_version
    assert_all_hold(runtime, learner_weights(runtime))


def test_an_engine_that_never_ends_loading_is_replaced_and_its_user_told_why(
    runtime: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    restarts = runtime.pool.restarts
    load_slowly(runtime.replicas[0].handle, tmp_path / "never")
    nudge_learner(runtime)
    runtime.sync()
    said = "view solver replica 0 did not load the weights within sync.timeout_s = 15 s: raise it if it is only slow"
    assert said in capsys.readouterr().err
    assert runtime.pool.restarts == restarts + 1
    assert_all_hold(runtime, learner_weights(runtime))


@pytest.mark.parametrize("error", [WeightSyncError, TypeError])
@pytest.mark.parametrize("loads_at_once", [False, True])
def test_an_engine_that_cannot_load_ends_the_run_unless_it_may_hold_some_of_both(
    runtime: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], loads_at_once: bool, error: type[Exception]
) -> None:
    replica, restarts = runtime.replicas[1], runtime.pool.restarts

    def refuse(self: Any) -> None:
        receive = self.engine._group.receive

        def received(*args: Any) -> Any:
            receive(*args)
            self.engine._group.receive = receive
            raise error("no room for them")

        self.engine._group.receive = received

    if loads_at_once:
        monkeypatch.setattr(runtime.weight_sync, "_changes_at_once", {replica.name})
    inside(replica.handle, refuse)
    nudge_learner(runtime)
    if not loads_at_once:
        with pytest.raises(WeightSyncError, match=r"view reframer replica 0 could not load the weights: no room for them"):
            runtime.sync()
    runtime.sync()
    assert runtime.pool.restarts == restarts + loads_at_once
    assert ("could not load the weights: no room for them; it may hold" in capsys.readouterr().err) == loads_at_once
    assert_all_hold(runtime, learner_weights(runtime))


def test_an_engine_that_cannot_say_what_it_holds_is_named(runtime: Any) -> None:
    def refuse(self: Any) -> None:
        say = self.engine.held_checksum

        def fail() -> None:
            self.engine.held_checksum = say
            raise TypeError("what is a checksum?")

        self.engine.held_checksum = fail

    inside(runtime.replicas[1].handle, refuse)
    nudge_learner(runtime)
    runtime.sync()
    said = r"view reframer replica 0 could not say its weights' checksum \(what is a checksum\?\): look at the engine's log"
    nudge_learner(runtime)
    with pytest.raises(RunError, match=said):
        runtime.sync()
    nudge_learner(runtime)
    runtime.sync()
    assert_all_hold(runtime, learner_weights(runtime))


def test_an_engine_that_acknowledges_another_version_is_named(runtime: Any) -> None:
    def lag_behind(self: Any) -> None:
        receive = self.engine.receive_weights

        def received(*args: Any) -> None:
            receive(*args)
            self.engine.policy_version -= 1
            self.engine.receive_weights = receive

        self.engine.receive_weights = received

    inside(runtime.replicas[1].handle, lag_behind)
    nudge_learner(runtime)
    version = runtime.policy_version
    said = f"view reframer replica 0 acknowledged policy version {version - 1}, the learner sent version {version}: "
    with pytest.raises(AlteredWeightsError, match=said):
        runtime.sync()
    runtime.sync()
    assert_all_hold(runtime, learner_weights(runtime))


@pytest.mark.parametrize("loading", [False, True])
def test_an_engine_replaced_while_another_still_loads_is_left_alone(
    runtime: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loading: bool
) -> None:
    """As with `sync.in_flight: pause`: a second broadcast finds it dead before the first has come to its end. What the dead one
    had answered, or could not answer any more, says nothing of its successor."""
    be_patient(runtime, monkeypatch)
    lost, slow = runtime.replicas
    old, restarts, given, go_on = lost.handle, runtime.pool.restarts, threading.Event(), tmp_path / "go on"
    load_slowly(slow.handle, go_on)
    if loading:
        load_slowly(old, tmp_path / "never")
    nudge_learner(runtime)
    with ThreadPoolExecutor(2) as beside:
        try:
            first = beside.submit(runtime.sync, lambda metrics: given.set())
            assert given.wait(LIMIT_S)
            os.kill(pid_of(old), signal.SIGKILL)
            second = beside.submit(runtime.sync)
            expect(lambda: lost.handle is not old and not lost.dead)
        finally:
            go_on.touch()
        first.result(LIMIT_S)
        second.result(LIMIT_S)
    assert runtime.pool.restarts == restarts + 1
    assert_all_hold(runtime, learner_weights(runtime))


def test_a_run_goes_on_when_an_engine_dies_while_the_learner_learns_and_it_loads(opened: tuple[Any, Any], runtime: Any) -> None:
    restarts = runtime.pool.restarts
    config = small_config("rollout.lag=1", "steps=4", "checkpoint.every=9")
    record, weights = drive(
        config, runtime, opened[1], lambda step: die_loading(runtime.replicas[0].handle) if step == 1 else None
    )
    assert [row["step"] for row in record.rows] == [1, 2, 3, 4]
    assert runtime.pool.restarts == restarts + 1
    assert_all_hold(runtime, weights)


def expect(holds: Any) -> None:
    """Waits until it is so."""
    end = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.05)


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


def test_paths_reach_the_learner_whole(runtime: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The learner's process has a working directory of its own."""
    monkeypatch.chdir(tmp_path)
    Path("here").mkdir()
    runtime.save_model(Path("here"))
    assert (tmp_path / "here" / "config.json").is_file()
