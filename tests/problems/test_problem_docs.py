"""docs/problems.md: its worked example runs, its commands exist, its table is what the presets say."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from harmonyray.cli import main
from harmonyray.config import load_config
from harmonyray.console import Reporter
from harmonyray.problems.file import FileSource
from harmonyray.problems.presets import PRESETS
from harmonyray.run import run_training
from harmonyray.tracking import read_metrics

TEXT = (Path(__file__).parents[2] / "docs" / "problems.md").read_text()


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for text, name in re.findall(r"```\w+\n(# (\S+)\n.*?)```", TEXT, flags=re.S):
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "my_problems", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_example_trains(example: Path) -> None:
    small = ["runtime.type=in_process", "steps=1", "problems.num=4", "rollout.problems_per_step=4", "eval.num_samples=1"]
    run_training(load_config("differences.yaml", small), example / "run", resume=False, reporter=Reporter(quiet=True))
    (row,) = read_metrics(example / "run")
    assert row["rollout/solver/answered"] > 0


def test_the_example_is_prepared(example: Path) -> None:
    assert main(["data", "prepare", "my_problems:Differences", "-o", "num=3", "--out", "d.jsonl"]) == 0
    source = FileSource(FileSource.Options(path="d.jsonl", gold_path="d.gold.jsonl"))
    for problem in source.problems():
        a, b = problem.text.split("-")
        assert source.gold()[problem.id].text == str(int(a) - int(b))
    assert len(source.problems()) == 3


def test_the_table_says_what_the_presets_say() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]*) \|", TEXT, flags=re.M))
    expected = {n: ", ".join(p[k] for k in ("dataset", "config", "split") if k in p) for n, p in PRESETS.items()}
    assert rows == expected
