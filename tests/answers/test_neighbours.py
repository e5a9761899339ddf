"""neighbours: every pair that exact reading calls equal is found, and few others."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harmonyray.answers.cluster import cluster_answers
from harmonyray.answers.compare import decide, kind
from harmonyray.answers.equivalence import Equivalence
from harmonyray.answers.neighbours import neighbours
from harmonyray.answers.normalize import canonical

NUMBERS = st.sampled_from(["1/3", "0.3333", "0.33333", "33.33%", "50%", "0.5", "1/2", "50", "0.005", "-1/3", "-0.3333", "2/3",
                           "0.6667",
                           "5", "5.0", "5 m", "5 cm", "5m", "5 km", "x=5", "y=5", "5 apples", "5 pears", "33.3333%",
                           "33.3333", "100/3", "0.3333%", "1/300", "0.0000", "1/30000", "5 %", "0.05"])  # fmt: skip
ITEMS = st.sampled_from(["1/3", "0.3333", "0.33333", "1", "2", "2.0", r"\infty", r"-\infty", "-1", "2/3", "0.6667"])
COLLECTIONS = st.builds(
    lambda shape, items: shape[0] + ", ".join(items) + shape[1],
    st.sampled_from([("(", ")"), ("[", ")"), (r"\{", r"\}"), ("", "")]),
    st.lists(ITEMS, min_size=2, max_size=3),
)
OTHERS = st.sampled_from(["yes", "Yes", "no", "x+1", "A", "(A)", "0/0", "1:2", "10,12", "10.12", "___", "xy"])


@settings(max_examples=300)
@given(st.lists(NUMBERS | COLLECTIONS | OTHERS, max_size=14, unique=True))
def test_no_equal_pair_is_missed_and_kinds_tell_the_truth(texts: list[str]) -> None:
    answers = [canonical(text) for text in texts]
    found = set(neighbours(answers))
    assert all(0 <= i < j < len(answers) for i, j in found)
    for i, j in combinations(range(len(answers)), 2):
        verdict = decide(answers[i], answers[j])
        if verdict:
            assert (i, j) in found, (texts[i], texts[j])
        kinds = {kind(answers[i]), kind(answers[j])}
        if "open" not in kinds and kinds != {"ordered", "set"}:
            assert verdict is not None, (texts[i], texts[j])


@pytest.mark.parametrize(
    "spelled",
    [
        str,
        lambda n: f"0.{n:05d}",
        lambda n: f"{n}%",
        lambda n: f"({n}, {n + 1})",
        lambda n: f"{n}, {-n - 1}",
        lambda n: "wordy" + "ab" * n,
    ],
    ids=["integers", "decimals", "percentages", "tuples", "sets", "words"],
)
def test_a_row_of_distinct_answers_takes_linear_time_and_memory(spelled: Callable[[int], str]) -> None:
    num = 3000 if spelled is not None and len(spelled(2)) < 9 else 400
    with Equivalence() as fresh:
        start = time.thread_time()
        found = cluster_answers([[spelled(n) for n in range(1, num)]], fresh)
        assert time.thread_time() - start < 5.0  # comparing all pairs takes a minute
        assert fresh._worker.pid is None
    assert len(found.representatives) == num - 1
    tracemalloc.start()
    with Equivalence() as fresh:
        cluster_answers([[spelled(n) for n in range(1, num)]], fresh)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6
