"""Small real runs for the tests: the quickstart model and problems, cut down to about a second a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from harmonyray.config import load_config
from harmonyray.console import Reporter
from harmonyray.problems.quickstart import ASSETS
from harmonyray.run import run_training

SMALL = [
    "runtime.type=in_process",
    "problems.limit=8",
    "rollout.problems_per_step=4",
    "views.solver.num_samples=4",
    "views.reframer.num_samples=4",
    "eval.num_samples=2",
]
SIX = ("steps=6", "eval.every=3", "checkpoint.every=3", "checkpoint.keep=2")
VARYING = ("time/", "sync/seconds")


def small_run(
    run_dir: Path, *overrides: str, config: str = "quickstart", resume: bool = False, reporter: Reporter | None = None
) -> dict[str, Any]:
    """A run in this process; its summary."""
    chosen = [o for o in SMALL if "reframer" not in o or "majority" not in config]
    return run_training(load_config(config, [*chosen, *overrides]), run_dir, resume, reporter or Reporter(quiet=True))


def rows(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def steady(run_dir: Path) -> list[dict[str, Any]]:
    """The metrics rows without what differs between two equal runs: seconds."""
    return [{k: v for k, v in row.items() if not k.startswith(VARYING)} for row in rows(run_dir)]


def weights(directory: Path) -> bytes:
    return (directory / "model.safetensors").read_bytes()


def samples(run_dir: Path) -> list[dict[str, Any]]:
    """Every sampled row of a run, in order."""
    return [row for path in sorted((run_dir / "rollouts").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def quickstart_rows(name: str) -> list[dict[str, str]]:
    """The shipped `questions.jsonl` or `gold.jsonl`."""
    return [json.loads(line) for line in (ASSETS / name).read_text().splitlines()]


def write_rows(path: Path, items: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return path


def assert_same_run(run_dir: Path, expected: Path) -> None:
    assert steady(run_dir) == steady(expected)
    assert weights(run_dir / "model") == weights(expected / "model")
    assert samples(run_dir) == samples(expected)
