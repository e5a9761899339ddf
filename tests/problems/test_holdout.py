"""The held-out split: a function of seed and ids, never empty on either side."""

from __future__ import annotations

import pytest

from harmonyray.errors import ProblemError
from harmonyray.problems.holdout import split_holdout
from harmonyray.types import Problem

PROBLEMS = [Problem(f"p{i}", f"{i}?") for i in range(10)]


def ids(problems: list[Problem]) -> list[str]:
    return [p.id for p in problems]


@pytest.mark.parametrize(("share", "num"), [(0.05, 1), (0.1, 1), (0.2, 2), (0.25, 3), (0.5, 5), (0.94, 9)])
def test_sizes_and_order(share: float, num: int) -> None:
    adapt, held_out = split_holdout(PROBLEMS, share, seed=0)
    assert len(held_out) == num
    assert sorted(ids(adapt + held_out)) == ids(PROBLEMS)
    assert (ids(adapt), ids(held_out)) == (sorted(ids(adapt)), sorted(ids(held_out)))


def test_it_is_the_same_everywhere_and_another_for_another_seed() -> None:
    assert ids(split_holdout(PROBLEMS, 0.3, seed=0)[1]) == ["p3", "p6", "p7"]
    drawn = {tuple(ids(split_holdout(PROBLEMS, 0.3, seed)[1])) for seed in range(20)}
    assert len(drawn) > 10


def test_the_order_of_the_file_does_not_matter_and_a_larger_share_adds() -> None:
    before: set[str] = set()
    for share in (0.1, 0.3, 0.6, 0.9):
        held_out = split_holdout(PROBLEMS, share, seed=3)[1]
        assert ids(split_holdout(PROBLEMS[::-1], share, seed=3)[1]) == ids(held_out)[::-1]
        assert before < set(ids(held_out))
        before = set(ids(held_out))


@pytest.mark.parametrize(
    ("num", "share", "part"),
    [
        (10, 0.0, "would hold out none"),
        (10, 0.04, "would hold out none"),
        (10, 0.95, "would leave none to adapt to"),
        (1, 0.5, "two problems are the fewest"),
        (0, 0.5, "would hold out none"),
    ],
)
def test_an_empty_part_is_refused(num: int, share: float, part: str) -> None:
    with pytest.raises(ProblemError, match=part):
        split_holdout(PROBLEMS[:num], share, seed=0)
