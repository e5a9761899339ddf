"""Rewards by hand; tests/golden holds them against the published implementation's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmonyray.algos.rewards import (
    answer_match,
    cross_view_js,
    diversity_penalty,
    gate,
    js_divergence,
    score_reward,
    sharpness_penalty,
    soft_rank,
    subtract,
    with_no_answer,
)

IDS = np.array([0, 1, -1, 0, 2])


def test_answer_match() -> None:
    assert answer_match(IDS, 0).tolist() == [1, 0, 0, 1, 0]
    assert answer_match(IDS, 3).tolist() == [0, 0, 0, 0, 0]
    assert answer_match(IDS, None).tolist() == [0, 0, 0, 0, 0]
    assert answer_match(np.array([], dtype=np.int64), 0).shape == (0,)
    # "No answer" is not a label.
    with pytest.raises(AssertionError):
        answer_match(IDS, -1)


def test_js_divergence_by_hand() -> None:
    one, other = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    assert js_divergence(one, other) == pytest.approx(math.log(2))
    assert js_divergence(one, one) == 0.0
    # (1, 0) and (1/2, 1/2): mixture (3/4, 1/4); (ln 4/3 + (ln 2/3 + ln 2)/2) / 2.
    want = (math.log(4 / 3) + 0.5 * (math.log(2 / 3) + math.log(2))) / 2
    assert js_divergence(one, np.array([0.5, 0.5])) == pytest.approx(want)


def test_no_answer_is_a_bucket() -> None:
    assert with_no_answer(np.array([[0.5, 1.0], [0.25, 0.0]])).tolist() == [[0.5, 1.0], [0.25, 0.0], [0.25, 0.0]]
    # One view always answers, the other never: as far apart as can be.
    assert js_divergence(np.array([1.0]), np.array([0.0])) == pytest.approx(math.log(2))
    assert js_divergence(np.array([0.5]), np.array([0.5])) == 0.0
    assert js_divergence(np.zeros(0), np.zeros(0)) == 0.0


def test_js_of_one_and_of_three_views() -> None:
    assert cross_view_js(np.array([[0.5], [0.25]])) == 0.0
    assert cross_view_js(np.eye(3)) == pytest.approx(math.log(3))
    # Two views agree, one differs: ln 3 - (2/3) ln 2.
    assert cross_view_js(np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])) == pytest.approx(math.log(3) - 2 / 3 * math.log(2))


def test_diversity_penalty() -> None:
    assert diversity_penalty(np.array([0.5, 0.5]), np.array([0.5, 0.5])) == 1.0
    assert diversity_penalty(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == pytest.approx(0.0)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=6), st.integers(1, 5))
def test_js_is_symmetric_and_bounded(counts: list[tuple[int, int]], spare: int) -> None:
    p = np.array(counts) / (np.array(counts).sum(axis=0) + spare)
    js = js_divergence(p[:, 0], p[:, 1])
    assert 0.0 <= js <= math.log(2)
    assert js == pytest.approx(js_divergence(p[:, 1], p[:, 0]), abs=1e-12)
    assert 0.0 <= diversity_penalty(p[:, 0], p[:, 1]) <= 1.0


def test_gate_by_hand() -> None:
    match, missing = np.array([1.0, 1.0, 0.0, 1.0]), np.array([0.0, 1.0, 1.0, 1 / 3])
    assert gate(match, [(0.1, missing), (0.2, 0.5)]).tolist() == pytest.approx([0.9, 0.81, 0.0, 0.9 * (1 - 0.1 / 3)])
    assert gate(match, [(0.0, missing), (0.0, 0.5)]).tolist() == gate(match, []).tolist() == match.tolist()
    # A negative weight rewards agreement; a penalty may differ from sample to sample.
    assert gate(match, [(-0.2, np.array([0, 1, 1, 0.5]))]).tolist() == pytest.approx([1.0, 1.2, 0.0, 1.1])


def test_subtract_by_hand() -> None:
    match, missing = np.array([1.0, 1.0, 0.0]), np.array([0.0, 1.0, 1.0])
    assert subtract(match, [(0.1, missing), (0.2, 0.5)]).tolist() == pytest.approx([0.9, 0.8, -0.2])
    assert subtract(match, [(-0.2, np.array([0.0, 1.0, 0.5]))]).tolist() == pytest.approx([1.0, 1.2, 0.1])


def test_sharpness_by_hand() -> None:
    assert sharpness_penalty(4, 4, 8) == 0.0
    assert sharpness_penalty(1, 4, 8) == 0.5625
    assert sharpness_penalty(8, 4, 8) == 1.0
    assert sharpness_penalty(8, 0, 8) == 1.0
    assert sharpness_penalty(0, 0, 0) == 0.0


def test_score_reward() -> None:
    assert score_reward(IDS, np.array([0.5, -0.25, 0.125])).tolist() == [0.5, 0.0, 0.0, 0.5, 0.125]
    assert score_reward(np.array([-1, -1]), np.zeros(0)).tolist() == [0.0, 0.0]


def test_soft_rank_by_hand() -> None:
    ids = np.array([0, 1, 2, 3, -1])
    assert soft_rank(ids, np.array([0.4, 0.5, 0.1, 0.0])).tolist() == pytest.approx([6 / 7, 1, 5 / 7, 0, 0])
    # Equal scores share the better rank, up to float noise.
    assert soft_rank(ids, np.array([0.1 + 0.2, 0.3, 0.1, 0.0])).tolist() == pytest.approx([1, 1, 5 / 7, 0, 0])
    assert soft_rank(ids, np.array([0.4, 0.5, 0.1, 0.05]), k=2).tolist() == [0, 1, 0, 0, 0]
    # Views that share no answer earn nothing.
    assert soft_rank(ids, np.zeros(4)).tolist() == [0, 0, 0, 0, 0]
    assert soft_rank(np.array([-1]), np.zeros(0)).tolist() == [0]
    nine = np.arange(9, 0, -1) / 10
    assert soft_rank(np.arange(9), nine).tolist() == pytest.approx([1, 6 / 7, 5 / 7, 4 / 7, 3 / 7, 2 / 7, 1 / 7, 0, 0])
