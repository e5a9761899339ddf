"""The quickstart trained in other views: 2, 3, 5 and 8 of them, asked twice, with a frozen second model, shared and apart.

    python benchmarks/quickstart_views.py --out benchmarks/results

Every run is a `harmonyray train quickstart-views` of its own, one after the other, with 16 samples in every view; so the work
grows with the views. Except where it says apart, all views of a run share one engine group.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from reporting import give_out
from training_runs import over_seeds, train_once

VIEWS = ["solver", "reframer", "shifted", "count_up", "split", "shift", "staged", "cooler"]
"""Those of configs/quickstart-views.yaml, in the order in which they join: the first K are a run's views."""


def only(*kept: str, share: bool = True) -> list[str]:
    """The config overrides that leave these views."""
    dropped = [f"views.{name}=null" for name in VIEWS if name not in kept]
    return [*dropped, f"placement.share.all=[{','.join(kept)}]" if share else "placement.share.all=null"]


RUNS = {
    **{f"{k} views": only(*VIEWS[:k]) for k in (2, 3, 5, 8)},
    "2 views, apart": only("solver", "reframer", share=False),
    "solver and staged": only("solver", "staged"),
    "reframer frozen": [*only("solver", "reframer", share=False), "views.reframer.model=quickstart"],
}


def run_one(name: str, seed: int, run_dir: Path) -> dict[str, Any]:
    """One run: accuracies, labels, and medians over the steps of the seconds, evaluation apart."""
    summary, rows = train_once(["quickstart-views", *RUNS[name], f"seed={seed}", "eval.every=0"], run_dir)
    return {
        "before": summary["eval_before"]["eval/solver/avg_at_k"],
        "after": summary["eval_after"]["eval/solver/avg_at_k"],
        "coverage_first": statistics.mean(row["consensus/coverage"] for row in rows[:8]),
        "labels_right_first": statistics.mean(row.get("consensus/label_accuracy", 0.0) for row in rows[:8]),
        "labels_right": summary["pseudo_label_accuracy"],
        "step_s": statistics.median(row["time/step_s"] - row["time/eval_s"] for row in rows),
        "generate_s": statistics.median(row["time/generate_s"] for row in rows),
        "learn_s": statistics.median(row["time/learn_s"] for row in rows),
        "eval_after": summary["eval_after"],
    }


def table(results: list[dict[str, Any]]) -> str:
    """The results as a Markdown table, a row per run."""
    head = "| run | seed | before | after | labelled, first 8 | right, first 8 | right, last 8 | s a step | generate | learn |"
    lines = [head, "|---|---|---|---|---|---|---|---|---|---|"]
    for r in results:
        shares = ("before", "after", "coverage_first", "labels_right_first", "labels_right")
        cells = " | ".join("none" if r[key] is None else f"{r[key]:.3f}" for key in shares)
        seconds = " | ".join(f"{r[key]:.2f}" for key in ("step_s", "generate_s", "learn_s"))
        lines.append(f"| {r['run']} | {r['seed']} | {cells} | {seconds} |")
    return "\n".join(lines)


def same_figures(results: list[dict[str, Any]]) -> dict[int, bool]:
    """By seed whether the run of two views gave the same final evaluation with one shared group as with one for each view."""
    found = {(r["run"], r["seed"]): r["eval_after"] for r in results}
    seeds = sorted({seed for _, seed in found})
    pairs = {seed: (found.get(("2 views", seed)), found.get(("2 views, apart", seed))) for seed in seeds}
    return {seed: a == b for seed, (a, b) in pairs.items() if a is not None and b is not None}


def main() -> None:
    results, out = over_seeds(__doc__, RUNS, run_one, "after")
    same = same_figures(results)
    print(f"final evaluation of two views the same, shared and apart, by seed: {same}")
    brief = {f"{r['run']}, {r['seed']}": r["after"] for r in results}
    give_out(out, "quickstart_views", table(results), brief, shared_equals_apart=same, results=results)


if __name__ == "__main__":
    main()
