"""Rows dealt to ranks: balanced in tokens, a problem's rows together, the same every time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmonyray.learners.micro_batches import shares


def dealt(lengths: list[int], num_ranks: int, groups: list[int]) -> list[list[int]]:
    return [rows.tolist() for rows in shares(np.array(lengths, dtype=np.int64), num_ranks, np.array(groups, dtype=np.int64))]


def test_shares_by_hand() -> None:
    # Tokens of the groups 7, 3, 5, 9 (in this order): 4 + 4 = 8, 6, 3, 2 + 5 = 7. So 8 | 7, then 6 to the second, 3 to the first.
    assert dealt([4, 4, 6, 3, 2, 5], 2, [7, 7, 3, 5, 9, 9]) == [[0, 1, 3], [2, 4, 5]]


def test_ties_go_to_the_first_group_and_the_lowest_rank() -> None:
    assert dealt([2, 2, 2, 2], 2, [9, 4, 1, 0]) == [[0, 2], [1, 3]]


def test_rows_of_a_group_need_not_be_neighbours() -> None:
    assert dealt([1, 5, 1, 5], 2, [0, 1, 0, 1]) == [[1, 3], [0, 2]]


def test_ranks_without_a_group_get_no_rows() -> None:
    assert dealt([3, 3, 1], 4, [0, 0, 1]) == [[0, 1], [2], [], []]
    assert dealt([], 2, []) == [[], []]


def test_no_ranks_are_refused() -> None:
    with pytest.raises(ValueError, match="dealt to 0 ranks"):
        dealt([1], 0, [0])


ROWS = st.lists(st.tuples(st.integers(1, 200), st.integers(0, 9)), min_size=1, max_size=60)


@given(ROWS, st.integers(1, 6))
def test_balanced_whole_and_complete(rows: list[tuple[int, int]], num_ranks: int) -> None:
    lengths, groups = np.array(rows).T
    parts = shares(lengths, num_ranks, groups)
    assert len(parts) == num_ranks
    assert sorted(int(i) for part in parts for i in part) == list(range(len(rows)))
    for g in set(groups.tolist()):
        assert sum(bool((groups[part] == g).any()) for part in parts) == 1
    loads = [int(lengths[part].sum()) for part in parts]
    assert max(loads) - min(loads) <= np.bincount(groups, weights=lengths).max()
    again = shares(lengths, num_ranks, groups)
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))
