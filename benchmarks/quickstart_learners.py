"""The quickstart with every learner: final accuracy, and seconds that learning took.

    python benchmarks/quickstart_learners.py --seeds 0 1 2 --out benchmarks/results

Every run is a `harmonyray train quickstart` of its own on actors, one after the other.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from reporting import from_child, give_out

from harmonyray.tracking import read_metrics

TWO_RANKS = ["learner.type=deepspeed", "learner.num_ranks=2"]
RUNS: dict[str, list[str]] = {
    "torch": [],
    "deepspeed, 2 ranks, stage 2": [*TWO_RANKS, "learner.zero_stage=2"],
    "deepspeed, 2 ranks, stage 3": [*TWO_RANKS, "learner.zero_stage=3"],
}


def run_one(name: str, seed: int, folder: Path) -> dict[str, Any]:
    """One run: accuracies before and after, and medians over the steps."""
    run_dir = folder / f"run-{len(list(folder.iterdir()))}"
    command = [sys.executable, "-m", "harmonyray", "train", "quickstart", *RUNS[name], f"seed={seed}", "eval.every=0"]
    summary = from_child([*command, "checkpoint.every=1000", "--run-dir", str(run_dir), "--json"])
    rows = read_metrics(run_dir)[2:-1]
    after = summary["eval_after"]
    return {
        "run": name,
        "seed": seed,
        "before": summary["eval_before"]["eval/solver/avg_at_k"],
        "solver": after["eval/solver/avg_at_k"],
        "reframer": after["eval/reframer/avg_at_k"],
        "harmonic": after["eval/harmonic_at_k"],
        "skipped": sum(row.get("train/skipped_updates", 0.0) for row in rows),
        "learn_s": statistics.median(row["time/learn_s"] for row in rows),
        "wall_s": summary["wall_seconds"],
    }


def table(results: list[dict[str, Any]]) -> str:
    """The results as a Markdown table, a row per run."""
    lines = ["| learner | seed | before | solver | reframer | harmonic vote | s to learn, a step | wall, s |", "|" + "---|" * 8]
    for r in results:
        shares = " | ".join(f"{r[key]:.3f}" for key in ("before", "solver", "reframer", "harmonic"))
        lines.append(f"| {r['run']} | {r['seed']} | {shares} | {r['learn_s']:.2f} | {r['wall_s']:.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", default=list(RUNS), choices=list(RUNS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, help="folder for quickstart_learners.{json,md}")
    args = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in args.seeds:
            for name in args.runs:
                results.append(run_one(name, seed, Path(folder)))
                print(f"{name}, seed {seed}: {results[-1]['solver']:.3f}, {results[-1]['wall_s']:.0f} s", flush=True)
    brief = {f"{r['run']}, {r['seed']}": r["solver"] for r in results}
    give_out(args.out, "quickstart_learners", table(results), brief, results=results)


if __name__ == "__main__":
    main()
