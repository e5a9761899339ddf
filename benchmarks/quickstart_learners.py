"""The quickstart with every learner: final accuracy, and seconds that learning took.

    python benchmarks/quickstart_learners.py --seeds 0 1 2 --out benchmarks/results

Every run is a `harmonyray train quickstart` of its own on actors, one after the other; with `--earlier` a long list of seeds may
be split over several calls.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from reporting import give_out
from training_runs import over_seeds, train_once

TWO_RANKS = ["learner.type=deepspeed", "learner.num_ranks=2"]
RUNS: dict[str, list[str]] = {
    "torch": [],
    "deepspeed, 2 ranks, stage 2": [*TWO_RANKS, "learner.zero_stage=2"],
    "deepspeed, 2 ranks, stage 3": [*TWO_RANKS, "learner.zero_stage=3"],
}


def run_one(name: str, seed: int, run_dir: Path) -> dict[str, Any]:
    """One run: accuracies before and after, and medians over the steps."""
    apart = ["eval.every=0", "checkpoint.every=1000", f"seed={seed}"]
    summary, rows = train_once(["quickstart", *RUNS[name], *apart], run_dir)
    rows = rows[2:-1]
    after = summary["eval_after"]
    return {
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
    results, out = over_seeds(__doc__, RUNS, run_one, "solver")
    brief = {f"{r['run']}, {r['seed']}": r["solver"] for r in results}
    give_out(out, "quickstart_learners", table(results), brief, results=results)


if __name__ == "__main__":
    main()
