"""What the benchmarks of whole trainings share: a `harmonyray train` in a process of its own, and runs over seeds."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from reporting import from_child

from harmonyray.tracking import read_metrics


def train_once(arguments: Sequence[str], run_dir: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One training with these arguments: its summary, and its steps' metrics."""
    summary = from_child([sys.executable, "-m", "harmonyray", "train", *arguments, "--run-dir", str(run_dir), "--json"])
    return summary, read_metrics(run_dir)


def over_seeds(
    doc: str | None, runs: Collection[str], run_one: Callable[[str, int, Path], dict[str, Any]], final: str
) -> tuple[list[dict[str, Any]], Path | None]:
    """What `run_one(name, seed, run_dir)` gives for the runs and seeds that the command line asks for, one after the other, and
    the folder that it names for results, where `finished.json` has the runs so far, for `--earlier` after one that fails.
    `final`: the key of the accuracy that a run is told by."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", default=list(runs), choices=list(runs))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--earlier", type=Path, nargs="*", default=[], help="JSON files of earlier calls: their runs come first")
    parser.add_argument("--out", type=Path, help="folder for the table and the figures, as .md and .json")
    args = parser.parse_args()
    results: list[dict[str, Any]] = [run for path in args.earlier for run in json.loads(path.read_text())["results"]]
    with tempfile.TemporaryDirectory() as folder:
        for seed in args.seeds:
            for name in args.runs:
                run_dir = Path(folder) / f"run-{len(results)}"
                results.append({"run": name, "seed": seed, **run_one(name, seed, run_dir)})
                print(f"{name}, seed {seed}: {results[-1]['before']:.3f} -> {results[-1][final]:.3f}", flush=True)
                if args.out is not None:
                    args.out.mkdir(parents=True, exist_ok=True)
                    (args.out / "finished.json").write_text(json.dumps({"results": results}))
    return results, args.out
