"""What `harmonyray vote` votes on: the answers of one problem at a time, out of a file or out of a run's records, counted.

A file's answers are clustered here; those of a run keep the clusters they were trained with. Gold answers ride along for
the report and never reach a selector.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harmonyray.answers.cluster import cluster_answers
from harmonyray.answers.equivalence import Equivalence
from harmonyray.answers.normalize import canonical_key
from harmonyray.ballots.rows import read_entries
from harmonyray.errors import ProblemError
from harmonyray.ledger import FOLDER, read_ledger
from harmonyray.problems.rows import read_rows
from harmonyray.records import BadRows
from harmonyray.types import IntArray

_ROLLOUT_COLUMNS = frozenset({"step", "problem_id", "view", "sample", "answer", "cluster"})


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


def file_ballots(source: str, equivalence: Equivalence, bad: BadRows, extract: str | None) -> Iterator[Ballot]:
    """The ballots of a file's rows, or of standard input's for `-`; which rows and views these are says `rows`.

    `extract`: the kind of answer to look for in whole responses, None for answers that are extracted already. Raises
    ProblemError for a row that cannot be used, unless `bad` skips it.
    """
    for entry in read_entries(source, bad, extract):
        ids, representatives, num_timeouts = cluster_answers(entry.answers, equivalence)
        num_samples = np.array([len(row) for row in entry.answers], dtype=np.int64)
        counts = _count(ids, len(representatives))
        yield Ballot(entry.id, entry.views, counts, num_samples, representatives, entry.gold, num_timeouts=num_timeouts)


def _count(ids: IntArray, num_clusters: int) -> IntArray:
    counts = np.empty((num_clusters, len(ids)), dtype=np.int64)
    for v, row in enumerate(ids):
        counts[:, v] = np.bincount(row[row >= 0], minlength=num_clusters)
    return counts


def run_ballots(run_dir: Path) -> Iterator[Ballot]:
    """The ballots of a run, one per step and problem, in the order they were sampled: its vote ledger, or the recorded
    rollouts of a run that has none.

    Raises ProblemError for a folder without either, and for files that are damaged.
    """
    if any((run_dir / FOLDER).glob("step-*.parquet")):
        for row in read_ledger(run_dir):
            yield Ballot(row.problem_id, row.views, row.counts, row.num_samples, row.representatives, step=row.step)
    else:
        yield from _rollout_ballots(run_dir)


def _rollout_ballots(run_dir: Path) -> Iterator[Ballot]:
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
            known = known or tuple(dict.fromkeys(sample["view"] for sample in samples))
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
