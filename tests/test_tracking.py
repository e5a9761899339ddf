"""What is recorded of a step, and what is forgotten on a resume."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from harmonyray.errors import RolloutsLostError
from harmonyray.rollouts import keep
from harmonyray.tracking import RunTracker, read_metrics, rewind, write_rollouts
from harmonyray.types import (
    AnswerGroup,
    Collected,
    Consensus,
    Here,
    Judgement,
    Problem,
    ProblemRollouts,
    Prompt,
    Reading,
    Rollout,
    RolloutGroup,
    Texts,
)


def rollout(view: str, text: str, num_tokens: int, finish: str = "stop") -> Rollout:
    ids = np.arange(num_tokens)
    return Rollout(Prompt("p", view, text="Q"), np.array([1]), ids, np.zeros(num_tokens, np.float32), text, finish, 4)


def step() -> tuple[Collected, list[Judgement]]:
    """One problem; two samples in the first view, one in the second; clusters "4" and "5", the label is "4"."""
    problem = Problem("p", "2+2")
    rollouts = ((rollout("a", "it is 4", 3), rollout("a", "five", 9, "length")), (rollout("b", "hm", 1),))
    read = (
        (Reading("4"), Reading("5")),
        (Reading(None, missing=2 / 3, copied=0.5, reworded=True, strategy="count_up"),),
    )
    texts = Texts(((None, None), ("two and two",)), ((None, None), ("Count up",)))
    ids = np.array([[0, 1], [-1, -1]])
    group = AnswerGroup("p", ids, np.array([2, 1]), ("4", "5"), read, Here(texts))
    consensus = Consensus((0, None), np.array([0.5, 0.0]), group.counts() / 2, 0.5)
    rewards = np.array([[1.0, 0.0], [0.0, np.nan]])
    whole = ProblemRollouts(problem, tuple(map(keep, rollouts)))
    return Collected([whole], [group], [], 0.0, 0.0), [Judgement(group, consensus, rewards, np.array([True, False]))]


def test_a_row_for_each_sample(tmp_path: Path) -> None:
    collected, judgements = step()
    write_rollouts(tmp_path / "step-000007.parquet", 7, ["a", "b"], collected.rollouts, judgements)
    got = pq.read_table(tmp_path / "step-000007.parquet").to_pylist()
    common = {"step": 7, "problem_id": "p", "question": "2+2", "policy_version": 4}
    assert got[0] == common | {
        "view": "a",
        "sample": 0,
        "response": "it is 4",
        "draft": None,
        "answer": "4",
        "cluster": 0,
        "label": "4",
        "reward": 1.0,
        "missing": 0.0,
        "rewritten": None,
        "strategy": None,
        "num_tokens": 3,
        "finish_reason": "stop",
    }
    assert (got[1]["sample"], got[1]["cluster"], got[1]["finish_reason"], got[1]["num_tokens"]) == (1, 1, "length", 9)
    assert (got[2]["view"], got[2]["answer"], got[2]["cluster"], got[2]["label"]) == ("b", None, -1, None)
    assert (got[2]["rewritten"], got[2]["strategy"], got[2]["missing"]) == ("two and two", "Count up", pytest.approx(2 / 3))
    assert len(got) == 3
    assert [p.name for p in tmp_path.iterdir()] == ["step-000007.parquet"]


class Recorder:
    """Stands in for the MLflow run where only the order matters."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir, self.seen = run_dir, list[tuple[int, int]]()

    def log_metrics(self, row: Mapping[str, float], step: int) -> None:
        self.seen.append((step, len(read_metrics(self.run_dir))))


def test_a_metrics_line_means_that_the_step_is_whole(tmp_path: Path) -> None:
    mlflow, heard = Recorder(tmp_path), list[Any]()
    tracker = RunTracker(tmp_path, ["a", "b"], mlflow, [heard.append])  # type: ignore[arg-type]
    tracker.log_step(1, {"step": 1, "x": 0.5}, *step())
    tracker.log_step(2, {"step": 2, "x": 0.25}, *step())
    tracker.flush()
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "x": 0.5}\n{"step": 2, "x": 0.25}\n'
    assert sorted(p.name for p in (tmp_path / "rollouts").iterdir()) == ["step-000001.parquet", "step-000002.parquet"]
    assert mlflow.seen == [(1, 1), (2, 2)]
    assert [row["step"] for row in heard] == [1, 2]
    tracker.log_step(3, {"step": 3}, step()[0], [])
    with pytest.raises(ValueError, match="zip"):
        tracker.flush()
    assert len(read_metrics(tmp_path)) == 2  # the rollouts come first: no line without them


def test_numbers_that_are_not_finite_are_null_in_the_file_and_nan_in_python(tmp_path: Path) -> None:
    row = {"step": 1, "a": float("nan"), "b": float("inf"), "c": np.float64("-inf"), "d": 0.5}
    tracker = RunTracker(tmp_path, ["a", "b"], Recorder(tmp_path))  # type: ignore[arg-type]
    tracker.log_step(1, row, *step())
    tracker.log_step(2, {"step": 2}, *step())
    tracker.flush()
    line = '{"step": 1, "a": null, "b": null, "c": null, "d": 0.5}\n'
    assert (tmp_path / "metrics.jsonl").read_text() == line + '{"step": 2}\n'
    rewind(tmp_path, 1)
    assert (tmp_path / "metrics.jsonl").read_text() == line
    (again,) = read_metrics(tmp_path)
    assert again == pytest.approx({"step": 1, **dict.fromkeys("abc", float("nan")), "d": 0.5}, nan_ok=True)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "a": NaN, "b": -Infinity}\n')  # of a run before this was so
    rewind(tmp_path, 1)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "a": null, "b": null}\n'


CUT_SHORT = [
    ("", []),
    ('{"step": 1}\n', [1]),
    ('{"step": 1}\n{"step": 2', [1]),
    ('{"step": 1}\n{"step": 2}', [1]),  # whole, but nobody can know
    ('{"st', []),
]


@pytest.mark.parametrize(("text", "expected"), CUT_SHORT)
def test_a_last_line_cut_short_is_left_out(tmp_path: Path, text: str, expected: list[int]) -> None:
    (tmp_path / "metrics.jsonl").write_text(text)
    assert [row["step"] for row in read_metrics(tmp_path)] == expected


def test_no_metrics_yet(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []


@pytest.mark.parametrize(("to", "left"), [(0, []), (2, [1, 2]), (3, [1, 2, 3]), (9, [1, 2, 3])])
def test_rewinding_forgets_what_came_after(tmp_path: Path, to: int, left: list[int]) -> None:
    (tmp_path / "rollouts").mkdir()
    for i in (1, 2, 3):
        (tmp_path / "rollouts" / f"step-{i:06d}.parquet").write_text("x")
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps({"step": i, "x": 0.1}) + "\n" for i in (1, 2, 3)) + '{"step": 4')
    for left_over in ("rollouts/.step-000009.1a2b3c4d.parquet", ".metrics.1a2b3c4d.jsonl"):  # by a run that was killed
        (tmp_path / left_over).touch()
    rewind(tmp_path, to)
    assert (tmp_path / "metrics.jsonl").read_text() == "".join(json.dumps({"step": i, "x": 0.1}) + "\n" for i in left)
    assert sorted(p.name for p in (tmp_path / "rollouts").iterdir()) == [f"step-{i:06d}.parquet" for i in left]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["metrics.jsonl", "rollouts"]


def test_rewinding_an_empty_run(tmp_path: Path) -> None:
    rewind(tmp_path, 0)
    assert read_metrics(tmp_path) == []


def test_texts_that_are_gone_with_a_node_are_null_and_the_figures_stay(tmp_path: Path) -> None:
    class Gone:
        def get(self) -> Any:
            raise RolloutsLostError("gone")

    collected, judgements = step()
    (whole,) = collected.rollouts
    solver, other = whole.groups
    lost = ProblemRollouts(whole.problem, (RolloutGroup(solver.figures, Gone()), other))
    write_rollouts(tmp_path / "step-000007.parquet", 7, ["a", "b"], [lost], judgements)
    got = pq.read_table(tmp_path / "step-000007.parquet").to_pylist()
    assert [row["response"] for row in got] == [None, None, "hm"]
    assert [(row["answer"], row["num_tokens"], row["finish_reason"]) for row in got[:2]] == [("4", 3, "stop"), ("5", 9, "length")]
    assert [row["rewritten"] for row in got] == [None, None, "two and two"]
