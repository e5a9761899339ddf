"""Whole runs that the collapse guard warns of, pauses and rolls back. The sign is KL to the first model, with a limit so low that
a small run passes it in its second and third step: the first alarm is step 3's, its onset step 2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient
from run_helpers import SMALL, assert_same_run, rows, samples, small_run, steady, weights

from harmonyray.cli import main
from harmonyray.console import Reporter
from harmonyray.errors import CollapseError

AT_ONCE = ("steps=4", "eval.every=0", "guard.window=2", "guard.max_kl=1e-12", "learner.schedule=cosine")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the runs of this module live; they share one MLflow store."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def warned(folder: Path) -> tuple[Path, dict[str, Any]]:
    """An undisturbed run of which the guard warns."""
    return folder / "warned", small_run(folder / "warned", *AT_ONCE)


def mlflow_run(run_dir: Path, summary: dict[str, Any]) -> tuple[MlflowClient, Any]:
    client = MlflowClient(f"sqlite:///{run_dir.parent / 'mlflow.db'}")
    return client, client.get_run(summary["mlflow_run_id"])


def unguarded(run_dir: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if not k.startswith("guard/")} for row in steady(run_dir)]


def test_a_warning_reaches_metrics_summary_and_mlflow(warned: tuple[Path, dict[str, Any]], capsys: Any) -> None:
    run_dir, summary = warned
    assert [row["guard/fired"] for row in rows(run_dir)] == [row["guard/kl"] for row in rows(run_dir)] == [0, 0, 1, 1]
    assert all(row["guard/sharpening"] == row["guard/rollbacks"] == 0 for row in rows(run_dir))
    (event,) = summary["guard"]
    assert (event["step"], event["onset"], list(event["signs"]), event["action"]) == (3, 2, ["kl"], "warn")
    assert json.loads((run_dir / "summary.json").read_text())["guard"] == summary["guard"]
    text = (run_dir / "summary.txt").read_text()
    assert "\nstep 3: collapse guard: kl: " in text
    assert [line.split("│")[2:4] for line in text.splitlines() if "collapse guard: kl  " in line] == [["   warn ", " step 3 "]]
    client, run = mlflow_run(run_dir, summary)
    assert run.data.tags["guard"].startswith("step 3: collapse guard: kl: ")
    assert [point.value for point in client.get_metric_history(run.info.run_id, "guard/fired")] == [0, 0, 1, 1]


def test_the_warning_is_one_line_and_json_has_it(folder: Path, capsys: Any) -> None:
    run_dir = folder / "said"
    assert main(["train", "quickstart", *SMALL, *AT_ONCE, "--run-dir", str(run_dir), "--json"]) == 0
    said = capsys.readouterr()
    assert [line for line in said.err.splitlines() if "guard" in line] == [
        line for line in said.err.splitlines() if line.startswith("step 3: collapse guard: kl: ")
    ]
    assert said.err.count("collapse guard") == 1
    assert [event["step"] for event in json.loads(said.out.splitlines()[-1])["guard"]] == [3]


def test_the_guard_changes_nothing_but_its_own_figures(folder: Path, warned: tuple[Path, dict[str, Any]]) -> None:
    run_dir = folder / "none"
    summary = small_run(run_dir, *AT_ONCE, "guard.action=none")
    assert summary["guard"] == []
    assert not [key for row in rows(run_dir) for key in row if key.startswith("guard/")]
    assert unguarded(run_dir) == unguarded(warned[0])
    assert weights(run_dir / "model") == weights(warned[0] / "model")
    assert "collapse guard" not in (run_dir / "summary.txt").read_text()


@pytest.mark.parametrize("cut", [2, 3])
def test_a_resumed_run_is_warned_of_like_a_whole_one(folder: Path, warned: tuple[Path, dict[str, Any]], cut: int) -> None:
    run_dir = folder / f"cut-{cut}"

    class Stopping(Reporter):
        def step(self, row: Any) -> None:
            super().step(row)
            if row["step"] == cut:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small_run(run_dir, *AT_ONCE, "checkpoint.every=1", reporter=Stopping(quiet=True))
    summary = small_run(run_dir, *AT_ONCE, resume=True)
    assert_same_run(run_dir, warned[0])
    assert summary["guard"] == warned[1]["guard"]


def test_a_pause_saves_and_says_how_to_go_on(folder: Path, warned: tuple[Path, dict[str, Any]], capsys: Any) -> None:
    run_dir = folder / "paused"
    command = ["train", "quickstart", *SMALL, *AT_ONCE, "--run-dir", str(run_dir)]
    assert main([*command, "guard.action=pause", "checkpoint.every=1"]) == 1
    said = capsys.readouterr().err
    assert "harmonyray: step 3: paused by the collapse guard: kl: " in said
    assert "since step 2. Step 3 is saved: go on with --resume and guard.action=warn" in said
    assert said.endswith("\n")
    assert "Traceback" not in said
    assert [p.name for p in sorted((run_dir / "checkpoints").iterdir())] == ["step-000002", "step-000003"]
    assert [row["step"] for row in rows(run_dir)] == [1, 2, 3]
    summary = json.loads((run_dir / "summary.json").read_text())
    assert (summary["steps"], summary["eval_after"]) == (3, {})
    assert f"harmonyray: {summary['paused']}\n" == said[said.index("harmonyray: ") :]
    text = (run_dir / "summary.txt").read_text()
    assert text.startswith("quickstart: self_harmony, paused after 3 of 4 steps, ")
    assert f"go on   the same command with --run-dir {run_dir} --resume guard.action=warn" in text
    assert not (run_dir / "model").exists()
    with pytest.raises(CollapseError, match="step 4: paused"):
        small_run(run_dir, *AT_ONCE, "guard.action=pause", resume=True)
    assert not (run_dir / "model").exists()
    assert main([*command, "guard.action=warn", "--resume"]) == 0
    assert unguarded(run_dir) == unguarded(warned[0])
    assert weights(run_dir / "model") == weights(warned[0] / "model")
    summary = json.loads((run_dir / "summary.json").read_text())
    assert "paused" not in summary
    events = summary["guard"]
    assert [(event["step"], event["action"]) for event in events] == [(3, "pause"), (4, "pause")]


BACK = ("steps=3", "eval.every=0", "learner.schedule=cosine", "guard.window=2", "guard.action=rollback")
LAGS = {0: (), 1: ("rollout.lag=1", "loss.type=truncated_is")}


def between(folder: Path, lag: int) -> str:
    """A limit of KL that the run passes in steps 2 and 3, and at half the learning rate never in two steps in a row."""
    kls = {}
    for name, lr in (("full", 3e-4), ("half", 1.5e-4)):
        run_dir = folder / f"{name}-{lag}"
        if not run_dir.exists():
            small_run(run_dir, *BACK[:3], *LAGS[lag], f"learner.lr={lr}", "guard.action=none")
        kls[name] = [row["train/kl"] for row in rows(run_dir)]
    high, low = min(kls["full"][1:3]), max(min(pair) for pair in zip(kls["half"], kls["half"][1:], strict=False))
    assert low < high, kls
    return f"guard.max_kl={(low + high) / 2}"


@pytest.mark.parametrize("lag", LAGS)
def test_a_run_that_went_back_is_the_run_with_the_lower_rate(folder: Path, lag: int) -> None:
    """Back to step 0 and half the rate: from there on it is, to the last bit, the run that began with half the rate."""
    limit, run_dir = between(folder, lag), folder / f"back-{lag}"
    summary = small_run(run_dir, *BACK, *LAGS[lag], limit)
    (event,) = summary["guard"]
    assert (event["step"], event["onset"], event["action"], event["to"], event["lr_scale"]) == (3, 2, "rollback", 0, 0.5)
    assert [row["guard/rollbacks"] for row in rows(run_dir)] == [1] * 3
    half = folder / f"half-{lag}"
    assert unguarded(run_dir) == unguarded(half)
    assert samples(run_dir) == samples(half)
    assert weights(run_dir / "model") == weights(half / "model")
    client, run = mlflow_run(run_dir, summary)
    assert "back to step 0, 0.5 of the learning rate" in run.data.tags["guard"]
    assert "back to step 0, 0.5 of the learning rate" in (run_dir / "summary.txt").read_text()
    points = client.get_metric_history(run.info.run_id, "guard/fired")
    assert sorted((point.step, point.value) for point in points if point.value) == [(3, 1)]
    assert sorted(point.step for point in points) == [1, 1, 2, 2, 3, 3]


def test_the_lower_rate_survives_a_crash_after_going_back(folder: Path) -> None:
    limit, run_dir = between(folder, 0), folder / "crashed"

    class Crashing(Reporter):
        def step(self, row: Any) -> None:
            super().step(row)
            if row["step"] == 2 and row["guard/rollbacks"]:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small_run(run_dir, *BACK, limit, reporter=Crashing(quiet=True))
    assert [p.name for p in (run_dir / "checkpoints").iterdir()] == ["step-000000"]
    summary = small_run(run_dir, *BACK, limit, resume=True)
    assert [(event["step"], event["to"]) for event in summary["guard"]] == [(3, 0)]
    assert unguarded(run_dir) == unguarded(folder / "half-0")
    assert weights(run_dir / "model") == weights(folder / "half-0" / "model")


def test_the_last_rollback_is_followed_by_a_pause(folder: Path) -> None:
    """From step 1 each time, as checkpoints are made every step; the third alarm pauses."""
    between(folder, 0)  # makes the run that the rates are compared with
    run_dir = folder / "thrice"
    wanted = (*BACK, "guard.max_kl=1e-12", "checkpoint.every=1", "checkpoint.keep=3")
    with pytest.raises(CollapseError, match=r"step 3: paused by the collapse guard after 2 rollback\(s\)") as paused:
        small_run(run_dir, *wanted)
    assert "delete the checkpoints after step 1, the last good one" in str(paused.value)
    full = rows(folder / "full-0")
    assert [row["step"] for row in rows(run_dir)] == [1, 2, 3]
    assert [row["train/lr"] for row in rows(run_dir)] == [full[0]["train/lr"], full[1]["train/lr"] / 4, full[2]["train/lr"] / 4]
    kept = [p.name for p in sorted((run_dir / "checkpoints").iterdir())]
    assert kept == [f"step-{i:06d}" for i in range(4)], "the newest three, and one from three steps before the last"
