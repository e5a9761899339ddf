"""A run directory belongs to one process, and what it recorded before its first checkpoint is not lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient
from run_helpers import rows, small_run

from harmonyray.config import load_config
from harmonyray.errors import ConfigError
from harmonyray.files import write_text
from harmonyray.rundir import open_run
from harmonyray.tracking import RunTracker


def break_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run ends, as by a crash, right after `step` was recorded."""
    log = RunTracker.log_step

    def log_and_break(self: RunTracker, at: int, *args: Any) -> None:
        log(self, at, *args)
        if at == step:
            raise RuntimeError("broken on purpose")

    monkeypatch.setattr(RunTracker, "log_step", log_and_break)


def steps_in_mlflow(folder: Path, run_id: str) -> list[int]:
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    return [point.step for point in client.get_metric_history(run_id, "policy_version")]


@pytest.mark.parametrize("every", [2, 10])
def test_a_resumed_run_logs_every_step_once_and_to_the_same_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    options = ["steps=4", f"checkpoint.every={every}"]
    with monkeypatch.context() as patch:
        break_at(3, patch)
        with pytest.raises(RuntimeError, match="broken on purpose"):
            small_run(tmp_path / "run", *options)
    recorded = json.loads((tmp_path / "run" / "run.json").read_text())
    summary = small_run(tmp_path / "run", *options, resume=True)
    assert summary["mlflow_run_id"] == recorded["mlflow_run_id"]
    assert summary["eval_before"] == recorded["eval_before"]
    assert steps_in_mlflow(tmp_path, summary["mlflow_run_id"]) == [1, 2, 3, 4]
    assert [row["step"] for row in rows(tmp_path / "run")] == [1, 2, 3, 4]


def test_one_process_at_a_time(tmp_path: Path) -> None:
    config = load_config("quickstart")
    with open_run(config, tmp_path / "run", resume=False) as start:
        write_text(start.run_dir / "config.yaml", config.to_yaml())
        for resume in (False, True):
            with (
                pytest.raises(ConfigError, match="belongs to a run that is still going"),
                open_run(config, start.run_dir, resume),
            ):
                pass
    with open_run(config, tmp_path / "run", resume=True) as again:
        assert again.first_step == 1


def test_a_views_exception_keeps_what_it_does_not_set() -> None:
    config = load_config(
        "quickstart", ["placement.view.replicas=4", "placement.view.num_cpus=2", "placement.views.reframer.num_gpus=1"]
    )
    placed = config.placement.for_group("reframer")
    assert (placed.replicas, placed.num_cpus, placed.num_gpus) == (4, 2, 1)
    assert config.placement.for_group("solver").num_gpus == 0
