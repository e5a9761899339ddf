"""Killed actors: what they owed is sampled again with the same seeds, and the run computes what it would have anyway."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from actor_helpers import (
    ROOM,
    SMALL,
    Record,
    assert_same_rows,
    assert_same_weights,
    children,
    drive,
    drive_new,
    engine_weights,
    gone_within,
    hold_up,
    inside,
    kill,
    kill_when,
    learner_weights,
    pid_of,
    small_config,
    wait_for,
)

from harmonyray import build
from harmonyray.actors.runtime import RayRuntime
from harmonyray.cli import main
from harmonyray.protocols import Ask
from harmonyray.types import Sampling

pytestmark = pytest.mark.alone

SYNC_LIMIT_S = 20


@dataclass
class Bench:
    """A runtime that can be put back to the start, and what an undisturbed run computes on it."""

    runtime: Any
    grader: Any
    start: Path
    expected: Record
    expected_weights: dict[str, np.ndarray]

    def rewind(self) -> None:
        self.runtime.load(self.start)
        self.runtime.sync()
        self.runtime.take_restarts()

    def check(self, record: Record, weights: dict[str, np.ndarray], restarts: int) -> None:
        assert_same_rows(record.rows, self.expected.rows)
        assert record.tokens == self.expected.tokens
        assert_same_weights(weights, self.expected_weights)
        assert record.restarts == restarts
        for replica in self.runtime.replicas:
            assert_same_weights(engine_weights(replica.handle), weights)


@pytest.fixture(scope="module")
def bench(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    config = small_config(f"sync.timeout_s={SYNC_LIMIT_S}", "runtime.max_restarts=50")
    start = tmp_path_factory.mktemp("start")
    with build.open_runtime(config, build.make_views(config)) as (runtime, grader):
        runtime.save(start)
        record, weights = drive(config, runtime, grader)
        assert record.restarts == 0
        yield Bench(runtime, grader, start, record, weights)


def test_a_rewound_runtime_repeats_its_run(bench: Bench) -> None:
    """Without this the comparisons below would prove nothing."""
    bench.rewind()
    record, weights = drive(small_config(), bench.runtime, bench.grader)
    bench.check(record, weights, restarts=0)
    other, _ = drive(small_config("seed=1"), bench.runtime, bench.grader)
    assert other.tokens != record.tokens


def test_in_process_computes_the_same(bench: Bench) -> None:
    record, weights = drive_new(small_config("runtime.type=in_process"))
    assert_same_rows(record.rows, bench.expected.rows)
    assert record.tokens == bench.expected.tokens
    assert_same_weights(weights, bench.expected_weights)


@pytest.mark.slow
def test_two_replicas_of_a_view_compute_the_same_as_one(bench: Bench) -> None:
    config = small_config("placement.view.replicas=2")
    with build.open_runtime(config, build.make_views(config)) as (runtime, grader):
        assert [r.name for r in runtime.replicas] == [f"view {v} replica {i}" for v in ("solver", "reframer") for i in (0, 1)]
        record, weights = drive(config, runtime, grader)
        for replica in runtime.replicas:
            assert_same_weights(engine_weights(replica.handle), weights)
    assert_same_rows(record.rows, bench.expected.rows)
    assert record.tokens == bench.expected.tokens
    assert_same_weights(weights, bench.expected_weights)


@pytest.mark.slow
def test_a_view_actor_killed_between_steps(bench: Bench) -> None:
    bench.rewind()

    def between(step: int) -> None:
        if step == 2:
            kill(pid_of(bench.runtime.replicas[1].handle))

    bench.check(*drive(small_config(), bench.runtime, bench.grader, between), restarts=1)


@pytest.mark.slow
def test_all_view_actors_killed_between_steps(bench: Bench) -> None:
    bench.rewind()

    def between(step: int) -> None:
        if step == 1:
            for replica in bench.runtime.replicas:
                kill(pid_of(replica.handle))

    bench.check(*drive(small_config(), bench.runtime, bench.grader, between), restarts=2)


@pytest.mark.slow
def test_a_view_actor_killed_while_it_samples(bench: Bench, tmp_path: Path) -> None:
    bench.rewind()
    victim, marker = bench.runtime.replicas[0].handle, tmp_path / "sampling"
    hold_up(victim, "engine", "stream", marker, 600)
    with kill_when(marker, pid_of(victim)):
        record, weights = drive(small_config(), bench.runtime, bench.grader)
    bench.check(record, weights, restarts=1)


@pytest.mark.slow
def test_a_view_actor_killed_before_a_broadcast(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.rewind()
    after(monkeypatch, bench.runtime, "update", 2, lambda: kill(pid_of(bench.runtime.replicas[1].handle)))
    met: list[Any] = []
    monkeypatch.setattr(bench.runtime, "_mark_hung", met.append)
    record, weights = drive(small_config(), bench.runtime, bench.grader)
    bench.check(record, weights, restarts=1)
    assert met == [], "the dead engine was waited for"


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_view_actor_killed_during_a_broadcast(bench: Bench, tmp_path: Path, victim: int) -> None:
    """The victim has joined the broadcast and dies before it takes what the learner sends."""
    bench.rewind()
    handle, marker = bench.runtime.replicas[victim].handle, tmp_path / "receiving"
    hold_up(handle, "engine", "receive_weights", marker, 30)
    with kill_when(marker, pid_of(handle)):
        record, weights = drive(small_config(), bench.runtime, bench.grader)
    bench.check(record, weights, restarts=1)


@pytest.mark.slow
def test_a_view_actor_killed_while_it_counts_tokens(bench: Bench, tmp_path: Path) -> None:
    asked = build.make_views(small_config()), build.load_problems(small_config())[0]
    expected = bench.runtime.count_tokens(*asked)
    assert all(n > 0 for view in expected.values() for n in view)
    kill(pid_of(bench.runtime.replicas[0].handle))
    assert bench.runtime.count_tokens(*asked) == expected


@pytest.mark.slow
def test_a_killed_grader_is_replaced_and_asked_again(bench: Bench, tmp_path: Path) -> None:
    bench.rewind()
    victim, marker = bench.grader.handle, tmp_path / "grading"
    hold_up(victim, "grader", "group", marker, 30)
    with kill_when(marker, pid_of(victim)):
        record, weights = drive(small_config(), bench.runtime, bench.grader)
    bench.check(record, weights, restarts=1)
    assert bench.grader.equal([(r"\frac{1}{2}", "0.5"), ("3", "4")]) == [True, False]


def said(problems: Iterable[Any]) -> dict[str, list[list[int]]]:
    """The tokens of the first view, by problem."""
    return {item.problem.id: [s.token_ids.tolist() for s in item.fetch()[0]] for item in problems}


def test_a_runtime_that_only_samples_heals_and_closing_it_frees_everything(local_ray: None) -> None:
    """Without a learner a killed engine comes back with the weights of the file."""
    config = small_config("method.type=majority_vote", "views.reframer=null")
    views = build.make_views(config)
    asked = [Ask(views[0], 2, Sampling(8))], build.load_problems(config)[0], 0, (1,)
    before = ray.available_resources()["CPU"]
    with build.open_runtime(config, views, learn=False) as (runtime, grader):
        expected = said(runtime.sample(*asked))
        kill(pid_of(runtime.replicas[0].handle))
        assert said(runtime.sample(*asked)) == expected
        assert (runtime.take_restarts(), runtime.take_restarts()) == (1, 0)
        assert grader.equal([(r"x^2-1", "(x-1)(x+1)")]) == [True]
        pids = [pid_of(runtime.replicas[0].handle), pid_of(grader.handle)]
        solvers = children(pids[1])
        assert len(solvers) == 1, "the grader's math-verify child"
        assert wait_for(lambda: before - ray.available_resources()["CPU"] == pytest.approx(0.2), 15), "an engine, a grader"
    for pid in [*pids, *solvers]:
        assert gone_within(pid, 15), f"process {pid} outlives the run"
    assert wait_for(lambda: ray.available_resources()["CPU"] == pytest.approx(before), 15), "the placement group was not removed"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all runs: they share its MLflow database, which takes seconds to make."""
    return tmp_path_factory.mktemp("runs")


def train_cli(run_dir: Path, *overrides: str) -> int:
    return main(["train", "quickstart", *SMALL, *ROOM, *overrides, "--run-dir", str(run_dir), "--json"])


def after(monkeypatch: pytest.MonkeyPatch, runtime: Any, method: str, nth: int, action: Callable[[], None]) -> None:
    """Runs `action` after the nth call of a method (of one runtime, or of the class)."""
    original, calls = getattr(runtime, method), []

    def wrapped(*args: Any) -> Any:
        result = original(*args)
        calls.append(args)
        if len(calls) == nth:
            action()
        return result

    monkeypatch.setattr(runtime, method, wrapped)


@pytest.mark.slow
def test_more_deaths_than_max_restarts_end_the_run_and_leave_the_checkpoint(
    local_ray: None, runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Step 2 leaves a checkpoint, the third step's death is one too many; --resume then finishes what was begun."""
    update = RayRuntime.update

    def kill_one(self: RayRuntime, batch: Any, step: int) -> Any:
        report = update(self, batch, step)
        if step == 3:
            kill(pid_of(self.replicas[0].handle))
        return report

    monkeypatch.setattr(RayRuntime, "update", kill_one)
    run_dir = runs / "deaths"
    assert train_cli(run_dir, "runtime.max_restarts=0") == 1
    err = capsys.readouterr().err
    assert "view solver replica 0 died and all 0 restarts (runtime.max_restarts) are used" in err
    assert "--resume" in err
    assert "Traceback" not in err
    assert [p.name for p in (run_dir / "checkpoints").iterdir()] == ["step-000002"]
    assert len((run_dir / "metrics.jsonl").read_text().splitlines()) == 2

    monkeypatch.setattr(RayRuntime, "update", update)
    assert main(["train", "quickstart", *SMALL, *ROOM, "--run-dir", str(run_dir), "--resume", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["steps"] == 3
    assert [json.loads(line)["step"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3]


@pytest.mark.slow
def test_a_killed_learner_ends_the_run_with_a_word_about_resume(
    local_ray: None, runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = RayRuntime.sample

    def kill_learner(self: RayRuntime, *args: Any) -> Any:
        pid = pid_of(self.learner)
        groups = sample(self, *args)
        kill(pid)
        return groups

    monkeypatch.setattr(RayRuntime, "sample", kill_learner)
    monkeypatch.setattr("harmonyray.evaluate.Evaluator.evaluate", lambda self, version: {})
    assert train_cli(runs / "learner", "runtime.max_restarts=0") == 1
    err = capsys.readouterr().err
    assert "the learner died during 'update'" in err
    assert "the learner died and all 0 restarts" in err
    assert "--resume" in err
    assert "Traceback" not in err


@pytest.mark.slow
@pytest.mark.parametrize("tokenizer", ["{}", "not json"])
def test_a_model_that_cannot_be_loaded_by_the_actors_is_the_users_mistake(
    local_ray: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], tokenizer: str
) -> None:
    """The files are there, so the driver's own check passes; what is in them only shows in the actors."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "no-such-architecture"}')
    (model / "tokenizer.json").write_text(tokenizer)
    before = ray.available_resources()["CPU"]
    assert train_cli(tmp_path / "run", f"model.path={model}") == 2
    err = capsys.readouterr().err
    assert f"'{model}' cannot be loaded" in err
    assert "Traceback" not in err
    assert "ray::" not in err
    assert err.count("harmonyray:") == 1
    assert wait_for(lambda: ray.available_resources()["CPU"] > before - 1e-6, 60), "the seats were not freed"


def test_learner_weights_reader_reads_the_learner(bench: Bench) -> None:
    """The helper behind the comparisons above: it sees a change of one value."""
    before = learner_weights(bench.runtime)
    name = next(iter(before))

    def change(self: Any) -> None:
        self.learner.weights()[name].view(-1)[0] += 1

    inside(bench.runtime.learner, change)
    with pytest.raises(AssertionError, match="differs"):
        assert_same_weights(before, learner_weights(bench.runtime))
    bench.rewind()
