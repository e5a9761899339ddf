"""When the collapse guard fires, and when accuracy began to fall: runs built to collapse, and runs that learn.

    python benchmarks/collapse_guard.py --runs majority self harmonic --runs-dir /tmp/collapse --out benchmarks/results

Every run is a `harmonyray train` of its own, one after the other, evaluated after every step; one that is in `--runs-dir` already
is not run again. The guard, with its defaults, is then shown the rows that the runs recorded, which is all that it sees in a
run. Only this script compares with gold answers: the onset of a collapse is the first step from which the solver view's
accuracy stays at least `FALL` below what it was before the run.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reporting import give_out
from training_runs import train_once

from harmonyray.config import load_config
from harmonyray.config_sections import GuardConfig
from harmonyray.guard import Alarm, Guard
from harmonyray.registry import resolve
from harmonyray.tracking import read_metrics

FALL = 0.05
ACCURACY = "eval/solver/avg_at_k"
RUNS = {
    "majority": ("majority voting, one view", ["quickstart-majority"]),
    "self": ("each view its own majority", ["quickstart", "method.selector.type=self"]),
    "harmonic": ("harmonic, two views", ["quickstart"]),
    "ground_truth": ("ground truth, one view", ["quickstart-ground_truth"]),
}
FIGURES = ("consensus/entropy", "consensus/js", "consensus/self_consistency", "train/kl", ACCURACY)


def train(arguments: Sequence[str], seed: int, run_dir: Path, samples: int) -> None:
    """A run in `run_dir`, unless a finished one is there. The guard says nothing meanwhile: all steps are wanted."""
    if (run_dir / "summary.json").exists():
        return
    fixed = ["runtime.type=in_process", "guard.action=none", "eval.every=1", f"eval.num_samples={samples}"]
    train_once([*arguments, f"seed={seed}", *fixed], run_dir)


def first_alarm(run_dir: Path, rows: Sequence[dict[str, float]]) -> Alarm | None:
    """What the guard, with its defaults, says first about a recorded run."""
    config = load_config(str(run_dir / "config.yaml"))
    voted = not resolve("methods", config.method.type).needs_gold
    guard = Guard(GuardConfig.model_validate({}), list(config.views), voted)
    return next((alarm for row in rows if (alarm := guard.look(row)) is not None), None)


def onset(before: float, accuracies: Sequence[float]) -> int | None:
    """The first step, from 1, from which every accuracy is at least FALL below `before`; None if the last is not."""
    first = len(accuracies)
    while first and accuracies[first - 1] <= before - FALL:
        first -= 1
    return first + 1 if first < len(accuracies) else None


def measure(run_dir: Path, seed: int) -> dict[str, Any]:
    """When a run's accuracy began to fall, when the guard fires and why, and the figures of every step."""
    rows = read_metrics(run_dir)
    before = json.loads((run_dir / "summary.json").read_text())["eval_before"][ACCURACY]
    accuracies = [row[ACCURACY] for row in rows]
    alarm, falls = first_alarm(run_dir, rows), onset(before, accuracies)
    return {
        "seed": seed,
        "before": before,
        "after": accuracies[-1],
        "falls_from": falls,
        "fires_at": alarm and alarm.step,
        "late_by": alarm.step - falls if alarm and falls else None,
        "signs": dict(alarm.signs) if alarm else {},
        "steps": [{key: row[key] for key in FIGURES if not math.isnan(row.get(key, math.nan))} for row in rows],
    }


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """A row per kind of run and seed, in Markdown."""
    head = "| run | seed | accuracy before | after | falls from step | the guard fires at | steps later | sign |"
    lines = [head, "|---" * 8 + "|"]
    for name, runs in results.items():
        for r in runs:
            cells = [r["falls_from"], r["fires_at"], r["late_by"], ", ".join(r["signs"]) or None]
            shown = " | ".join("-" if cell is None else str(cell) for cell in cells)
            lines.append(f"| {RUNS[name][0]} | {r['seed']} | {r['before']:.3f} | {r['after']:.3f} | {shown} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", nargs="+", default=list(RUNS), choices=list(RUNS))
    parser.add_argument("--samples", type=int, default=4, help="samples per problem of an evaluation, and one is made every step")
    parser.add_argument("--runs-dir", type=Path, required=True, help="where the runs are, or will be")
    parser.add_argument("--out", type=Path, help="folder for collapse_guard.{json,md}")
    args = parser.parse_args()
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in args.runs}
    for name in args.runs:
        for seed in args.seeds:
            run_dir = args.runs_dir / f"{name}-{seed}"
            train(RUNS[name][1], seed, run_dir, args.samples)
            results[name].append(measure(run_dir, seed))
    brief = {
        name: {"falls_from": [r["falls_from"] for r in runs], "fires_at": [r["fires_at"] for r in runs]}
        for name, runs in results.items()
    }
    settings = {"fall": FALL, "samples": args.samples}
    give_out(args.out, "collapse_guard", table(results), brief, settings=settings, results=results)


if __name__ == "__main__":
    main()
