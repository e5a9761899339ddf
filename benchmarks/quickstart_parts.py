"""The quickstart with both engines, sampled one step ahead, and with DeepSpeed: final accuracy and seconds a step.

    python benchmarks/quickstart_parts.py --seeds 0 1 2 --out benchmarks/results

Every run is a `harmonyray train quickstart` of its own on actors, one after the other; with `--earlier` a long list
of runs and seeds may be split over several calls.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from reporting import give_out
from training_runs import over_seeds, train_once

VLLM = ["rollout.engine.type=vllm"]
LOSS = ["loss.type=truncated_is"]
LAG = [*LOSS, "rollout.lag=1"]
TWO_RANKS = ["learner.type=deepspeed", "learner.num_ranks=2"]
RUNS: dict[str, list[str]] = {
    "hf": [],
    "hf, truncated_is": LOSS,
    "hf, lag 1": LAG,
    "vllm": VLLM,
    "vllm, lag 1": [*VLLM, *LAG],
    "vllm, lag 1, pause": [*VLLM, *LAG, "sync.in_flight=pause"],
    "deepspeed, 2 ranks, stage 2": [*TWO_RANKS, "learner.zero_stage=2"],
    "deepspeed, 2 ranks, stage 3": [*TWO_RANKS, "learner.zero_stage=3"],
}


def run_one(name: str, seed: int, run_dir: Path) -> dict[str, Any]:
    """One run: accuracies before and after, and medians over the steps without an evaluation or a checkpoint."""
    apart = ["eval.every=0", "checkpoint.every=1000", f"seed={seed}"]
    summary, rows = train_once(["quickstart", *RUNS[name], *apart], run_dir)
    rows = rows[2:-1]
    after = summary["eval_after"]
    return {
        "before": summary["eval_before"]["eval/solver/avg_at_k"],
        "solver": after["eval/solver/avg_at_k"],
        "reframer": after["eval/reframer/avg_at_k"],
        "harmonic": after["eval/harmonic_at_k"],
        "ratio_p99": statistics.median(row["train/engine_ratio_p99"] for row in rows),
        "mixed": statistics.mean(row["rollout/solver/mixed"] for row in rows),
        "step_s": statistics.median(row["time/step_s"] for row in rows),
        "generate_s": statistics.median(row["time/generate_s"] for row in rows),
        "learn_s": statistics.median(row["time/learn_s"] for row in rows),
        "wall_s": summary["wall_seconds"],
    }


def table(results: list[dict[str, Any]]) -> str:
    """The results as a Markdown table, a row per run."""
    head = (
        "| run | seed | before | solver | reframer | harmonic vote | ratio p99 | mixed | s a step | generate | learn | wall, s |"
    )
    lines = [head, "|" + "---|" * 12]
    for r in results:
        shares = " | ".join(f"{r[key]:.3f}" for key in ("before", "solver", "reframer", "harmonic", "ratio_p99", "mixed"))
        seconds = " | ".join(f"{r[key]:.2f}" for key in ("step_s", "generate_s", "learn_s"))
        lines.append(f"| {r['run']} | {r['seed']} | {shares} | {seconds} | {r['wall_s']:.0f} |")
    return "\n".join(lines)


def main() -> None:
    results, out = over_seeds(__doc__, RUNS, run_one, "solver")
    brief = {f"{r['run']}, {r['seed']}": r["solver"] for r in results}
    give_out(out, "quickstart_parts", table(results), brief, results=results)


if __name__ == "__main__":
    main()
