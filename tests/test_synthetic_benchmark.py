"""The made-up engine and learner that `benchmarks/driver_memory.py` runs on go through a whole run."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_helpers import rows, samples, small_run

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_a_run_with_the_synthetic_engine_and_learner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    plugins = ("rollout.engine.type=synthetic:SyntheticEngine", "learner.type=synthetic:SyntheticLearner")
    small_run(tmp_path / "run", *plugins, "rollout.engine.response_tokens=30", "steps=2", "eval.every=0")
    assert [row["policy_version"] for row in rows(tmp_path / "run")] == [1, 2]
    assert all("SOLUTION: " in sample["response"] for sample in samples(tmp_path / "run"))
    assert (tmp_path / "run" / "checkpoints" / "step-000002" / "policy_version").read_text() == "2"
