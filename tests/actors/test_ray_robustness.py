"""Generation that goes wrong on real actors: engines that hang, groups that fail, steps of which too little is left."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from actor_helpers import (
    ROOM,
    SMALL,
    assert_same_weights,
    drive,
    engine_weights,
    gone_within,
    hold_up,
    inside,
    kill,
    kill_when,
    pid_of,
    small_config,
    wait_for,
)
from ray.exceptions import GetTimeoutError, ObjectLostError

from harmonyray import build
from harmonyray.actors.kept import Stored
from harmonyray.actors.runtime import RayRuntime
from harmonyray.cli import main
from harmonyray.errors import RunError
from harmonyray.evaluate import Evaluator
from harmonyray.protocols import Ask
from harmonyray.tracking import read_metrics
from harmonyray.types import FailedAttempt, Problem, ProblemRollouts, Sampling

pytestmark = pytest.mark.alone

SEEDS = (5, "x")


@pytest.fixture(scope="module")
def bench(local_ray: None) -> Iterator[tuple[RayRuntime, list[Ask], list[Problem]]]:
    """Two views without a learner, what they are asked, and eight problems."""
    config = small_config("runtime.max_restarts=20")
    views = build.make_views(config)
    with build.open_runtime(config, views, learn=False) as (runtime, _):
        yield runtime, [Ask(view, 3, Sampling(24)) for view in views], build.load_problems(config)[0][:8]


def said(items: list[Any]) -> dict[str, list[list[list[int]]]]:
    whole = [item for item in items if isinstance(item, ProblemRollouts)]
    return {item.problem.id: [[s.token_ids.tolist() for s in view] for view in item.fetch()] for item in whole}


def impatient(runtime: RayRuntime, monkeypatch: pytest.MonkeyPatch, timeout_s: float) -> None:
    monkeypatch.setattr(runtime, "rollout", runtime.rollout.model_copy(update={"request_timeout_s": timeout_s}))
    monkeypatch.setattr("harmonyray.actors.sampling.HANG_GRACE_S", 1.0)


def test_the_content_stays_in_the_object_store_and_the_figures_say_what_it_is(bench: Any) -> None:
    runtime, asks, problems = bench
    for item in runtime.sample(asks, problems, 0, SEEDS):
        for group, rollouts in zip(item.groups, item.fetch(), strict=True):
            assert isinstance(group.kept.ref, ray.ObjectRef)
            assert group.figures.lengths.tolist() == [len(s.token_ids) for s in rollouts]


@pytest.mark.slow
def test_an_engine_that_hangs_is_replaced_and_its_groups_are_the_same(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime, asks, problems = bench
    expected = said(list(runtime.sample(asks, problems, 0, SEEDS)))
    impatient(runtime, monkeypatch, 20.0)
    victim = runtime.replicas[0].handle
    hold_up(victim, "engine", "stream", tmp_path / "hanging", 600)
    assert said(list(runtime.sample(asks, problems, 0, SEEDS))) == expected
    assert runtime.replicas[0].handle is not victim
    assert runtime.take_restarts() == 1


@pytest.mark.slow
def test_an_engine_whose_process_is_stopped_is_replaced(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime, asks, problems = bench
    expected = said(list(runtime.sample(asks, problems, 0, SEEDS)))
    impatient(runtime, monkeypatch, 20.0)
    pid = pid_of(runtime.replicas[1].handle)
    os.kill(pid, signal.SIGSTOP)
    assert said(list(runtime.sample(asks, problems, 0, SEEDS))) == expected
    assert runtime.take_restarts() == 1
    assert gone_within(pid, 60), "the stopped process was left behind"


class LaterOn:
    """The clock of `actors.sampling`, which can be put on."""

    sleep, ahead_s = staticmethod(time.sleep), 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead_s


def note_the_end(handle: Any) -> None:
    """The actor's `ended` says whether its engine has answered all that it was asked for from now on."""

    def change(self: Any) -> None:
        stream, self.ended = self.engine.stream, False

        def noted(*args: Any) -> Any:
            yield from stream(*args)
            self.ended = True

        self.engine.stream = noted

    inside(handle, change)


def test_what_came_while_nobody_took_it_is_not_held_against_the_engines(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever takes the groups is a day late; the engines have long answered."""
    runtime, asks, problems = bench
    expected = said(list(runtime.sample(asks, problems, 0, SEEDS)))
    clock = LaterOn()
    monkeypatch.setattr("harmonyray.actors.sampling.time", clock)
    for replica in runtime.replicas:
        note_the_end(replica.handle)
    got = []
    for item in runtime.sample(asks, problems, 0, SEEDS):
        if not got:
            assert wait_for(lambda: all(inside(r.handle, lambda self: self.ended) for r in runtime.replicas), 60)
            clock.ahead_s = 86_400.0
        got.append(item)
    assert said(got) == expected
    assert runtime.take_restarts() == 0


@pytest.mark.slow
def test_the_others_go_on_while_a_dead_engine_is_replaced(bench: Any, tmp_path: Path) -> None:
    """What the living engine was asked is not asked again."""
    runtime, asks, problems = bench
    other, marker = runtime.replicas[1].handle, tmp_path / "sampling"
    inside(other, lambda self: setattr(self, "calls", 0))
    count_streams(other)
    hold_up(runtime.replicas[0].handle, "engine", "stream", marker, 30)
    with kill_when(marker, pid_of(runtime.replicas[0].handle)):
        got = said(list(runtime.sample(asks, problems, 0, SEEDS)))
    assert len(got) == 8
    assert inside(other, lambda self: self.calls) == 1
    assert runtime.take_restarts() == 1


def count_streams(handle: Any) -> None:
    def change(self: Any) -> None:
        stream = self.engine.stream

        def counted(*args: Any) -> Any:
            self.calls += 1
            return stream(*args)

        self.engine.stream = counted

    inside(handle, change)


def fail_groups(handle: Any, problem: str, times: int) -> None:
    """Makes the engine fail that problem's group so often."""

    def change(self: Any) -> None:
        from harmonyray.types import Failure

        stream, left = self.engine.stream, [times]

        def failing(requests: Any, *args: Any) -> Any:
            for i, group in stream(requests, *args):
                if requests[i].prompt.problem_id == problem and left[0]:
                    left[0] -= 1
                    yield i, Failure("made to fail")
                else:
                    yield i, group

        self.engine.stream = failing

    inside(handle, change)


@pytest.mark.parametrize(("times", "kept"), [(2, 8), (3, 7)])
def test_a_group_that_fails_is_sampled_again_and_in_the_end_left_out(bench: Any, times: int, kept: int) -> None:
    runtime, asks, problems = bench
    expected = said(list(runtime.sample(asks, problems, 0, SEEDS)))
    fail_groups(runtime.replicas[0].handle, problems[2].id, times)
    items = list(runtime.sample(asks, problems, 0, SEEDS))
    failed = [item for item in items if isinstance(item, FailedAttempt)]
    assert failed == [FailedAttempt(problems[2].id, "solver", n + 1, "made to fail", last=n + 1 == 3) for n in range(times)]
    got = said(items)
    assert len(got) == kept
    others = [p.id for p in problems if p.id != problems[2].id]
    assert {p: got[p] for p in others} == {p: expected[p] for p in others}
    if kept == 8:  # the solver's answers are new ones, the reframer's were not asked for again
        assert got[problems[2].id][0] != expected[problems[2].id][0]
        assert got[problems[2].id][1] == expected[problems[2].id][1]


def test_an_error_of_the_users_code_ends_the_call_as_it_is(bench: Any) -> None:
    runtime, asks, problems = bench

    def break_it(self: Any) -> None:
        def broken(*args: Any) -> Any:
            raise KeyError("a bug")
            yield

        self.engine.stream = broken

    inside(runtime.replicas[1].handle, break_it)
    with pytest.raises(KeyError, match="a bug"):
        list(runtime.sample(asks, problems, 0, SEEDS))
    kill(pid_of(runtime.replicas[1].handle))
    assert len(said(list(runtime.sample(asks, problems, 0, SEEDS)))) == 8
    assert runtime.take_restarts() == 1


def test_grading_begins_before_everything_is_sampled(local_ray: None) -> None:
    """The second problem comes only once the first is graded: who grades at the end would wait for ever."""
    config = small_config()
    views = build.make_views(config)
    with build.open_runtime(config, views, learn=False) as (runtime, grader):
        first, second = runtime.sample([Ask(v, 2, Sampling(8)) for v in views], build.load_problems(config)[0][:2], 0, SEEDS)
        asked: list[Any] = []
        original = grader._ask
        grader._ask = lambda items: asked.append(original(items)) or asked[-1]

        def arriving() -> Iterator[ProblemRollouts]:
            yield first
            assert ray.wait([asked[0].answers], timeout=30)[0], "the first problem was not graded while the second was awaited"
            yield second

        groups = grader.group(arriving())
        assert [group.problem_id for group in groups] == [first.problem.id, second.problem.id]
        assert [len(call.items) for call in asked] == [1, 1]
        for group, item in zip(groups, (first, second), strict=True):
            texts = group.texts.get().rewritten
            assert [len(row) for row in texts] == [2, 2]
            assert [read.reworded for read in group.read[1]] == [text is not None for text in texts[1]]
            assert group.num_samples.tolist() == [len(row) for row in item.fetch()]


def train_cli(run_dir: Path, *overrides: str) -> int:
    return main(["train", "quickstart", *SMALL, *ROOM, *overrides, "--run-dir", str(run_dir), "--json"])


@pytest.mark.slow
def test_too_little_of_a_step_ends_the_run_with_a_checkpoint_to_go_on_from(
    local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Step 2 of three loses five of eight problems. Checkpoints are due every second step, so step 1 gets one for this."""
    run_dir, sample = tmp_path / "run", RayRuntime.sample

    def losing(self: RayRuntime, asks: Any, problems: Any, version: Any, seeds: Any) -> Any:
        for k, item in enumerate(sample(self, asks, problems, version, seeds)):
            lost = seeds[1:] == ("train", 2) and k >= 3
            yield FailedAttempt(item.problem.id, "solver", 3, "no memory", last=True) if lost else item

    monkeypatch.setattr(RayRuntime, "sample", losing)
    assert train_cli(run_dir) == 1
    err = capsys.readouterr().err
    assert "step 2: only 3 of 8 problems could be sampled in every view" in err
    assert "rollout.min_complete_share = 0.5" in err and "no memory" in err and "Step 1 is saved" in err
    assert "Traceback" not in err
    assert [p.name for p in (run_dir / "checkpoints").iterdir()] == ["step-000001"]
    assert [row["step"] for row in read_metrics(run_dir)] == [1]
    assert train_cli(run_dir, "--resume", "rollout.min_complete_share=0.25") == 0
    rows = read_metrics(run_dir)
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert [row["rollout/complete_share"] for row in rows] == [1, 3 / 8, 1]
    assert [row["rollout/solver/failed"] for row in rows] == [0, 5, 0]
    lines = [json.loads(line) for line in (run_dir / "failed.jsonl").read_text().splitlines()]
    assert len(lines) == 5 and {(r["step"], r["view"], r["attempt"], r["reason"]) for r in lines} == {
        (2, "solver", 3, "no memory")
    }
    assert np.isfinite([row["train/loss"] for row in rows]).all()


def test_a_run_that_cannot_begin_its_first_step_saves_nothing(
    local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = RayRuntime.sample

    def losing(self: RayRuntime, asks: Any, problems: Any, version: Any, seeds: Any) -> Any:
        for item in sample(self, asks, problems, version, seeds):
            yield FailedAttempt(item.problem.id, "solver", 3, "no memory", last=True) if seeds[1] == "train" else item

    monkeypatch.setattr(RayRuntime, "sample", losing)
    assert train_cli(tmp_path / "run") == 1
    assert "Nothing was learned yet" in capsys.readouterr().err
    assert not (tmp_path / "run" / "checkpoints").exists() or not list((tmp_path / "run" / "checkpoints").iterdir())
    assert len((tmp_path / "run" / "failed.jsonl").read_text().splitlines()) == 8


def test_an_evaluation_of_which_nothing_can_be_sampled_is_an_error(local_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_config()
    views = build.make_views(config)
    problems, gold = build.load_problems(config)
    with build.open_runtime(config, views, learn=False) as (runtime, grader):

        def none(asks: Any, asked: Any, version: Any, seeds: Any) -> Any:
            return iter([FailedAttempt(p.id, "solver", 3, "no memory", last=True) for p in asked])

        some = runtime.sample

        def half(asks: Any, asked: Any, version: Any, seeds: Any) -> Any:
            left_out = {p.id for p in problems[:8]}
            for item in some(asks, asked, version, seeds):
                yield FailedAttempt(item.problem.id, "solver", 3, "x", last=True) if item.problem.id in left_out else item

        evaluator = build.make_evaluator(config, {"eval": problems}, gold, views, runtime, grader)
        monkeypatch.setattr(runtime, "sample", half)
        metrics = evaluator.evaluate(0)
        assert (metrics["eval/num_problems"], metrics["eval/num_failed"]) == (8, 8)
        monkeypatch.setattr(runtime, "sample", none)
        with pytest.raises(RunError, match=r"none of the 16 problems of 'eval' could be sampled; .*view 'solver': no memory"):
            evaluator.evaluate(0)


def test_closing_a_runtime_ends_a_thread_that_samples_and_starts_nobody(local_ray: None, tmp_path: Path) -> None:
    """As after a second Ctrl-C with `rollout.lag: 1`: the killed engines are not taken for dead ones that have to be replaced."""
    config = small_config("views.reframer=null", "method.type=majority_vote")
    views = build.make_views(config)
    asks, problems = [Ask(views[0], 2, Sampling(8))], build.load_problems(config)[0][:2]
    ended: list[BaseException] = []
    with build.open_runtime(config, views, learn=False) as (runtime, _):
        marker = tmp_path / "sampling"
        hold_up(runtime.replicas[0].handle, "engine", "stream", marker, 60)

        def sample() -> None:
            try:
                list(runtime.sample(asks, problems, 0, SEEDS))
            except RunError as e:
                ended.append(e)

        thread = threading.Thread(target=sample)
        thread.start()
        assert wait_for(marker.exists, 30)
    thread.join(20)
    assert not thread.is_alive()
    assert [str(e) for e in ended] == ["the run has ended, and its actors with it"]
    assert runtime.pool.restarts == 0


@pytest.mark.slow
def test_an_engine_that_dies_while_the_learner_updates_gets_the_new_weights(local_ray: None, tmp_path: Path) -> None:
    """With lag, sampling and updating go on side by side: the successor must not be told the old version with new weights."""
    lag = ["rollout.lag=1", "loss.type=truncated_is", "checkpoint.every=9", "steps=3"]
    config = small_config(*lag)
    with build.open_runtime(config, build.make_views(config)) as (runtime, grader):
        runtime.sync()
        update, done = runtime.update, []

        def disturbed(plan: Any, step: int) -> Any:
            if step == 1:
                kill(pid_of(runtime.replicas[0].handle))
            report = update(plan, step)
            done.append(runtime.policy_version)
            return report

        runtime.update = disturbed
        record, weights = drive(config, runtime, grader)
        assert done == [1, 2, 3] and record.restarts == 1
        for replica in runtime.replicas:
            assert_same_weights(engine_weights(replica.handle), weights)


@pytest.mark.slow
def test_a_slow_restart_is_not_held_against_the_others(bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The living engine answers at once and is waited for only because the other's successor takes longer than any limit."""
    runtime, asks, problems = bench
    impatient(runtime, monkeypatch, 15.0)
    start_again, marker = runtime._start_again, tmp_path / "sampling"

    def slowly() -> None:
        time.sleep(18)
        start_again()

    monkeypatch.setattr(runtime, "_start_again", slowly)
    hold_up(runtime.replicas[0].handle, "engine", "stream", marker, 30)
    with kill_when(marker, pid_of(runtime.replicas[0].handle)):
        got = said(list(runtime.sample(asks, problems, 0, SEEDS)))
    assert len(got) == 8
    assert runtime.take_restarts() == 1


@pytest.mark.slow
def test_an_engine_out_of_memory_ends_and_is_replaced(bench: Any) -> None:
    runtime, asks, problems = bench
    expected = said(list(runtime.sample(asks, problems, 0, SEEDS)))
    before = pid_of(runtime.replicas[0].handle)

    def starve(self: Any) -> None:
        import torch

        def starving(*args: Any) -> Any:
            raise torch.OutOfMemoryError("CUDA out of memory")
            yield

        self.engine.stream = starving

    inside(runtime.replicas[0].handle, starve)
    assert said(list(runtime.sample(asks, problems, 0, SEEDS))) == expected
    assert pid_of(runtime.replicas[0].handle) != before
    assert runtime.take_restarts() == 1


def test_an_engine_stops_when_nobody_waits_any_more(bench: Any) -> None:
    """The first item ends the call with an error; what the other engine still had to say is not waited for, nor made."""
    runtime, asks, problems = bench
    handle = runtime.replicas[1].handle

    def slow_down(self: Any) -> None:
        stream = self.engine.stream

        def slowly(*args: Any) -> Any:
            for item in stream(*args):
                import time

                time.sleep(0.5)
                yield item

        self.engine.stream = slowly

    inside(handle, slow_down)
    stream = runtime.sample(asks, problems, 0, SEEDS)
    next(stream)
    stream.close()
    assert wait_for(lambda: inside(handle, lambda self: len(self.stopped)) > 0, 60)
    assert len(said(list(runtime.sample(asks, problems, 0, SEEDS)))) == 8


@pytest.mark.slow
def test_an_evaluation_that_fails_comes_after_what_was_learned_is_saved(
    local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The evaluation after step 2 fails. The step is recorded and saved (no checkpoint was due), and --resume goes on from it."""
    run_dir, evaluate = tmp_path / "run", Evaluator.evaluate

    def failing(self: Evaluator, version: int) -> dict[str, float]:
        if version == 2:
            raise RunError("nothing could be sampled")
        return evaluate(self, version)

    monkeypatch.setattr(Evaluator, "evaluate", failing)
    apart = ["eval.every=2", "checkpoint.every=3"]
    assert train_cli(run_dir, *apart) == 1
    assert "nothing could be sampled" in capsys.readouterr().err
    assert [p.name for p in (run_dir / "checkpoints").iterdir()] == ["step-000002"]
    assert [row["step"] for row in read_metrics(run_dir)] == [1, 2]
    monkeypatch.setattr(Evaluator, "evaluate", evaluate)
    assert train_cli(run_dir, *apart, "--resume") == 0
    assert [row["step"] for row in read_metrics(run_dir)] == [1, 2, 3]


def is_lost(ref: Any) -> bool:
    """Whether Ray has noticed that the owner is dead: it takes a moment."""
    try:
        ray.get(ref, timeout=10)
    except ObjectLostError:
        return True
    except GetTimeoutError:
        return False
    return False


@pytest.mark.slow
def test_rollouts_lost_before_they_are_learned_from_end_the_run_with_what_was_learned_saved(
    local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Step 2's are gone when the learner asks for them. Its model is still that of step 1, which is saved."""
    run_dir, update = tmp_path / "run", RayRuntime.update

    @ray.remote
    class Holder:
        def hold(self) -> Any:
            return [ray.put("rollouts")]

    def losing(self: RayRuntime, plan: Any, step: int) -> Any:
        if step == 2:
            holder = Holder.options(num_cpus=0).remote()
            (lost,) = ray.get(holder.hold.remote())
            kill(pid_of(holder))
            assert wait_for(lambda: is_lost(lost), 60), "the object outlives its owner"
            plan = [replace(rows, kept=Stored(lost)) for rows in plan]
        return update(self, plan, step)

    monkeypatch.setattr(RayRuntime, "update", losing)
    assert train_cli(run_dir) == 1
    err = capsys.readouterr().err
    assert "gone with the node" in err and "Traceback" not in err
    assert [p.name for p in (run_dir / "checkpoints").iterdir()] == ["step-000001"]
