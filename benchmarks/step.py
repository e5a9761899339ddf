"""Where a step's time goes: the share that is spent neither generating nor learning, on actors.

    python benchmarks/step.py --out benchmarks/results

Every run is a training of its own on actors. A step's wall time is taken from one record to the next, so that what happens
between steps (recording, checkpoints) counts; the first two steps and those with an evaluation or a checkpoint are left out.
What counts as generating and learning are the calls of `sample` and `update` themselves, also those that go on at the same time
as other phases. The phases are the driver's: `generate` is what a step waits for its rollouts.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from reporting import give_out

from harmonyray.actors.runtime import RayRuntime
from harmonyray.config import load_config
from harmonyray.console import Reporter
from harmonyray.run import run_training
from harmonyray.tracking import read_metrics

PHASES = ("generate", "grade", "learn", "sync")
LAG = ["rollout.lag=1", "loss.type=truncated_is"]
LARGER = "rollout.problems_per_step=64"
RUNS: dict[str, list[str]] = {
    "quickstart": [],
    "quickstart, lag 1": LAG,
    "quickstart, vllm": ["rollout.engine.type=vllm"],
    "quickstart, vllm, lag 1": ["rollout.engine.type=vllm", *LAG],
    "quickstart, 4x the problems": [LARGER],
    "quickstart, vllm, 4x the problems": ["rollout.engine.type=vllm", LARGER],
    "quickstart, vllm, lag 1, 4x the problems": ["rollout.engine.type=vllm", *LAG, LARGER],
}


class Stopwatch(Reporter):
    """Notes when each step was recorded, and when there was sampling or learning."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.at: dict[int, float] = {}
        self.busy: list[tuple[float, float]] = []

    def step(self, row: Mapping[str, Any]) -> None:
        self.at[int(row["step"])] = time.perf_counter()

    @contextmanager
    def working(self) -> Iterator[None]:
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.busy.append((begun, time.perf_counter()))

    def idle(self, begin: float, end: float) -> float:
        """Seconds between the two that lie in no stretch of work."""
        idle, at = 0.0, begin
        for first, last in sorted(self.busy):
            idle += max(0.0, min(first, end) - at)
            at = min(max(at, last), end)
        return idle + end - at


@contextmanager
def watched(watch: Stopwatch) -> Iterator[None]:
    """The runtime's `sample` and `update`, noted by the stopwatch."""
    sample, update = RayRuntime.sample, RayRuntime.update

    def samples(self: RayRuntime, *args: Any) -> Iterator[Any]:
        with watch.working():
            yield from sample(self, *args)

    def updates(self: RayRuntime, *args: Any) -> Any:
        with watch.working():
            return update(self, *args)

    with patch.object(RayRuntime, "sample", samples), patch.object(RayRuntime, "update", updates):
        yield


def measure(name: str, steps: int) -> dict[str, Any]:
    """One run; medians over its steps."""
    watch = Stopwatch()
    every = steps + 1  # no evaluation and no checkpoint before the end
    overrides = [*RUNS[name], f"steps={steps}", f"eval.every={every}", f"checkpoint.every={every}", "eval.num_samples=1"]
    with tempfile.TemporaryDirectory() as folder:
        config = load_config("quickstart", overrides)
        with watched(watch):
            run_training(config, Path(folder) / "run", False, watch)
        rows = {row["step"]: row for row in read_metrics(Path(folder) / "run")}
    taken = []
    for step in range(3, steps):
        wall = watch.at[step] - watch.at[step - 1]
        seconds = {phase: rows[step][f"time/{phase}_s"] for phase in PHASES}
        other = watch.idle(watch.at[step - 1], watch.at[step])
        taken.append({"wall": wall, **seconds, "other": other, "share": other / wall})
    out = {key: statistics.median(step[key] for step in taken) for key in taken[0]}
    return {"run": name, "steps": len(taken), **out}


def table(results: list[dict[str, Any]]) -> str:
    head = "| run | s a step | generate | grade | learn | sync | neither generating nor learning |"
    lines = [head, "|---|---|---|---|---|---|---|"]
    for r in results:
        seconds = " | ".join(f"{r[key]:.3f}" for key in ("wall", *PHASES))
        lines.append(f"| {r['run']} | {seconds} | {r['share']:.1%} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", default=list(RUNS), choices=list(RUNS))
    parser.add_argument("--steps", type=int, default=14)
    parser.add_argument("--out", type=Path, help="folder for step.{json,md}")
    args = parser.parse_args()
    results = []
    for name in args.runs:
        results.append(measure(name, args.steps))
        print(f"{name}: {results[-1]['share']:.1%} of {results[-1]['wall']:.3f} s", flush=True)
    give_out(args.out, "step", table(results), {r["run"]: round(r["share"], 4) for r in results}, results=results)


if __name__ == "__main__":
    main()
