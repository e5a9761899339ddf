"""The quickstart with both engines, and sampled one step ahead: final accuracy and seconds a step.

    python benchmarks/quickstart_engines.py --seeds 0 1 2 --out benchmarks/results

Every run is a `harmonyray train quickstart` of its own on actors, one after the other.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from reporting import give_out

VLLM = ["rollout.engine.type=vllm"]
LOSS = ["loss.type=truncated_is"]
LAG = [*LOSS, "rollout.lag=1"]
RUNS: dict[str, list[str]] = {
    "hf": [],
    "hf, truncated_is": LOSS,
    "hf, lag 1": LAG,
    "vllm": VLLM,
    "vllm, lag 1": [*VLLM, *LAG],
    "vllm, lag 1, pause": [*VLLM, *LAG, "sync.in_flight=pause"],
}


def run_one(name: str, seed: int, folder: Path) -> dict[str, Any]:
    """One run: accuracies before and after, and medians over the steps without an evaluation or a checkpoint."""
    run_dir = folder / f"run-{len(list(folder.iterdir()))}"
    apart = ["eval.every=0", "checkpoint.every=1000", f"seed={seed}"]
    command = [
        sys.executable,
        "-m",
        "harmonyray",
        "train",
        "quickstart",
        *RUNS[name],
        *apart,
        "--run-dir",
        str(run_dir),
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed with {done.returncode}:\n{done.stderr}")
    summary = json.loads(done.stdout.splitlines()[-1])
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()][2:-1]
    after = summary["eval_after"]
    return {
        "run": name,
        "seed": seed,
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", default=list(RUNS), choices=list(RUNS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for quickstart_engines.{json,md}")
    args = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in args.seeds:
            for name in args.runs:
                results.append(run_one(name, seed, Path(folder)))
                print(f"{name}, seed {seed}: {results[-1]['solver']:.3f}, {results[-1]['step_s']:.2f} s a step", flush=True)
    brief = {f"{r['run']}, {r['seed']}": r["solver"] for r in results}
    give_out(args.out, "quickstart_engines", table(results), brief, results=results)


if __name__ == "__main__":
    main()
