"""What a token of each row counts, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from harmonyray.algos.aggregation import AGGREGATIONS

# Part 0: rows of 3 and 1 tokens. Part 1: rows of 2, 4 and 4. Runs of at most 8 tokens.
NUM_TOKENS, PART = np.array([3, 2, 1, 4, 4]), np.array([0, 1, 0, 1, 1])
BY_HAND = {
    "token-mean": [1 / 4, 1 / 10, 1 / 4, 1 / 10, 1 / 10],
    "seq-mean-token-mean": [1 / 6, 1 / 6, 1 / 2, 1 / 12, 1 / 12],
    "seq-mean-token-sum": [1 / 2, 1 / 3, 1 / 2, 1 / 3, 1 / 3],
    "seq-mean-token-sum-norm": [1 / 16, 1 / 24, 1 / 16, 1 / 24, 1 / 24],
}


def test_all_are_here() -> None:
    assert set(AGGREGATIONS) == set(BY_HAND)


@pytest.mark.parametrize("name", BY_HAND)
def test_by_hand(name: str) -> None:
    assert AGGREGATIONS[name](NUM_TOKENS, PART, 8) == pytest.approx(np.array(BY_HAND[name]))


@pytest.mark.parametrize("name", ["token-mean", "seq-mean-token-mean"])
def test_a_mean_of_ones_is_one_in_every_part(name: str) -> None:
    counts = AGGREGATIONS[name](NUM_TOKENS, PART, 8) * NUM_TOKENS
    assert np.bincount(PART, weights=counts) == pytest.approx([1, 1])


@pytest.mark.parametrize("name", BY_HAND)
def test_a_part_without_rows_is_no_trouble(name: str) -> None:
    """Part 1 of 0, 2: a view whose answers all abstained."""
    got = AGGREGATIONS[name](np.array([2, 4]), np.array([0, 2]), 8)
    assert np.isfinite(got).all()
    assert got[0] * 2 == pytest.approx(AGGREGATIONS[name](np.array([2]), np.array([0]), 8)[0] * 2)
