"""The vote ledger: what it holds by hand, written and read back, replayed, rewound, and reported by a run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_helpers import rows, small_run

from harmonyray.config import load_config
from harmonyray.console import result_table
from harmonyray.errors import ProblemError
from harmonyray.evaluate import EvalSettings, Evaluator
from harmonyray.ledger import read_ledger, take_ledger, write_ledger
from harmonyray.registry import BUILT_IN
from harmonyray.selectors import default_selectors, select, select_many
from harmonyray.tracking import rewind
from harmonyray.types import AnswerGroup, GoldAnswer, Judgement, Sampling

NEEDS_OPTIONS = {"bootstrap", "schedule", "mixed"}


def judgement(ids: list[list[int]], problem: str, used: str = "harmonic") -> Judgement:
    table = np.array(ids)
    group = AnswerGroup(problem, table, np.array([len(row) for row in ids]), tuple("abcdef"[: table.max() + 1]))
    consensus = select(used, group.counts(), group.num_samples)
    return Judgement(group, consensus, np.zeros(table.shape), np.array([True, True]))


# Harmonic prefers cluster 1 (p = .25, .5), majority cluster 0; both cluster 0; no common answer; nobody answered.
STEP = [
    judgement([[0] * 6 + [1] * 2, [1] * 4 + [0] + [-1] * 3], "p"),
    judgement([[0, 0, 1], [0, 0, 0]], "q"),
    judgement([[0, 0, 0], [1, 1, -1]], "r"),
    judgement([[-1, -1], [-1, -1]], "s"),
]


def test_every_selector_without_required_options_is_in_it() -> None:
    assert set(default_selectors()) == set(BUILT_IN["selectors"]) - NEEDS_OPTIONS
    assert set(take_ledger(1, STEP).verdicts) == set(default_selectors())


def test_disagreement_and_coverage_by_hand() -> None:
    got = take_ledger(1, STEP).metrics()
    assert (got["selectors/harmonic/disagreement"], got["selectors/harmonic/coverage"]) == (0.0, 0.5)
    # Another label of p, and a label of r where harmonic abstains.
    assert (got["selectors/majority/disagreement"], got["selectors/majority/coverage"]) == (0.5, 0.75)
    # self gives the views of p different labels.
    assert got["selectors/self/disagreement"] == 0.5


class Grader:
    def equal(self, pairs: Any) -> list[bool]:
        return [gold == answer for gold, answer in pairs]


def evaluator(gold: dict[str, str]) -> Evaluator:
    answers = {key: GoldAnswer(key, text) for key, text in gold.items()}
    return Evaluator({}, answers, [], None, Grader(), EvalSettings(1, [Sampling(1)], 0, 1))  # type: ignore[arg-type]


def test_label_accuracy_by_hand() -> None:
    ledger = take_ledger(1, STEP)
    got = evaluator({"p": "a", "q": "a", "r": "a"}).label_metrics(STEP, ledger.verdicts)
    assert got["consensus/label_accuracy"] == got["selectors/harmonic/label_accuracy"] == 0.5  # over its two labels
    assert got["selectors/majority/label_accuracy"] == 1.0
    only_r = evaluator({"r": "b"}).label_metrics(STEP, ledger.verdicts)
    assert only_r["selectors/majority/label_accuracy"] == 0.0
    assert "selectors/harmonic/label_accuracy" not in only_r  # it gives no label to score
    assert evaluator({}).label_metrics(STEP, ledger.verdicts) == {}


def test_written_and_read_back(tmp_path: Path) -> None:
    (tmp_path / "ledger").mkdir()
    for step in (2, 1):
        write_ledger(tmp_path / "ledger" / f"step-{step:06d}.parquet", ["solver", "reframer"], take_ledger(step, STEP))
    got = list(read_ledger(tmp_path))
    assert [(row.step, row.problem_id) for row in got] == [(s, p) for s in (1, 2) for p in "pqrs"]
    first, _, third, last = got[:4]
    assert first.views == ("solver", "reframer")
    assert first.counts.tolist() == [[6, 1], [2, 4]]
    assert first.num_samples.tolist() == [8, 8]
    assert first.representatives == ("a", "b")
    assert (first.used.label, first.used.tie) == ((1, 1), False)
    assert first.verdicts["self"].scores.tolist() == [[6, 1], [2, 4]]
    assert first.verdicts["self"].label == (0, 1)
    assert third.used.abstained
    assert last.counts.shape == (0, 2)
    assert last.verdicts["majority"].label == (None, None)
    for row in got:
        for name in ("harmonic", "majority", "infomax_exact"):
            want = select(name, row.counts, row.num_samples)
            assert (row.verdicts[name].label, row.verdicts[name].margin) == (want.label, want.margin)
            assert row.verdicts[name].scores.tolist() == want.scores.tolist()


def test_a_directory_without_a_ledger(tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match=r"has no ledger/step-\*\.parquet"):
        read_ledger(tmp_path)
    (tmp_path / "ledger").mkdir()
    (tmp_path / "ledger" / "step-000001.parquet").write_bytes(b"junk")
    with pytest.raises(ProblemError, match="cannot be read as a ledger"):
        list(read_ledger(tmp_path))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("ledger") / "run"
    options = ("steps=2", "checkpoint.every=1", "method.selector={type: reliability, window: 2}")
    small_run(run_dir, *options)
    return run_dir


def test_a_run_keeps_a_ledger_that_replays_its_labels(run: Path) -> None:
    ledger = list(read_ledger(run))
    assert [row.step for row in ledger] == [1] * 4 + [2] * 4
    for step in (1, 2):
        mine = [row for row in ledger if row.step == step]
        counts, num_samples = [row.counts for row in mine], [row.num_samples for row in mine]
        for name in ("harmonic", "reliability"):
            replayed = select_many(name, counts, num_samples, keys=[row.problem_id for row in mine], step=step - 1)
            assert [c.label for c in replayed] == [row.verdicts[name].label for row in mine]
        row = rows(run)[step - 1]
        differ = np.mean([r.verdicts["majority"].label != r.used.label for r in mine])
        assert row["selectors/majority/disagreement"] == differ
        assert math.isclose(
            row["selectors/reliability/coverage"], np.mean([not r.verdicts["reliability"].abstained for r in mine])
        )
        assert any(key.startswith("selectors/") and key.endswith("/label_accuracy") for key in row)


def test_the_table_names_the_best_selector_in_hindsight(run: Path) -> None:
    text = (run / "summary.txt").read_text()
    assert "best selector with default options, " in text
    assert "chosen differently by " in text
    summary = {"eval_before": {}, "eval_after": {}, "steps": 2, "first_step": 1, "wall_seconds": 1.0, "guard": []}
    blind = [{k: v for k, v in row.items() if "accuracy" not in k and "upper_bound" not in k} for row in rows(run)]
    labels = [str(cell) for cell in result_table(load_config("quickstart"), summary, blind).columns[0].cells]
    assert any("would have chosen differently, most of all" in label for label in labels)
    assert not any("hindsight" in label for label in labels)


def test_rewinding_drops_the_later_ledger(run: Path, tmp_path: Path) -> None:
    for folder in ("ledger", "rollouts"):
        (tmp_path / folder).mkdir()
        for step in (1, 2, 3):
            (tmp_path / folder / f"step-{step:06d}.parquet").touch()
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    rewind(tmp_path, 1)
    assert [p.name for p in (tmp_path / "ledger").iterdir()] == ["step-000001.parquet"]
    assert [p.name for p in (tmp_path / "rollouts").iterdir()] == ["step-000001.parquet"]


def test_what_a_selector_learned_survives_a_resume(run: Path, tmp_path: Path) -> None:
    """Steps 1 and 2 in one go or with a break between: the window of two steps is the same."""
    options = ("checkpoint.every=1", "method.selector={type: reliability, window: 2}")
    small_run(tmp_path / "run", "steps=1", *options)
    small_run(tmp_path / "run", "steps=2", *options, resume=True)
    assert used(tmp_path / "run") == used(run)


def used(run_dir: Path) -> list[Any]:
    return [(r.step, r.problem_id, r.used.label, r.used.scores.tolist(), r.used.margin) for r in read_ledger(run_dir)]
