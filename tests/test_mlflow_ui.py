"""Runs and sweeps are really there in the MLflow UI: a real server, a real browser."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import pytest

from harmonyray.cli import main

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "mlflow_screenshot.py"


pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(shutil.which("chromedriver") is None, reason="no chromium and chromedriver on the PATH"),
]
SWEEP = """
name: mine
base: quickstart
overrides: [runtime.type=in_process, steps=2, problems.limit=4, rollout.problems_per_step=4, eval.num_samples=1]
cells: {harmonic: [], majority: [method.type=majority_vote]}
seeds: [0]
"""


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("mlflow_screenshot", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def sweep_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "mine.yaml").write_text(SWEEP)
    assert main(["sweep", str(folder / "mine.yaml"), "--sweep-dir", str(folder / "seen-in-the-browser"), "--json"]) == 0
    return folder / "seen-in-the-browser"


def test_a_run_stands_in_the_mlflow_ui(script: Any, sweep_dir: Path, tmp_path: Path) -> None:
    text = script.photograph(sweep_dir / "harmonic-seed0", tmp_path / "ui.png")
    assert "harmonic-seed0" in text
    assert "consensus/label_accuracy" in text
    assert "learner.lr" in text and "0.0003" in text
    assert (tmp_path / "ui.png").stat().st_size > 20_000


def test_a_sweeps_trials_stand_under_it_in_the_mlflow_ui(script: Any, sweep_dir: Path, tmp_path: Path) -> None:
    text = script.photograph(sweep_dir, tmp_path / "ui.png")
    lines = text.splitlines()
    assert lines.index("seen-in-the-browser") < min(lines.index("harmonic-seed0"), lines.index("majority-seed0"))
    assert (tmp_path / "ui.png").stat().st_size > 20_000
