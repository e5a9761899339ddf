"""Answers of one problem to clusters: the equality of pairs made an equivalence relation, the same for any order of views.

Only this turns a (not always transitive) comparison into classes; it never iterates a set.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from harmonyray.answers.equivalence import Equivalence
from harmonyray.answers.normalize import canonical_key
from harmonyray.types import IntArray


class Clustering(NamedTuple):
    """`cluster_ids` int[V, N] (-1: no answer, or past the view's samples), `representatives` [C], and the number of
    comparisons that were given up (their answers stay apart)."""

    cluster_ids: IntArray
    representatives: tuple[str, ...]
    num_timeouts: int


def cluster_answers(answers: Sequence[Sequence[str | None]], equivalence: Equivalence) -> Clustering:
    """Cluster `answers[v][n]`, the views of one problem (V x N, views may differ in length).

    Equal canonical keys are one class. Classes are then compared in the order of their keys, each by its shortest text,
    first without a solver (an exact comparison), then the remaining ones with it, and joined transitively: a cluster is
    a connected component, so `5 m` and `5 cm` meet when somebody also answered `5`, and `0.5` and `50` when somebody
    answered `50%`. Clusters are numbered by the lowest
    sample index n at which they appear in any view, ties by canonical key; a representative is the text of that first
    member. The order of the views changes only the rows of `cluster_ids`. Raises GraderError if the solver is lost.
    """
    keys = [[canonical_key(answer) if answer is not None else "" for answer in row] for row in answers]
    spellings: dict[str, str] = {}
    for key_row, row in zip(keys, answers, strict=True):
        for key, answer in zip(key_row, row, strict=True):
            if key and answer is not None:
                spellings[key] = min(spellings.get(key, answer), answer, key=lambda text: (len(text), text))
    root, num_timeouts = _classes([(key, spellings[key]) for key in sorted(spellings)], equivalence)
    return _number(keys, answers, root, num_timeouts)


def _classes(members: list[tuple[str, str]], equivalence: Equivalence) -> tuple[dict[str, str], int]:
    """Key -> the smallest key of its class, and the number of timeouts."""
    root = {key: key for key, _ in members}
    num_timeouts = 0
    for compare in (equivalence.decide, equivalence.check):
        heads = [(key, text) for key, text in members if root[key] == key]
        pairs = [(a, b) for i, a in enumerate(heads) for b in heads[i + 1 :]]
        verdicts = compare([(a[1], b[1]) for a, b in pairs])
        for (a, b), verdict in zip(pairs, verdicts, strict=True):
            if verdict is None:
                continue
            num_timeouts += verdict.status == "timeout"
            if verdict.equal:
                _join(root, a[0], b[0])
    return root, num_timeouts


def _join(root: dict[str, str], a: str, b: str) -> None:
    kept, lost = sorted((root[a], root[b]))
    if kept != lost:
        for key, head in root.items():
            if head == lost:
                root[key] = kept


def _number(
    keys: list[list[str]], answers: Sequence[Sequence[str | None]], root: dict[str, str], num_timeouts: int
) -> Clustering:
    """Number the classes by first appearance and fill the table."""
    appearances = sorted(
        (n, key, answer)
        for key_row, row in zip(keys, answers, strict=True)
        for n, (key, answer) in enumerate(zip(key_row, row, strict=True))
        if key and answer is not None
    )
    number: dict[str, int] = {}
    representatives: list[str] = []
    for _, key, answer in appearances:
        if root[key] not in number:
            number[root[key]] = len(number)
            representatives.append(answer)
    ids = np.full((len(keys), max((len(row) for row in keys), default=0)), -1, dtype=np.int64)
    for v, row in enumerate(keys):
        for n, key in enumerate(row):
            if key:
                ids[v, n] = number[root[key]]
    return Clustering(ids, tuple(representatives), num_timeouts)
