"""How large the report of a large run is, and how long a browser takes to open it: 500 problems, all of them at each of 100
steps, two views of 16 samples with responses of about 1,200 characters. The votes are made up and go through the real selectors,
ledger and report; the browser is a headless Chromium.

python benchmarks/report_size.py --out benchmarks/results
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from mlflow_screenshot import chromium
from reporting import give_out

from harmonyray.config import load_config
from harmonyray.ledger import Mark, take_ledger, write_ledger
from harmonyray.report.reporting import run_report
from harmonyray.selectors import select_many
from harmonyray.types import AnswerGroup, Judgement

VIEWS, SAMPLES, CHARS = ("solver", "reframer"), 16, 1200
WORDS = ["so", "then", "we", "add", "the", "two", "and", "get", "therefore", "let", "x", "be", "number", "of", "ways", "since"]
WORDS += ["both", "sides", "divide", "by", "n", "plus", "one", "hence", "sum", "is", "=", "2", "3", "frac", "even", "odd"]


def make_run(run_dir: Path, num_problems: int, num_steps: int) -> None:
    """A run directory as training leaves it."""
    for folder in ("ledger", "rollouts"):
        (run_dir / folder).mkdir(parents=True)
    (run_dir / "config.yaml").write_text(load_config("quickstart").to_yaml())
    rng = np.random.default_rng(0)
    corpus = " ".join(rng.choice(WORDS, 400_000))
    questions = [f"Problem {p}: {corpus[p * 97 : p * 97 + 400]}?" for p in range(num_problems)]
    with (run_dir / "metrics.jsonl").open("w") as metrics:
        for step in range(1, num_steps + 1):
            groups = [_group(rng, p, step / num_steps) for p in range(num_problems)]
            chosen = select_many("harmonic", [g.counts() for g in groups], np.array([g.num_samples for g in groups]))
            marks = [Mark("7", np.array([text == "7" for text in g.representatives])) for g in groups]
            judgements = [
                Judgement(g, c, np.zeros(g.cluster_ids.shape), np.ones(2, dtype=bool))
                for g, c in zip(groups, chosen, strict=True)
            ]
            ledger = take_ledger(step, judgements, marks)
            name = f"step-{step:06d}.parquet"
            write_ledger(run_dir / "ledger" / name, VIEWS, ledger)
            _write_rollouts(run_dir / "rollouts" / name, step, groups, questions, corpus, rng)
            metrics.write(
                json.dumps({"step": step, **ledger.metrics(), "consensus/coverage": 1.0, "consensus/upper_bound": 1.0}) + "\n"
            )


def _group(rng: np.random.Generator, problem: int, progress: float) -> AnswerGroup:
    """Right is "7", as often as the run has come far; other answers are numbers that differ from problem to problem."""
    drawn = np.where(rng.random((2, SAMPLES)) < 0.2 + 0.6 * progress, 7, rng.geometric(0.25, (2, SAMPLES)) * 11 + problem)
    texts = list(dict.fromkeys(drawn.ravel().tolist()))
    ids = np.array([[texts.index(x) for x in row] for row in drawn.tolist()])
    return AnswerGroup(str(problem), ids, np.array([SAMPLES, SAMPLES]), tuple(map(str, texts)))


def _write_rollouts(
    path: Path, step: int, groups: list[AnswerGroup], questions: list[str], corpus: str, rng: np.random.Generator
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    starts = iter(rng.integers(0, len(corpus) - CHARS, len(groups) * 2 * SAMPLES).tolist())
    rows: list[dict[str, Any]] = []
    for p, group in enumerate(groups):
        for v, view in enumerate(VIEWS):
            for n, cluster in enumerate(group.cluster_ids[v].tolist()):
                begin = next(starts)
                answer = group.representatives[cluster]
                rows.append(
                    {
                        "step": step,
                        "problem_id": group.problem_id,
                        "view": view,
                        "sample": n,
                        "question": questions[p],
                        "response": f"{corpus[begin : begin + CHARS]} \\boxed{{{answer}}}",
                        "answer": answer,
                        "cluster": cluster,
                        "reward": float(answer == "7"),
                        "draft": None,
                        "rewritten": None,
                        "num_tokens": CHARS // 4,
                        "finish_reason": "stop",
                    }
                )
    pq.write_table(pa.Table.from_pylist(rows), path)


def open_seconds(page: Path, times: int) -> list[float]:
    """Seconds from asking for the page until the explorer lists the problems, in a fresh browser each time."""
    out = []
    for _ in range(times):
        with chromium() as driver:
            begun = time.perf_counter()
            driver.get(page.resolve().as_uri())
            while driver.execute_script("return document.documentElement.dataset.ready") != "yes":
                time.sleep(0.01)
            out.append(time.perf_counter() - begun)
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=500)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_run(Path(folder) / "run", args.problems, args.steps)
        summary = run_report(f"{folder}/run")
        seconds = open_seconds(Path(summary["report"]), args.times)
    figures = {"num_bytes": summary["num_bytes"], "report_s": summary["wall_seconds"], "open_s": statistics.median(seconds)}
    table = (
        f"| problems x steps | page, MB | made in, s | opened in, s (median of {args.times}) |\n|---|---|---|---|\n"
        f"| {args.problems} x {args.steps} | {figures['num_bytes'] / 1e6:.1f} | {figures['report_s']:.0f} "
        f"| {figures['open_s']:.2f} |"
    )
    give_out(args.out, "report_size", table, figures, open_seconds=seconds)
