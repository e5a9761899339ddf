"""Whole small runs with the vLLM engine: on Ray actors with the gloo broadcast, and in one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from vllm_process import needs_vllm

pytestmark = needs_vllm

SMALL = [
    "steps=2",
    "problems.limit=8",
    "rollout.problems_per_step=4",
    "views.solver.num_samples=4",
    "views.reframer.num_samples=4",
    "eval.num_samples=2",
    "rollout.engine.type=vllm",
]


def train(run_dir: Path, *overrides: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The summary and the metrics of a run in a process of its own."""
    command = [sys.executable, "-m", "harmonyray", "train", "quickstart", *SMALL, *overrides, "--run-dir", str(run_dir), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return json.loads(done.stdout.splitlines()[-1]), rows


@pytest.fixture(scope="module")
def in_process(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    return train(tmp_path_factory.mktemp("runs") / "in-process", "runtime.type=in_process")


def test_a_run_in_one_process(in_process: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
    summary, rows = in_process
    assert summary["steps"] == 2
    assert [row["policy_version"] for row in rows] == [1, 2]
    for row in rows:
        assert row["train/engine_gap_max"] < 1e-4, "the learner sees the engine's log-probs"


def test_a_run_on_ray_actors_gives_the_same(tmp_path: Path, in_process: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
    """Two engines with half a core each, weights by gloo: the seeds decide, so the numbers are those of one process."""
    summary, rows = train(tmp_path / "ray")
    for key in ("eval_before", "eval_after", "pseudo_label_accuracy"):
        assert summary[key] == in_process[0][key]
    for mine, other in zip(rows, in_process[1], strict=True):
        steady = [key for key in other if not key.startswith(("time/", "sync/", "train/"))]
        assert {key: mine[key] for key in steady} == {key: other[key] for key in steady}
