"""When the collapse guard fires, and when accuracy began to fall: runs built to collapse, and runs that learn.

    python benchmarks/collapse_guard.py --seeds 0 1 2 --out benchmarks/results

Every run is a `harmonyray train` of its own with the guard's defaults, one after the other, evaluated after every step. Only this
script compares with gold answers: the onset of a collapse is the first step from which the solver view's accuracy stays at
least `FALL` below what it was before the run. The guard is late by the steps between the onset and its first alarm.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from reporting import give_out

FALL = 0.05
ACCURACY = "eval/solver/avg_at_k"
RUNS = {
    "majority voting, one view": ["quickstart-majority"],
    "each view its own majority": ["quickstart", "method.selector.type=self"],
    "harmonic, two views": ["quickstart"],
    "ground truth, one view": ["quickstart-ground_truth"],
}
FIGURES = ("consensus/entropy", "consensus/js", "consensus/self_consistency", "train/kl", "guard/fired", ACCURACY)


def onset(before: float, accuracies: list[float]) -> int | None:
    """The first step, from 1, from which every accuracy is at least FALL below `before`; None if the last is not."""
    first = len(accuracies)
    while first and accuracies[first - 1] <= before - FALL:
        first -= 1
    return first + 1 if first < len(accuracies) else None


def run_one(arguments: list[str], seed: int, run_dir: Path, samples: int) -> dict[str, Any]:
    """One training run: when accuracy began to fall, when the guard fired and why, and the figures of every step."""
    command = [sys.executable, "-m", "harmonyray", "train", *arguments, f"seed={seed}", "runtime.type=in_process"]
    command += ["eval.every=1", f"eval.num_samples={samples}", "--run-dir", str(run_dir), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed with {done.returncode}:\n{done.stderr}")
    summary = json.loads(done.stdout.splitlines()[-1])
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    before, accuracies = summary["eval_before"][ACCURACY], [row[ACCURACY] for row in rows]
    return {
        "seed": seed,
        "before": before,
        "lowest": min(accuracies),
        "after": accuracies[-1],
        "onset": onset(before, accuracies),
        "events": summary["guard"],
        "steps": [{key: row[key] for key in FIGURES if key in row} for row in rows],
    }


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """A row per kind of run and seed, in Markdown."""
    lines = ["| run | seed | accuracy before | after | falls from step | the guard fires at | late by | sign |", "|---" * 8 + "|"]
    for name, runs in results.items():
        for r in runs:
            fired = r["events"][0]["step"] if r["events"] else None
            late = fired - r["onset"] if fired is not None and r["onset"] is not None else None
            cells = [r["onset"], fired, late, ", ".join(r["events"][0]["signs"]) if r["events"] else None]
            shown = " | ".join("-" if cell is None else str(cell) for cell in cells)
            lines.append(f"| {name} | {r['seed']} | {r['before']:.3f} | {r['after']:.3f} | {shown} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", nargs="+", default=list(RUNS), choices=list(RUNS))
    parser.add_argument("--samples", type=int, default=4, help="samples per problem of an evaluation, and one is made every step")
    parser.add_argument("--out", type=Path, help="folder for collapse_guard.{json,md}")
    args = parser.parse_args()
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in args.runs}
    with tempfile.TemporaryDirectory() as folder:
        for name in args.runs:
            for seed in args.seeds:
                results[name].append(run_one(RUNS[name], seed, Path(folder) / f"{len(results)}-{name}-{seed}", args.samples))
                print(f"{name}, seed {seed}: {results[name][-1]['before']:.3f} -> {results[name][-1]['after']:.3f}", flush=True)
    brief = {name: [[e["step"] for e in r["events"]] for r in runs] for name, runs in results.items()}
    settings = {"fall": FALL, "samples": args.samples}
    give_out(args.out, "collapse_guard", table(results), brief, settings=settings, results=results)


if __name__ == "__main__":
    main()
