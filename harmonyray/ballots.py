"""What `harmonyray vote` votes on: the answers of one problem at a time, out of a file or out of a run's rollouts, counted.

A file's answers are clustered here; those of a run keep the clusters they were trained with. Gold answers ride along for
the report and never reach a selector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harmonyray.answers.cluster import cluster_answers
from harmonyray.answers.equivalence import Equivalence
from harmonyray.answers.extract import extract_answer
from harmonyray.answers.normalize import canonical_key
from harmonyray.errors import ProblemError
from harmonyray.ledger import FOLDER, read_ledger
from harmonyray.problems.rows import Row, read_rows
from harmonyray.records import BadRows, read_records, scalar_text, shown
from harmonyray.registry import nearest
from harmonyray.types import IntArray

EXAMPLE = '{"id": "a", "views": {"solver": ["4", "5"], "reframer": ["4"]}}'
_COLUMNS = frozenset({"id", "views", "gold"})
_ROLLOUT_COLUMNS = frozenset({"step", "problem_id", "view", "sample", "answer", "cluster"})

Answers = Sequence[Sequence[str | None]]


@dataclass(frozen=True, slots=True)
class Ballot:
    """One problem, counted: `counts` int[C, V], `num_samples` int[V], `representatives` [C] the clusters' texts.

    `id` as the input has it; `step` of a run, None for a file; `num_timeouts`: comparisons given up.
    """

    id: Any
    views: tuple[str, ...]
    counts: IntArray
    num_samples: IntArray
    representatives: tuple[str, ...]
    gold: str | None = None
    step: int | None = None
    num_timeouts: int = 0


def file_ballots(
    source: str, equivalence: Equivalence, bad: BadRows, extract: str | None, wanted_view: Callable[[Sequence[str]], None]
) -> Iterator[Ballot]:
    """The ballots of a file's rows, or of standard input's for `-`.

    The first usable row decides which views there are and their order; every other row must have the same ones (an
    empty list is a view without samples). null and "" are samples without an answer. `extract`: the kind of answer to
    look for in whole responses, None for answers that are extracted already. `wanted_view` is given the views once.
    Raises ProblemError for a row that cannot be used, unless `bad` skips it.
    """
    known: tuple[str, ...] = ()

    def make(row: Row) -> tuple[Any, Answers, str | None]:
        nonlocal known
        views = _views(row)
        if known:
            _check_views(row, views, known)
        answers = [_answers(row, name, views[name], extract) for name in known or views]
        gold = scalar_text(row, "column 'gold'", row.values.get("gold")) or None
        if extract is not None and gold is not None and ("####" in gold or "\\boxed" in gold):
            gold = extract_answer(gold, extract) or gold  # a worked solution, as GSM8K has them
        out = _id(row), answers, gold
        if not known:
            wanted_view(tuple(views))
            known = tuple(views)
        return out

    for problem_id, answers, gold in read_records(source, make, bad, EXAMPLE, _COLUMNS):
        ids, representatives, num_timeouts = cluster_answers(answers, equivalence)
        num_samples = np.array([len(row) for row in answers], dtype=np.int64)
        counts = _count(ids, len(representatives))
        yield Ballot(problem_id, known, counts, num_samples, representatives, gold, num_timeouts=num_timeouts)


def _count(ids: IntArray, num_clusters: int) -> IntArray:
    counts = np.empty((num_clusters, len(ids)), dtype=np.int64)
    for v, row in enumerate(ids):
        counts[:, v] = np.bincount(row[row >= 0], minlength=num_clusters)
    return counts


def _id(row: Row) -> Any:
    value = row.values.get("id")
    if value is None:
        raise ProblemError(f"{row.place}: no id in column 'id'; expected rows like {EXAMPLE}: add one")
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return scalar_text(row, "the id in column 'id'", value)


def _views(row: Row) -> Mapping[str, Any]:
    """The views of a row by name; Parquet may hold them as a struct or as a map (pairs)."""
    if "views" not in row.values:
        hint = nearest("views", [str(c) for c in row.columns]) if row.columns else "the row has no columns"
        raise ProblemError(f"{row.place}: no column 'views'; {hint}; expected rows like {EXAMPLE}")
    views = row.values["views"]
    if isinstance(views, list) and views and all(isinstance(pair, tuple) and len(pair) == 2 for pair in views):
        views = dict(views)
    if not isinstance(views, Mapping) or not views:
        raise ProblemError(f"{row.place}: column 'views' is {shown(views)}; expected an object of lists: {EXAMPLE}")
    return views


def _check_views(row: Row, views: Mapping[str, Any], known: Sequence[str]) -> None:
    for name in views:
        if name not in known:
            raise ProblemError(
                f"{row.place}: view {name!r} is not one of the first row's; {nearest(name, list(known))}; "
                "expected the same views in every row: rename or remove it"
            )
    for name in known:
        if name not in views:
            raise ProblemError(
                f"{row.place}: view {name!r} is missing (the first row has it); expected the same views in every row: "
                f'add it, as "{name}": [] if it has no samples'
            )


def _answers(row: Row, view: str, values: Any, extract: str | None) -> list[str | None]:
    if not isinstance(values, list):
        raise ProblemError(f"{row.place}: view {view!r} is {shown(values)}; expected a list of answers: correct it")
    texts = [scalar_text(row, f"answer {n} of view {view!r}", value) for n, value in enumerate(values, 1)]
    return texts if extract is None else [extract_answer(text, extract) if text else None for text in texts]


def run_ballots(run_dir: Path, wanted_view: Callable[[Sequence[str]], None]) -> Iterator[Ballot]:
    """The ballots of a run, one per step and problem, in the order they were sampled: its vote ledger, or the recorded
    rollouts of a run that has none.

    Raises ProblemError for a folder without either, and for files that are damaged.
    """
    if any((run_dir / FOLDER).glob("step-*.parquet")):
        known: tuple[str, ...] = ()
        for row in read_ledger(run_dir):
            if not known:
                known = row.views
                wanted_view(known)
            yield Ballot(row.problem_id, row.views, row.counts, row.num_samples, row.representatives, step=row.step)
    else:
        yield from _rollout_ballots(run_dir, wanted_view)


def _rollout_ballots(run_dir: Path, wanted_view: Callable[[Sequence[str]], None]) -> Iterator[Ballot]:
    paths = sorted((run_dir / "rollouts").glob("step-*.parquet"))
    if not paths:
        raise ProblemError(
            f"{run_dir} is a directory without rollouts/step-*.parquet; expected a run's directory, or a file of answers"
        )
    known: tuple[str, ...] = ()
    for path in paths:
        problems: dict[str, list[Mapping[str, Any]]] = {}
        for row in read_rows(path, _ROLLOUT_COLUMNS):
            missing = sorted(_ROLLOUT_COLUMNS - row.values.keys())
            if missing:
                raise ProblemError(f"{path}: no column {missing[0]!r}; expected the rollouts that a run writes")
            problems.setdefault(row.values["problem_id"], []).append(row.values)
        for problem_id, samples in problems.items():
            if not known:
                known = tuple(dict.fromkeys(sample["view"] for sample in samples))
                wanted_view(known)
            yield _run_ballot(problem_id, samples, known)


def _run_ballot(problem_id: str, samples: Sequence[Mapping[str, Any]], views: tuple[str, ...]) -> Ballot:
    num_clusters = 1 + max(int(sample["cluster"]) for sample in samples)
    counts = np.zeros((num_clusters, len(views)), dtype=np.int64)
    num_samples = np.zeros(len(views), dtype=np.int64)
    first: dict[int, tuple[int, str, str]] = {}
    for sample in samples:
        v, cluster = views.index(sample["view"]), int(sample["cluster"])
        num_samples[v] += 1
        if cluster >= 0:
            counts[cluster, v] += 1
            member = (sample["sample"], canonical_key(sample["answer"]), sample["answer"])
            first[cluster] = min(first.get(cluster, member), member)
    representatives = tuple(first[c][2] for c in range(num_clusters))
    return Ballot(problem_id, views, counts, num_samples, representatives, step=int(samples[0]["step"]))
