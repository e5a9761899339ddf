"""A run made by hand for the report: four problems at two steps with votes whose labels are known, and texts that mean harm."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harmonyray.config import load_config
from harmonyray.ledger import Mark, take_ledger, write_ledger
from harmonyray.selectors import select
from harmonyray.types import AnswerGroup, Judgement

VIEWS = ("solver", "reframer")
EVIL = (
    "</script></pre><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>\u2028\u2029\u202e&lt;b&gt;\x00`${1}"
)
SHOWN = EVIL.replace("\u2028\u2029\u202e", "⟨U+2028⟩⟨U+2029⟩⟨U+202E⟩").replace("\x00", "⟨U+0000⟩")  # signs that act are named
LONG = "x" * 300_000  # one line

# Answers by view, -1 for none. p: harmonic takes cluster 1 (.25, .5), majority 0; q: both 0; r: no common answer; s: none.
VOTES = {
    "p": [[0] * 6 + [1] * 2, [1] * 4 + [0] + [-1] * 3],
    "q": [[0, 0, 1], [0, 0, 0]],
    "r": [[0, 0, 0], [1, 1, -1]],
    "s": [[-1, -1], [-1, -1]],
}
TEXTS = {"p": ("64", "5"), "q": (EVIL, "1/2"), "r": ("7", "8"), "s": ()}
QUESTIONS = {"p": "What is six times seven?", "q": f"Evil? {EVIL}", "r": f"Long? {LONG}", "s": "Nobody knows this."}
GOLD = {"p": "5", "q": EVIL, "r": "9"}  # s has none


def judgement(problem: str) -> Judgement:
    table = _table(VOTES[problem])
    group = AnswerGroup(problem, table, np.array([len(row) for row in VOTES[problem]]), TEXTS[problem])
    return Judgement(group, select("harmonic", group.counts(), group.num_samples), np.zeros(table.shape), np.array([True, True]))


def _table(votes: Sequence[Sequence[int]]) -> Any:
    return np.array(votes)


def make_run(run_dir: Path, *overrides: str, config: str = "quickstart", metrics: Sequence[dict[str, float]] = ()) -> Path:
    """Two steps of all four problems; further `metrics` [steps] join those of the ledger."""
    for folder in ("ledger", "rollouts"):
        (run_dir / folder).mkdir(parents=True)
    (run_dir / "config.yaml").write_text(load_config(config, list(overrides)).to_yaml())
    judgements = [judgement(problem) for problem in VOTES]
    marks = [
        None if p not in GOLD else Mark(GOLD[p], np.array([text == GOLD[p] for text in TEXTS[p]], dtype=bool)) for p in VOTES
    ]
    lines = []
    for step in (1, 2):
        ledger = take_ledger(step, judgements, marks)
        name = f"step-{step:06d}.parquet"
        write_ledger(run_dir / "ledger" / name, VIEWS, ledger)
        pq.write_table(pa.Table.from_pylist(list(_responses(step))), run_dir / "rollouts" / name)
        more = metrics[step - 1] if metrics else {}
        lines.append({"step": step, "consensus/coverage": 0.5, "consensus/upper_bound": 0.75, **ledger.metrics(), **more})
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run_dir / "run.json").write_text(json.dumps({"versions": {"python": "3.11.7", "torch": "2.13.0"}}))
    return run_dir


def _responses(step: int) -> Any:
    for problem, votes in VOTES.items():
        for v, row in enumerate(votes):
            for n, cluster in enumerate(row):
                answer = None if cluster < 0 else TEXTS[problem][cluster]
                text = {"q": f"I say {EVIL}", "r": LONG}.get(problem, f"step {step}, sample {n}: \\boxed{{{answer}}}")
                yield {
                    "step": step,
                    "problem_id": problem,
                    "view": VIEWS[v],
                    "sample": n,
                    "question": QUESTIONS[problem],
                    "response": text,
                    "answer": answer,
                    "cluster": cluster,
                    "reward": None if (problem, v, n) == ("p", 0, 7) else 1.0,  # it only voted
                    "draft": f"draft {n}" if v else None,
                    "rewritten": None,
                    "num_tokens": 12,
                    "finish_reason": "stop",
                }
