"""Answers of one problem to clusters: the equality of pairs made an equivalence relation, the same for any order of views.

Only this turns a (not always transitive) comparison into classes; it never iterates a set.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np

from harmonyray.answers.compare import kind
from harmonyray.answers.equivalence import Equivalence
from harmonyray.answers.neighbours import neighbours
from harmonyray.answers.normalize import canonical_key
from harmonyray.answers.reading import Reading, read
from harmonyray.types import IntArray

_CHUNK = 4096  # pairs held at a time


class Clustering(NamedTuple):
    """`cluster_ids` int[V, N] (-1: no answer, or past the view's samples), `representatives` [C], and the number of
    comparisons that were given up (their answers stay apart)."""

    cluster_ids: IntArray
    representatives: tuple[str, ...]
    num_timeouts: int


def cluster_answers(answers: Sequence[Sequence[str | None]], equivalence: Equivalence) -> Clustering:
    """Cluster `answers[v][n]`, the views of one problem (V x N, views may differ in length).

    Equal canonical keys are one class. Classes, each by its shortest text, are first joined where exact reading says so,
    transitively: `5 m` and `5 cm` meet when somebody also answered `5`, and `0.5` and `50` when somebody answered `50%`.
    Only the heads of these classes (the smallest key of each) are then compared by the solver, and joined transitively as
    well: an equality that only the solver would see between two other members does not join their classes. A text has the
    solver for `limit_s` per problem, as described at `Equivalence.check`.

    Clusters are numbered by the lowest sample index n at which they appear in any view, ties by canonical key; a
    representative is the text of that first member. The order of the views changes only the rows of `cluster_ids`.
    Raises GraderError if the solver is lost.
    """
    keys = [[canonical_key(answer) if answer is not None else "" for answer in row] for row in answers]
    spellings: dict[str, str] = {}
    for key_row, row in zip(keys, answers, strict=True):
        for key, answer in zip(key_row, row, strict=True):
            if key and answer is not None:
                spellings[key] = min(spellings.get(key, answer), answer, key=lambda text: (len(text), text))
    root, num_timeouts = _classes([(key, spellings[key]) for key in sorted(spellings)], equivalence)
    return _number(keys, answers, root, num_timeouts)


class _Classes:
    """Union-find over 0..n-1; the head of a class is its smallest member."""

    def __init__(self, n: int) -> None:
        self._parent = list(range(n))

    def head(self, i: int) -> int:
        while self._parent[i] != i:
            self._parent[i] = i = self._parent[self._parent[i]]
        return i

    def join(self, i: int, j: int) -> None:
        kept, lost = sorted((self.head(i), self.head(j)))
        self._parent[lost] = kept


def _classes(members: list[tuple[str, str]], equivalence: Equivalence) -> tuple[dict[str, str], int]:
    """Key -> the smallest key of its class, and the number of timeouts. `members`: (key, text), sorted."""
    readings = [read(text) for _, text in members]
    classes = _Classes(len(members))
    for chunk in _chunks(neighbours([reading.answer for reading in readings])):
        verdicts = equivalence.decide([(members[i][1], members[j][1]) for i, j in chunk])
        for (i, j), verdict in zip(chunk, verdicts, strict=True):
            if verdict is not None and verdict.equal:
                classes.join(i, j)
    num_timeouts = 0
    charges = equivalence.charges()
    for chunk in _chunks(_open_pairs(readings, classes)):
        for (i, j), checked in zip(
            chunk, equivalence.check([(members[i][1], members[j][1]) for i, j in chunk], charges), strict=True
        ):
            num_timeouts += checked.status == "timeout"
            if checked.equal:
                classes.join(i, j)
    return {key: members[classes.head(i)][0] for i, (key, _) in enumerate(members)}, num_timeouts


def _chunks(pairs: Iterator[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    while chunk := list(islice(pairs, _CHUNK)):
        yield chunk


def _open_pairs(readings: Sequence[Reading], classes: _Classes) -> Iterator[tuple[int, int]]:
    """Pairs of heads that exact reading has not settled by what they are (see `compare.kind`)."""
    heads: dict[str, list[int]] = {"plain": [], "ordered": [], "set": [], "open": []}
    for i in range(len(readings)):
        if classes.head(i) == i:
            heads["open" if readings[i].mode == "prose" else kind(readings[i].answer)].append(i)
    against = {"plain": ("open",), "ordered": ("set", "open"), "set": ("ordered", "open"), "open": tuple(heads)}
    for own, others in against.items():
        for i in heads[own]:
            for other in others:
                for at in range(bisect_right(heads[other], i), len(heads[other])):
                    j = heads[other][at]
                    if classes.head(i) != classes.head(j):
                        yield i, j


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
