"""What MLflow holds of a run, read back from the SQLite store by its own client; and runs that fail."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient
from run_helpers import rows, small_run, steady, weights

from harmonyray.console import Reporter
from harmonyray.errors import RunError, TrackingError

FAILING = '''
from harmonyray.algos.self_harmony import SelfHarmony
from harmonyray.errors import RunError


class Failing(SelfHarmony):
    """Self-Harmony that gives up at step 3."""

    def judge(self, groups, step):
        if step == 3:
            raise RunError("the roof is on fire")
        return super().judge(groups, step)
'''


class StopAt2(Reporter):
    """Presses Ctrl-C while step 2 is being reported."""

    def step(self, row: Mapping[str, float]) -> None:
        super().step(row)
        if row["step"] == 2:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tracked")


@pytest.fixture(scope="module")
def client(folder: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")


@pytest.fixture(scope="module")
def finished(folder: Path) -> tuple[Path, dict[str, Any]]:
    return folder / "good", small_run(folder / "good", "steps=4", "eval.every=2", "tracking.experiment=mine")


@pytest.fixture
def failing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "failing_method_of_mine.py").write_text(FAILING)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield "failing_method_of_mine:Failing"
    sys.modules.pop("failing_method_of_mine", None)


def test_a_finished_run_has_parameters_metrics_and_artifacts(client: MlflowClient, finished: tuple[Path, dict[str, Any]]) -> None:
    run_dir, summary = finished
    run = client.get_run(summary["mlflow_run_id"])
    assert (run.info.status, run.info.run_name) == ("FINISHED", "good")
    assert client.get_experiment(run.info.experiment_id).name == "mine"
    wanted = {
        "learner.lr": "0.0003",
        "method.type": "self_harmony",
        "method.selector.type": "harmonic",
        "views.solver.num_samples": "4",
        "steps": "4",
        "tracking.uri": "None",
    }
    assert {k: run.data.params[k] for k in wanted} == wanted
    artifacts = {a.path for a in client.list_artifacts(run.info.run_id)}
    assert artifacts == {"config.yaml", "metrics.jsonl", "run.json", "summary.json", "summary.txt", "rollouts", "ledger"}
    assert len(client.list_artifacts(run.info.run_id, "rollouts")) == 4
    local = client.download_artifacts(run.info.run_id, "metrics.jsonl")
    assert Path(local).read_text() == (run_dir / "metrics.jsonl").read_text()


def test_every_metric_of_every_step_is_there(client: MlflowClient, finished: tuple[Path, dict[str, Any]]) -> None:
    run_dir, summary = finished
    got = rows(run_dir)
    names = {name for row in got for name in row} - {"step"}
    assert set(client.get_run(summary["mlflow_run_id"]).data.metrics) == names
    for name in ("reward/solver/mean", "train/loss", "policy_version", "time/step_s"):
        history = {m.step: m.value for m in client.get_metric_history(summary["mlflow_run_id"], name)}
        assert history == {row["step"]: pytest.approx(row[name]) for row in got}
    evals = client.get_metric_history(summary["mlflow_run_id"], "eval/solver/avg_at_k")
    before = summary["eval_before"]["eval/solver/avg_at_k"]
    expected = {0: before, 2: got[1]["eval/solver/avg_at_k"], 4: got[3]["eval/solver/avg_at_k"]}
    assert {m.step: m.value for m in evals} == expected


def test_an_interrupted_run_is_killed_and_its_resumption_is_the_same_run(
    folder: Path, client: MlflowClient, finished: tuple[Path, dict[str, Any]], capsys: Any
) -> None:
    options = ("steps=4", "eval.every=2", "tracking.experiment=mine")
    with pytest.raises(KeyboardInterrupt):
        small_run(folder / "stopped", *options, reporter=StopAt2(quiet=True))
    run_id = next(r for r in client.search_runs(["1"]) if r.info.run_name == "stopped").info.run_id
    assert client.get_run(run_id).info.status == "KILLED"
    assert len(client.get_metric_history(run_id, "train/loss")) == 2
    summary = small_run(folder / "stopped", *options, resume=True)
    assert summary["mlflow_run_id"] == run_id
    assert client.get_run(run_id).info.status == "FINISHED"
    assert [m.step for m in client.get_metric_history(run_id, "train/loss")] == [1, 2, 3, 4]
    assert steady(folder / "stopped") == steady(finished[0])
    assert "did not take" not in capsys.readouterr().err


def test_a_failed_run_is_failed_and_keeps_what_it_has(folder: Path, client: MlflowClient, failing: str) -> None:
    run_dir = folder / "failed"
    options = ("steps=4", "checkpoint.every=2", f"method.type={failing}", "tracking.experiment=mine")
    with pytest.raises(RunError, match="the roof is on fire"):
        small_run(run_dir, *options)
    run = next(r for r in client.search_runs(["1"]) if r.info.run_name == "failed")
    assert run.info.status == "FAILED"
    assert [row["step"] for row in rows(run_dir)] == [1, 2]
    assert [p.name for p in (run_dir / "checkpoints").iterdir()] == ["step-000002"]


def test_a_run_moved_away_from_its_store_goes_on_in_a_new_record(
    folder: Path, tmp_path: Path, finished: tuple[Path, dict[str, Any]]
) -> None:
    """Only the directory is copied to another machine: the old MLflow run is not there to be taken up."""
    with pytest.raises(KeyboardInterrupt):
        small_run(tmp_path / "a" / "run", "steps=4", "eval.every=2", "tracking.experiment=mine", reporter=StopAt2(quiet=True))
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "run").rename(tmp_path / "b" / "run")
    summary = small_run(tmp_path / "b" / "run", "steps=4", "eval.every=2", "tracking.experiment=mine", resume=True)
    assert weights(tmp_path / "b" / "run" / "model") == weights(finished[0] / "model")
    store = MlflowClient(f"sqlite:///{tmp_path / 'b' / 'mlflow.db'}")
    run = store.get_run(summary["mlflow_run_id"])
    assert (run.info.status, run.data.params["steps"]) == ("FINISHED", "4")


def test_a_store_that_cannot_be_used_stops_the_run_with_the_directory_free(tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(TrackingError, match=r"(?s)MLflow store 'nonsense://x' cannot be used: .*correct 'tracking\.uri'"):
        small_run(tmp_path / "run", "steps=1", "tracking.uri=nonsense://x")
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr().err == ""


def test_a_store_of_the_users_own(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    summary = small_run(tmp_path / "runs" / "run", "steps=1", f"tracking.uri={uri}", "tracking.experiment=theirs")
    assert MlflowClient(uri).get_run(summary["mlflow_run_id"]).info.status == "FINISHED"
    assert not (tmp_path / "runs" / "mlflow.db").exists()
    assert any((tmp_path / "mlartifacts").rglob("metrics.jsonl"))
