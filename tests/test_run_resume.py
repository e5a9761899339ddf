"""Stopping, crashing and going on: whatever happens in between, six steps are the same six steps to the last bit."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from run_helpers import SIX, assert_same_run, rows, small_run

from harmonyray import build
from harmonyray.console import Reporter
from harmonyray.errors import CheckpointError, ConfigError
from harmonyray.inprocess import InProcessRuntime

WHOLE = ("steps=6", "eval.every=3", "checkpoint.every=10", "learner.schedule=cosine")


class Interrupting(Reporter):
    """Presses Ctrl-C while step `at` is being reported; twice if told so."""

    def __init__(self, at: int, times: int = 1) -> None:
        super().__init__(quiet=True)
        self.at, self.times = at, times

    def step(self, row: Mapping[str, float]) -> None:
        super().step(row)
        if row["step"] == self.at:
            for _ in range(self.times):
                os.kill(os.getpid(), signal.SIGINT)


class Beginning(Reporter):
    """Keeps what it was told when the training began."""

    began: tuple[Mapping[str, float], int]

    def evaluated(self, metrics: Mapping[str, float], done: int = 0) -> None:
        super().evaluated(metrics, done)
        self.began = metrics, done


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the runs of this module live; they share one MLflow store."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def six(folder: Path) -> tuple[Path, dict[str, Any]]:
    """An undisturbed run of six steps."""
    return folder / "six", small_run(folder / "six", *SIX)


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    """An undisturbed run of six steps with a learning rate that depends on the step."""
    small_run(folder / "whole", *WHOLE)
    return folder / "whole"


def test_three_steps_and_three_more_are_six(folder: Path, six: tuple[Path, dict[str, Any]], capsys: Any) -> None:
    run_dir = folder / "three"
    first = small_run(run_dir, *SIX[1:], "steps=3")
    assert [row["step"] for row in rows(run_dir)] == [1, 2, 3]
    reporter = Beginning(quiet=True)
    second = small_run(run_dir, *SIX, resume=True, reporter=reporter)
    assert "configured otherwise than this run was started: steps: 3 -> 6\n" in capsys.readouterr().err
    assert_same_run(run_dir, six[0])
    assert (first["first_step"], second["first_step"]) == (1, 4)
    assert (run_dir / "summary.txt").read_text().startswith("quickstart: self_harmony, 6 steps, the last 3 of them in ")
    assert reporter.began == (first["eval_after"], 3), "it goes on from where it was"
    assert second["eval_before"] == first["eval_before"] == six[1]["eval_before"]
    assert second["mlflow_run_id"] == first["mlflow_run_id"]
    assert yaml.safe_load((run_dir / "config.yaml").read_text())["steps"] == 6
    assert "MLflow did not take" not in capsys.readouterr().err


def test_ctrl_c_finishes_the_step_and_resuming_makes_it_whole(folder: Path, whole: Path, capsys: Any) -> None:
    run_dir = folder / "interrupted"
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        small_run(run_dir, *WHOLE, reporter=Interrupting(at=2))
    assert signal.getsignal(signal.SIGINT) is before
    assert "finishing this step and saving a checkpoint" in capsys.readouterr().err
    assert [row["step"] for row in rows(run_dir)] == [1, 2]
    assert [p.name for p in (run_dir / "checkpoints").iterdir()] == ["step-000002"]
    assert not (run_dir / "model").exists()
    small_run(run_dir, *WHOLE, resume=True)
    assert_same_run(run_dir, whole)


def test_a_second_ctrl_c_stops_at_once_and_the_run_starts_over(folder: Path, whole: Path) -> None:
    run_dir = folder / "impatient"
    with pytest.raises(KeyboardInterrupt):
        small_run(run_dir, *WHOLE, reporter=Interrupting(at=2, times=2))
    assert not (run_dir / "checkpoints").exists()
    small_run(run_dir, *WHOLE, resume=True)
    assert_same_run(run_dir, whole)


def test_what_a_crash_left_after_the_checkpoint_is_done_again(folder: Path, whole: Path) -> None:
    """Steps past the checkpoint, a metrics line cut short, half-written files and folders."""
    run_dir = folder / "crashed"
    with pytest.raises(KeyboardInterrupt):
        small_run(run_dir, *WHOLE, reporter=Interrupting(at=2))
    extra = (whole / "metrics.jsonl").read_text().splitlines()
    with (run_dir / "metrics.jsonl").open("a") as f:
        f.write(extra[2].replace('"step": 3', '"step": 3, "junk": 1') + "\n" + extra[3][:100])
    (run_dir / "rollouts" / "step-000003.parquet").write_bytes(b"junk")
    (run_dir / "rollouts" / "step-000099.parquet").write_bytes(b"junk")
    shutil.copytree(run_dir / "checkpoints" / "step-000002", run_dir / "checkpoints" / ".partial-step-000004")
    (run_dir / ".partial-model").mkdir()
    small_run(run_dir, *WHOLE, resume=True)
    assert_same_run(run_dir, whole)
    assert not (run_dir / ".partial-model").exists()


def test_a_finished_run_resumed_says_so_and_starts_nothing(
    folder: Path, six: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    run_dir = folder / "finished"
    shutil.copytree(six[0], run_dir)
    with monkeypatch.context() as patched:
        patched.setattr(build, "open_runtime", None)
        summary = small_run(run_dir, *SIX, resume=True, reporter=Reporter())
    said = capsys.readouterr().out
    assert said.startswith(f"{run_dir} is finished: all of its 6 steps are done, and nothing was started. To train longer, ")
    assert "e.g. steps=12\n" in said
    assert said.endswith((run_dir / "summary.txt").read_text())
    assert summary["run_dir"] == str(run_dir)
    assert_same_run(run_dir, six[0])
    assert {k: v for k, v in summary.items() if k not in ("wall_seconds", "run_dir")} == {
        k: v for k, v in six[1].items() if k not in ("wall_seconds", "run_dir")
    }


def test_a_run_whose_model_was_not_saved_is_not_finished(folder: Path, six: tuple[Path, dict[str, Any]]) -> None:
    run_dir = folder / "no-model"
    shutil.copytree(six[0], run_dir)
    shutil.rmtree(run_dir / "model")
    small_run(run_dir, *SIX, resume=True)
    assert_same_run(run_dir, six[0])


def test_a_run_does_not_go_back(folder: Path, six: tuple[Path, dict[str, Any]]) -> None:
    before = (six[0] / "metrics.jsonl").read_text()
    with pytest.raises(ConfigError, match=r"has reached step 6 already, and 'steps' is 4"):
        small_run(six[0], *SIX[1:], "steps=4", resume=True)
    assert (six[0] / "metrics.jsonl").read_text() == before


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("learner.lr=1e-5", r"learner\.lr: 0\.0003 -> 1e-05"),
        ("seed=1", "seed: 0 -> 1"),
        ("views.solver.num_samples=5", r"views\.solver\.num_samples: 4 -> 5"),
        ("method.selector=majority", r"method\.selector\.type: 'harmonic' -> 'majority'"),
    ],
)
def test_another_experiment_is_not_resumed(six: tuple[Path, dict[str, Any]], change: str, named: str) -> None:
    with pytest.raises(ConfigError, match=f"is not the one .* was started with .*{named}"):
        small_run(six[0], *SIX, change, resume=True)


def test_of_many_differences_the_number_is_told(six: tuple[Path, dict[str, Any]]) -> None:
    others = [
        "seed=1",
        "learner.lr=1e-5",
        "learner.max_grad_norm=2.0",
        "views.solver.num_samples=5",
        "views.reframer.num_samples=5",
    ]
    others += ["method.selector=majority", "rollout.problems_per_step=3"]
    with pytest.raises(ConfigError, match=r"learner\.lr: 0\.0003 -> 1e-05; .*; and \d+ more\)"):
        small_run(six[0], *SIX, *others, resume=True)


def test_after_damage_the_checkpoint_before_is_used(folder: Path, six: tuple[Path, dict[str, Any]], capsys: Any) -> None:
    """One byte of the optimizer's moments: nothing but the checksum could tell."""
    run_dir = folder / "damaged"
    shutil.copytree(six[0], run_dir)
    path = run_dir / "checkpoints" / "step-000006" / "optimizer.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    small_run(run_dir, *SIX, resume=True)
    said = capsys.readouterr().err
    assert "step-000006' is refused: 'optimizer.safetensors' was altered" in said
    assert "going on from step 3" in said
    assert_same_run(run_dir, six[0])
    assert sorted(p.name for p in (run_dir / "checkpoints").iterdir()) == ["refused-step-000006", "step-000003", "step-000006"]
    small_run(run_dir, *SIX, resume=True)
    assert "refused" not in capsys.readouterr().err


def test_with_no_good_checkpoint_left_nothing_is_touched(folder: Path, six: tuple[Path, dict[str, Any]]) -> None:
    run_dir = folder / "all-damaged"
    shutil.copytree(six[0], run_dir)
    (run_dir / "checkpoints" / "step-000003" / "learner.json").unlink()
    (run_dir / "checkpoints" / "step-000006" / "manifest.json").unlink()
    metrics = (run_dir / "metrics.jsonl").read_bytes()
    with pytest.raises(
        CheckpointError, match=r"none of the checkpoints in (.|\n)*step-000006: it has no(.|\n)*'learner.json' is missing"
    ):
        small_run(run_dir, *SIX, resume=True)
    assert sorted(p.name for p in (run_dir / "checkpoints").iterdir()) == ["step-000003", "step-000006"]
    assert (run_dir / "metrics.jsonl").read_bytes() == metrics
    shutil.rmtree(run_dir / "checkpoints")
    small_run(run_dir, *SIX, resume=True)
    assert_same_run(run_dir, six[0])


BEST = ("eval.every=1", "checkpoint.every=10", "checkpoint.keep=1", "checkpoint.best=eval/solver/avg_at_k")


def test_the_best_step_is_saved_and_known_after_a_resume(folder: Path) -> None:
    """Also where no checkpoint was due. The learning rate is set so high that the model gets worse in the end."""
    run_dir, options = folder / "best", [*BEST, "learner.lr=0.02"]
    small_run(run_dir, "steps=3", *options)
    small_run(run_dir, "steps=4", *options, resume=True)
    accuracy = {row["step"]: row["eval/solver/avg_at_k"] for row in rows(run_dir)}
    best = max(accuracy, key=lambda step: (accuracy[step], -step))
    assert best < 4
    assert sorted(p.name for p in (run_dir / "checkpoints").iterdir()) == [f"step-{step:06d}" for step in (best, 4)]
    state = json.loads((run_dir / "checkpoints" / f"step-{best:06d}" / "state.json").read_text())
    assert state["eval"]["eval/solver/avg_at_k"] == accuracy[best]


def test_a_learner_whose_disk_is_not_ours_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a cluster without a shared file system: the learner's files appear on another node."""
    monkeypatch.setattr(InProcessRuntime, "save", lambda self, directory: None)
    with pytest.raises(CheckpointError, match="nothing is there on this node: the run directory has to be on a file system"):
        small_run(tmp_path / "run", "steps=1", "eval.every=0")
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []
