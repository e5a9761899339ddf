"""What a trial's MLflow run says of its sweep, with the server there and away; and that the trial's own process says it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from run_helpers import small_run

from harmonyray.config import load_config
from harmonyray.mlflow_run import MlflowRun
from harmonyray.outbox import Place
from harmonyray.sweep import command
from harmonyray.sweep.command import Membership
from harmonyray.sweep.scheduler import Scheduler
from harmonyray.sweep.trials import Cell, Trial
from harmonyray.tracking import TAGS_VARIABLE

NOBODY = "http://127.0.0.1:9"  # a port on which nothing listens


def a_trial() -> Trial:
    return Trial("ours-seed0", Cell("ours", "lr=1", ()), 0, load_config("quickstart"))


def test_a_trial_stands_under_the_sweep_that_mlflow_knows(tmp_path: Path) -> None:
    place = Place(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path.as_uri(), "e")
    mlflow = MlflowRun(place, tmp_path, "mine", pytest.fail)
    tags = Membership(mlflow, "mine", pytest.fail).tags(a_trial())
    assert tags == {"mlflow.parentRunId": mlflow.run_id, "sweep/name": "mine", "sweep/cell": "ours, lr=1"}
    assert mlflow.finish("FINISHED") == []


def test_a_sweep_without_an_id_is_told_once_and_named(tmp_path: Path) -> None:
    mlflow, told = MlflowRun(Place(NOBODY, None, "e"), tmp_path, "mine", lambda words: None), list[str]()
    membership = Membership(mlflow, "mine", told.append)
    assert [membership.tags(a_trial()) for _ in range(2)] == [{"sweep/name": "mine", "sweep/cell": "ours, lr=1"}] * 2
    (words,) = told
    assert "find them by their tag: tags.`sweep/name` = 'mine'" in words
    mlflow.finish("FAILED")


def test_the_summary_knows_the_run_of_a_server_that_came_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that has an answer from the second question on, and a scheduler whose trials fail at once."""

    class Late(MlflowRun):
        questions = 0

        @property
        def run_id(self) -> str | None:
            self.questions += 1
            return None if self.questions == 1 else super().run_id

    class Failing(Scheduler):
        def run(self) -> None:
            for trial in self.state.trials.values():
                trial.status = "failed"

    monkeypatch.setattr(command, "MlflowRun", Late)
    monkeypatch.setattr(command, "Scheduler", Failing)
    (tmp_path / "mine.yaml").write_text("name: mine\nbase: quickstart\nseeds: [0]\noverrides: [runtime.type=in_process]\n")
    request = command.SweepRequest(str(tmp_path / "mine.yaml"), sweep_dir=tmp_path / "sweep")
    summary = command.run_sweep(request, lambda words: None)
    run = MlflowClient(f"sqlite:///{tmp_path / 'sweep' / 'mlflow.db'}").get_run(summary["mlflow_run_id"])
    assert run.info.run_name == "sweep"
    assert json.loads((tmp_path / "sweep" / "trials.json").read_text())["mlflow_run_id"] == summary["mlflow_run_id"]


def test_a_run_logs_the_tags_that_it_was_started_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tags = {"mlflow.parentRunId": "abc", "sweep/cell": "ours"}
    monkeypatch.setenv(TAGS_VARIABLE, json.dumps(tags))
    summary = small_run(tmp_path / "run", "steps=1", "eval.every=0")
    run = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}").get_run(summary["mlflow_run_id"])
    assert tags.items() <= run.data.tags.items()
