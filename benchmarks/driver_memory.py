"""The driver's memory against the number and the length of a step's rollouts, with an engine that makes them up.

    python benchmarks/driver_memory.py --out benchmarks/results

Each row is a run of its own: actors, grading, voting, batches and recorded rollouts are the real ones, engine and learner are
`synthetic.py`. What is measured is the peak of the driver's own memory (unique set size), sampled ten times a second.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from reporting import from_child, give_out

HERE = Path(__file__).resolve().parent
SAMPLES = 16  # in each of two views


def child(num_rollouts: int, response_tokens: int, folder: Path) -> dict[str, Any]:
    """One run in this process."""
    import psutil

    from harmonyray.config import load_config
    from harmonyray.console import Reporter
    from harmonyray.run import run_training
    from harmonyray.tracking import read_metrics

    problems = folder / "problems.jsonl"
    num_problems = num_rollouts // (2 * SAMPLES)
    problems.write_text("".join(json.dumps({"id": str(i), "question": f"{i} + 1?"}) + "\n" for i in range(num_problems)))
    config = load_config(
        "quickstart",
        [
            "problems.type=file",
            f"problems.path={problems}",
            "steps=2",
            f"rollout.problems_per_step={num_problems}",
            "rollout.engine.type=synthetic:SyntheticEngine",
            f"rollout.engine.response_tokens={response_tokens}",
            "learner.type=synthetic:SyntheticLearner",
            "runtime.object_store_mb=1024",
        ],
    )
    process, peak, over = psutil.Process(), [0], threading.Event()
    idle = process.memory_full_info().uss

    def watch() -> None:
        while not over.wait(0.1):
            peak[0] = max(peak[0], process.memory_full_info().uss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    begun = time.perf_counter()
    try:
        run_training(config, folder / "run", False, Reporter(quiet=True))
    finally:
        over.set()
        watcher.join()
    rows = read_metrics(folder / "run")
    return {
        "rollouts": num_problems * 2 * SAMPLES,
        "response_tokens": response_tokens,
        "peak_mb": peak[0] / 1e6,
        "imported_mb": idle / 1e6,
        "step_s": rows[-1]["time/step_s"],
        "wall_s": time.perf_counter() - begun,
        "recorded_mb": sum(f.stat().st_size for f in (folder / "run" / "rollouts").iterdir()) / 1e6,
    }


def measure(num_rollouts: int, response_tokens: int) -> dict[str, Any]:
    """One run in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(Path(__file__)), "--child", str(num_rollouts), str(response_tokens), folder]
        return from_child(command, PYTHONPATH=os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]))


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| rollouts a step | tokens each | driver's peak, MB | seconds a step |", "|---|---|---|---|"]
    lines += [f"| {r['rollouts']:,} | {r['response_tokens']} | {r['peak_mb']:.0f} | {r['step_s']:.1f} |" for r in rows]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--tokens", type=int, nargs="+", default=[32, 256, 1024])
    parser.add_argument("--out", type=Path, help="folder for driver_memory.{json,md}")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(child(int(args.child[0]), int(args.child[1]), Path(args.child[2]))))
        return
    rows = []
    for num_rollouts in args.rollouts:
        for tokens in args.tokens:
            rows.append(measure(num_rollouts, tokens))
            print(f"{rows[-1]['rollouts']:,} rollouts of {tokens} tokens: {rows[-1]['peak_mb']:.0f} MB", flush=True)
    brief = {f"{r['rollouts']} x {r['response_tokens']}": round(r["peak_mb"], 1) for r in rows}
    give_out(args.out, "driver_memory", table(rows), brief, results=rows)


if __name__ == "__main__":
    main()
