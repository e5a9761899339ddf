"""A run is really there in the MLflow UI: a real server, a real browser."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

from harmonyray.config import load_config
from harmonyray.console import Reporter
from harmonyray.run import run_training

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "mlflow_screenshot.py"


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.skipif(shutil.which("chromedriver") is None, reason="no chromium and chromedriver on the PATH")
def test_the_run_stands_in_the_mlflow_ui(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("mlflow_screenshot", SCRIPT)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    small = ["runtime.type=in_process", "steps=2", "problems.limit=4", "rollout.problems_per_step=4", "eval.num_samples=1"]
    run_dir = tmp_path / "seen-in-the-browser"
    run_training(load_config("quickstart", small), run_dir, resume=False, reporter=Reporter(quiet=True))
    text = script.photograph(run_dir, tmp_path / "ui.png")
    assert "seen-in-the-browser" in text
    assert "consensus/label_accuracy" in text
    assert "learner.lr" in text and "0.0003" in text
    assert (tmp_path / "ui.png").stat().st_size > 20_000
