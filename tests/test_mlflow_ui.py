"""Runs and sweeps are really there in the MLflow UI: a real server, a real browser."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from chromium import IN_CHROMIUM, screenshots
from mlflow.tracking import MlflowClient

from harmonyray.cli import main

pytestmark = IN_CHROMIUM
SWEEP = """
name: mine
base: quickstart
overrides: [runtime.type=in_process, steps=2, problems.limit=4, rollout.problems_per_step=4, eval.num_samples=1]
cells: {harmonic: [], majority: [method.type=majority_vote]}
seeds: [0]
"""


@pytest.fixture(scope="module")
def sweep_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "mine.yaml").write_text(SWEEP)
    assert main(["sweep", str(folder / "mine.yaml"), "--sweep-dir", str(folder / "seen-in-the-browser"), "--json"]) == 0
    return folder / "seen-in-the-browser"


def test_a_sweeps_trials_stand_under_it_in_the_mlflow_ui_and_each_is_a_run(sweep_dir: Path, tmp_path: Path) -> None:
    trial = json.loads((sweep_dir / "trials.json").read_text())["trials"]["harmonic-seed0"]
    store = sweep_dir / "mlflow.db"
    experiment = MlflowClient(f"sqlite:///{store}").get_run(trial["mlflow_run_id"]).info.experiment_id
    script = screenshots()
    with script.mlflow_ui(store) as address, script.chromium() as driver:
        page = f"{address}/#/experiments/{experiment}"
        trials = ["harmonic-seed0", "majority-seed0"]
        runs = script.open_sweep(driver, page, sweep_dir.name, trials).splitlines()
        assert runs.index("seen-in-the-browser") < min(map(runs.index, trials))
        text = script.open_run(driver, f"{page}/runs/{trial['mlflow_run_id']}")
        assert "harmonic-seed0" in text
        assert "consensus/label_accuracy" in text
        assert "learner.lr" in text and "0.0003" in text
        driver.save_screenshot(str(tmp_path / "ui.png"))
    assert (tmp_path / "ui.png").stat().st_size > 20_000
