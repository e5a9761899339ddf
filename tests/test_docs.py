"""The documentation's worked examples run as they stand."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from harmonyray.config import load_config
from harmonyray.console import Reporter
from harmonyray.run import run_training
from harmonyray.tracking import read_metrics

DOCS = Path(__file__).parent.parent / "docs"


def code_blocks(path: Path) -> dict[str, str]:
    """File name (from the block's first comment) to text of every fenced block that names one."""
    blocks = re.findall(r"```\w+\n(# (\S+)\n.*?)```", path.read_text(), flags=re.S)
    return {name: text for text, name in blocks}


def test_the_plugin_example_trains_three_views(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in code_blocks(DOCS / "plugins.md").items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    small = ["runtime.type=in_process", "steps=1", "problems.limit=4", "rollout.problems_per_step=4", "eval.num_samples=1"]
    config = load_config(str(tmp_path / "socratic.yaml"), small)
    run_training(config, tmp_path / "run", resume=False, reporter=Reporter(quiet=True))
    (row,) = read_metrics(tmp_path / "run")
    assert row["rollout/socratic/answered"] > 0.5
    assert row["train/num_rows"] == 4 * (16 + 16 + 8) * row["consensus/coverage"]
