"""The vote ledger: for every problem of a step the counts, and what every selector with its default options makes of them.

It says afterwards what another selector would have chosen, and lets any selector be replayed without the samples. What the
evaluator knows of the gold answers lies beside it for readers; no selector is given any of that. Letters: P problems, C clusters,
V views. pyarrow is imported when a file is written or read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harmonyray.errors import ProblemError
from harmonyray.files import whole_file
from harmonyray.selectors import default_selectors
from harmonyray.selectors.applying import fit_and_select
from harmonyray.types import AnswerGroup, BoolArray, Consensus, FloatArray, IntArray, Judgement

FOLDER = "ledger"


@dataclass(frozen=True, slots=True)
class Mark:
    """A problem's gold answer as text, and which of its clusters equal it: bool[C]. The evaluator's word, for readers."""

    gold: str
    right: BoolArray


@dataclass(frozen=True, slots=True)
class StepLedger:
    """One step: its `groups` [P], the consensus `used` [P] by the method, the `verdicts` [P] of every selector by name, and the
    `marks` [P] of problems with a gold answer (None: without)."""

    step: int
    groups: Sequence[AnswerGroup]
    used: Sequence[Consensus]
    verdicts: Mapping[str, Sequence[Consensus]]
    marks: Sequence[Mark | None]

    def metrics(self) -> dict[str, float]:
        """`selectors/{name}/disagreement`: share of problems to which it gives other labels than those used (an abstention is one
        more label), and `selectors/{name}/coverage`: share with a label in some view; both in [0, 1]."""
        out = {}
        for name, verdicts in self.verdicts.items():
            differs = [v.label != u.label for v, u in zip(verdicts, self.used, strict=True)]
            covered = [any(label is not None for label in v.label) for v in verdicts]
            out[f"selectors/{name}/disagreement"] = float(np.mean(differs))
            out[f"selectors/{name}/coverage"] = float(np.mean(covered))
        return out


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a selector made of a problem: `label` [V] (None: abstained), `scores` float[C], or float[C, V] where it judges views
    apart, `margin` and `tie` as in a Consensus."""

    label: tuple[int | None, ...]
    scores: FloatArray
    margin: float
    tie: bool

    @property
    def abstained(self) -> bool:
        return all(label is None for label in self.label)


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """One problem at one step, as read back: `counts` int[C, V], `num_samples` int[V], `representatives` [C] the clusters' texts,
    `used` what the method went by, `verdicts` by selector, `mark` None without a gold answer. `step` counts from 1; selectors
    count theirs from 0."""

    step: int
    problem_id: str
    views: tuple[str, ...]
    counts: IntArray
    num_samples: IntArray
    representatives: tuple[str, ...]
    used: Verdict
    verdicts: Mapping[str, Verdict]
    mark: Mark | None


def take_ledger(step: int, judgements: Sequence[Judgement], marks: Sequence[Mark | None]) -> StepLedger:
    """What every built-in selector makes of a step, counted from 1; `marks` [P] are put beside it. One that learns from votes is
    fitted on this step alone."""
    groups = [j.group for j in judgements]
    counts, num_samples, keys = [g.counts() for g in groups], [g.num_samples for g in groups], [g.problem_id for g in groups]
    verdicts = {
        name: fit_and_select(selector, counts, num_samples, step=step - 1, keys=keys)
        for name, selector in default_selectors().items()
    }
    return StepLedger(step, groups, [j.consensus for j in judgements], verdicts, marks)


def write_ledger(path: Path, views: Sequence[str], ledger: StepLedger) -> None:
    """One row per problem, with the columns `step`, `problem_id`, `views` [V], `num_samples` [V], `counts` [C][V],
    `representatives` [C], `gold` and `right` [C] (null without a gold answer), and as structs of `label` [V] (null: abstained),
    `scores` [C][1 or V], `margin` and `tie` the column `used` and one of each selector's name."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    integers, grid = pa.list_(pa.int64()), pa.list_(pa.list_(pa.float64()))
    verdict = pa.struct([("label", integers), ("scores", grid), ("margin", pa.float64()), ("tie", pa.bool_())])
    num_problems = len(ledger.groups)
    columns = {
        "step": pa.array([ledger.step] * num_problems, pa.int64()),
        "problem_id": pa.array([g.problem_id for g in ledger.groups], pa.string()),
        "views": pa.array([list(views)] * num_problems, pa.list_(pa.string())),
        "num_samples": pa.array([g.num_samples.tolist() for g in ledger.groups], integers),
        "counts": pa.array([g.counts().tolist() for g in ledger.groups], pa.list_(integers)),
        "representatives": pa.array([list(g.representatives) for g in ledger.groups], pa.list_(pa.string())),
        "gold": pa.array([None if m is None else m.gold for m in ledger.marks], pa.string()),
        "right": pa.array([None if m is None else m.right.tolist() for m in ledger.marks], pa.list_(pa.bool_())),
        "used": pa.array([_as_dict(c) for c in ledger.used], verdict),
    }
    for name, verdicts in ledger.verdicts.items():
        columns[name] = pa.array([_as_dict(c) for c in verdicts], verdict)
    # Few rows in many columns: what is usually kept beside a column outweighs it here.
    with whole_file(path) as temporary:
        pq.write_table(
            pa.table(columns), temporary, use_dictionary=False, write_statistics=False, compression="zstd", store_schema=False
        )


def _as_dict(consensus: Consensus) -> dict[str, Any]:
    scores = consensus.scores if consensus.scores.ndim == 2 else consensus.scores[:, None]
    return {"label": consensus.label, "scores": scores.tolist(), "margin": consensus.margin, "tie": consensus.tie}


def read_ledger(run_dir: Path) -> Iterator[LedgerRow]:
    """A run's ledger, one row per step and problem, in the order they were judged; one step's file at a time.

    Raises ProblemError if the directory has no ledger or one of its files cannot be read.
    """
    paths = sorted((run_dir / FOLDER).glob("step-*.parquet"))
    if not paths:
        raise ProblemError(
            f"'{run_dir}' has no {FOLDER}/step-*.parquet: expected the directory of a run that has finished a step"
        )
    return (row for path in paths for row in _read_file(path))


def _read_file(path: Path) -> Iterator[LedgerRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(path).to_pylist()
    except (OSError, pa.ArrowException) as e:
        raise ProblemError(f"'{path}' cannot be read as a ledger ({e}): is the file whole?") from e
    for row in rows:
        num_samples = np.array(row.pop("num_samples"), dtype=np.int64)
        gold, right = row.pop("gold", None), row.pop("right", None)  # a ledger of an earlier version has neither
        yield LedgerRow(
            step=row.pop("step"),
            problem_id=row.pop("problem_id"),
            views=tuple(row.pop("views")),
            counts=np.array(row.pop("counts"), dtype=np.int64).reshape(-1, len(num_samples)),
            num_samples=num_samples,
            representatives=tuple(row.pop("representatives")),
            used=_verdict(row.pop("used")),
            mark=None if gold is None else Mark(gold, np.array(right, dtype=bool)),
            verdicts={name: _verdict(value) for name, value in row.items()},
        )


def _verdict(value: Mapping[str, Any]) -> Verdict:
    scores = np.array(value["scores"], dtype=np.float64)
    # A single column is one score for all views; so is that of one view judged apart, which it equals.
    flat = scores.reshape(-1) if scores.ndim < 2 or scores.shape[1] == 1 else scores
    return Verdict(tuple(value["label"]), flat, value["margin"], value["tie"])
