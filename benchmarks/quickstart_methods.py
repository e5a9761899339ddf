"""The quickstart's methods over seeds: a table, JSON and the picture of the learning curves.

    python benchmarks/quickstart_methods.py --seeds 0 1 2 --out benchmarks/results

Every run is a `harmonyray train` of its own, one after the other; figures come from the runs' records.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from training_runs import train_once

RUNS = {
    "harmonic": ["quickstart"],
    "pooled majority, two views": ["quickstart", "method.selector.type=majority"],
    "majority voting (TTRL)": ["quickstart-majority"],
    "ground truth": ["quickstart-ground_truth"],
}
COLOURS = {
    "harmonic": "#0b7a75",
    "pooled majority, two views": "#c77d0a",
    "majority voting (TTRL)": "#b3261e",
    "ground truth": "#777777",
}


def run_one(arguments: list[str], seed: int, folder: Path, eval_every: int) -> dict[str, Any]:
    """One training run; its summary with the evaluation curve and the mean pseudo-label accuracy of the last 8 steps."""
    run_dir = folder / f"{'-'.join(arguments).replace('=', '_')}-{seed}"
    summary, rows = train_once([*arguments, f"seed={seed}", f"eval.every={eval_every}"], run_dir)
    curve = [(0, summary["eval_before"])] + [(r["step"], r) for r in rows if "eval/solver/avg_at_k" in r]
    return {
        "seed": seed,
        "before": summary["eval_before"]["eval/solver/avg_at_k"],
        "after": summary["eval_after"]["eval/solver/avg_at_k"],
        "borrow_before": summary["eval_before"]["eval/solver/avg_at_k/borrow"],
        "borrow_after": summary["eval_after"]["eval/solver/avg_at_k/borrow"],
        "labels_right": summary["pseudo_label_accuracy"],
        "wall_seconds": summary["wall_seconds"],
        "curve": [(step, row["eval/solver/avg_at_k"], row["eval/solver/avg_at_k/borrow"]) for step, row in curve],
    }


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """The results as a Markdown table, a row per method and seed."""
    head = "| method | seed | before | after | borrow before | borrow after | pseudo-labels right, last 8 steps | seconds |"
    lines = [head, "|---|---|---|---|---|---|---|---|"]
    for name, runs in results.items():
        for r in runs:
            values = (r["before"], r["after"], r["borrow_before"], r["borrow_after"], r["labels_right"])
            cells = " | ".join("none" if v is None else f"{v:.3f}" for v in values)
            lines.append(f"| {name} | {r['seed']} | {cells} | {r['wall_seconds']:.0f} |")
    return "\n".join(lines)


def plot(results: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Accuracy in the solver view over the steps, all questions and those that need a borrow; a line per seed, the mean bold."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4.3), sharey=True, constrained_layout=True)
    for axis, column, title in ((axes[0], 1, "all questions"), (axes[1], 2, "questions that need a borrow")):
        for name, runs in results.items():
            for r in runs:
                axis.plot(
                    [p[0] for p in r["curve"]], [p[column] for p in r["curve"]], color=COLOURS[name], alpha=0.3, linewidth=1
                )
            mean = [statistics.mean(points) for points in zip(*([p[column] for p in r["curve"]] for r in runs), strict=True)]
            axis.plot([p[0] for p in runs[0]["curve"]], mean, color=COLOURS[name], linewidth=2.2, label=name)
        axis.set_title(title)
        axis.set_xlabel("step")
        axis.set_ylim(0, 1.02)
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("accuracy in the solver view (avg@16)")
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=list(RUNS), choices=list(RUNS))
    parser.add_argument("--eval-every", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True, help="folder for quickstart_methods.{json,md} and learning_curves.png")
    args = parser.parse_args()
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in args.methods}
    with tempfile.TemporaryDirectory() as folder:
        for seed in args.seeds:
            for name in args.methods:
                results[name].append(run_one(RUNS[name], seed, Path(folder), args.eval_every))
                print(f"{name}, seed {seed}: {results[name][-1]['before']:.3f} -> {results[name][-1]['after']:.3f}", flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    hardware = {"cpu": platform.processor() or platform.machine(), "cores": len(os.sched_getaffinity(0))}
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    report = {"hardware": hardware, "versions": versions, "results": results}
    (args.out / "quickstart_methods.json").write_text(json.dumps(report, indent=1) + "\n")
    (args.out / "quickstart_methods.md").write_text(table(results) + "\n")
    plot(results, args.out / "learning_curves.png")
    print(table(results))
    print(json.dumps({name: [r["after"] for r in runs] for name, runs in results.items()}))


if __name__ == "__main__":
    main()
