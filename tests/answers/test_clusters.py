"""cluster_answers: numbering, representatives, transitivity, independence of the order of views and of hash seeds."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harmonyray.answers.charges import Charges
from harmonyray.answers.cluster import cluster_answers
from harmonyray.answers.equivalence import Equivalence, Verdict


def test_two_views_by_hand(equivalence: Equivalence) -> None:
    ids, representatives, num_timeouts = cluster_answers(
        [["7", "1/2", None, "0.5"], ["\\frac{2}{4}", "x+1", "1+x", "8"]], equivalence
    )
    # n = 0: "1/2" < "7" as keys, so the one half comes first although it is in the second view
    assert ids.tolist() == [[1, 0, -1, 0], [0, 2, 2, 3]]
    assert representatives == ("\\frac{2}{4}", "7", "x+1", "8")
    assert ids.dtype == np.int64
    assert num_timeouts == 0


@pytest.mark.parametrize(
    ("answers", "ids", "representatives"),
    [
        ([], [], ()),
        ([[]], [[]], ()),
        ([[None, None], [None]], [[-1, -1], [-1, -1]], ()),
        ([["", " "]], [[-1, -1]], ()),
        ([["4"]], [[0]], ("4",)),
        ([["4", "4.0", "8/2"]], [[0, 0, 0]], ("4",)),
        ([["1"], ["2", "1", "3"]], [[0, -1, -1], [1, 0, 2]], ("1", "2", "3")),
        ([["B", "(B)", "b", "A"]], [[0, 0, 1, 2]], ("B", "b", "A")),
    ],
)
def test_edges(answers: list[list[str | None]], ids: list[list[int]], representatives: tuple[str, ...]) -> None:
    with Equivalence() as fresh:
        found = cluster_answers(answers, fresh)
        assert fresh._worker.pid is None  # nothing here needs a solver
    assert found.cluster_ids.tolist() == ids
    assert found.cluster_ids.shape == (len(answers), max((len(row) for row in answers), default=0))
    assert found.representatives == representatives


def test_transitive_over_a_bridge() -> None:
    """x = 5 is 5 and y = 5 is 5, but x = 5 is not y = 5: with the bridge one cluster, without it two."""
    with Equivalence() as fresh:
        assert cluster_answers([["x=5", "y=5", "5"]], fresh).cluster_ids.tolist() == [[0, 0, 0]]
        assert cluster_answers([["x=5", "y=5", "6"]], fresh).cluster_ids.tolist() == [[0, 1, 2]]


class Counting(Equivalence):
    """Remembers what reaches the solver stage."""

    asked: list[tuple[str, str]]

    def check(self, pairs: Sequence[tuple[str, str]], charges: Charges | None = None) -> list[Verdict]:
        self.asked = list(pairs)
        return [Verdict(False, "timeout") for _ in pairs]


def test_the_solver_sees_each_class_once_and_timeouts_are_counted() -> None:
    with Counting() as counting:
        found = cluster_answers([["x+1", "$x+1$", "|x|", "x + 1"], ["|x|", "7", "7.0", "14/2"]], counting)
        assert sorted(tuple(sorted(pair)) for pair in counting.asked) == [("7", "x+1"), ("7", "|x|"), ("x+1", "|x|")]
    assert found.num_timeouts == 3
    assert found.cluster_ids.tolist() == [[0, 0, 1, 0], [1, 2, 2, 2]]


POOL = [
    "5",
    "5.0",
    "x=5",
    "y=5",
    "10/2",
    "50%",
    "0.5",
    "1/2",
    "50",
    "x+1",
    "1+x",
    "2x",
    "\\sqrt{2}",
    "A",
    "B",
    "yes",
    "1,2",
    "2,1",
    "1.2",
    "5 m",
    "5 cm",
    "x \\approx 5",
    "xy",
    "yx",
    None,
    "",
]


@settings(max_examples=60)
@given(
    views=st.lists(st.lists(st.sampled_from(POOL), max_size=5), min_size=1, max_size=3),
    data=st.data(),
)
def test_permuting_the_views_permutes_the_rows_and_nothing_else(
    equivalence: Equivalence, views: list[list[str | None]], data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(views))))
    found = cluster_answers(views, equivalence)
    turned = cluster_answers([views[v] for v in order], equivalence)
    assert turned.cluster_ids.tolist() == [found.cluster_ids[v].tolist() for v in order]
    assert turned.representatives == found.representatives


@settings(max_examples=60)
@given(answers=st.lists(st.sampled_from(POOL), max_size=8), data=st.data())
def test_a_partition_that_does_not_depend_on_the_order_of_samples(
    equivalence: Equivalence, answers: list[str | None], data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(answers))))
    ids = cluster_answers([answers], equivalence).cluster_ids[0]
    turned = cluster_answers([[answers[n] for n in order]], equivalence).cluster_ids[0]
    for i, n in enumerate(order):
        for j, m in enumerate(order):
            assert (turned[i] == turned[j]) == (ids[n] == ids[m])
    # first appearances are numbered 0, 1, 2, ... and equal answers are never apart
    seen = list(dict.fromkeys(int(c) for c in ids if c >= 0))
    assert seen == sorted(seen) == list(range(len(seen)))
    for n, a in enumerate(answers):
        for m, b in enumerate(answers):
            if a and b and equivalence.equal(a, b):
                assert ids[n] == ids[m]
        assert (ids[n] == -1) == (not a)


def test_the_same_under_every_hash_seed() -> None:
    code = (
        "from harmonyray.answers.cluster import cluster_answers\n"
        "from harmonyray.answers.equivalence import Equivalence\n"
        "solved = ['a+b', 'b+a', '|x-1|', '|1-x|', '2x=4', 'x>1', '1<x', '\\\\{1,x\\\\}', '\\\\{x,1\\\\}']\n"
        "with Equivalence(limit_s=20) as e:\n"
        "    print(cluster_answers([['x=5', 'yes', '50%', '1/2', *solved], ['y=5', '0.5', '5', 'B', *solved[::-1]]], e))\n"
        "    assert e.statistics.num_solved > 10, e.statistics\n"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("0", "1", "2", "3")
    ]
    assert outputs[0] and outputs == [outputs[0]] * 4
