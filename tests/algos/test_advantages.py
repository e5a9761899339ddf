"""Advantages by hand; the recorded ones are in test_objective_recorded.py, beside their losses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from harmonyray.algos.advantages import DrGrpo, Grpo, Rloo

NAN = float("nan")


def grpo(rewards: list[list[float]], group: str = "view") -> np.ndarray:
    return Grpo(Grpo.Options.model_validate({"group": group})).advantages(np.array(rewards))


def test_each_view_by_hand() -> None:
    # Mean 1/4, unbiased std 1/2; mean 2, std 1 (values 1, 2, 3, with one absent).
    got = grpo([[1, 0, 0, 0], [1, 2, NAN, 3]])
    want = [[1.5, -0.5, -0.5, -0.5], [-1, 0, NAN, 1]]
    assert got == pytest.approx(np.array(want), abs=1e-5, nan_ok=True)
    # The small constant is added to the std, not under a root.
    assert got[0, 0] == pytest.approx(0.75 / (0.5 + 1e-6), rel=1e-12)


def test_all_views_of_a_problem_by_hand() -> None:
    # 1 0 1 0 and .5 0 .5 0: mean 3/8, squares 2 (5/8)^2 + 2 (1/8)^2 + 4 (3/8)^2 = 11/8, unbiased variance 11/56.
    got = grpo([[1, 0, 1, 0], [0.5, 0, 0.5, 0]], "problem")
    std = math.sqrt(11 / 56)
    assert got == pytest.approx(np.array([[5, -3, 5, -3], [1, -3, 1, -3]]) / 8 / std, abs=1e-5)


def test_a_factor_on_a_view_acts_only_across_views() -> None:
    whole: list[list[float]] = [[1, 0, 1, 0], [1, 1, 0, 0]]
    scaled: list[list[float]] = [[1, 0, 1, 0], [0.5, 0.5, 0, 0]]
    assert grpo(scaled) == pytest.approx(grpo(whole), abs=1e-5)
    difference = grpo(scaled, "problem")[1, 0] - grpo(whole, "problem")[1, 0]
    assert difference < -0.5


@pytest.mark.parametrize("group", ["view", "problem"])
def test_equal_rewards_are_no_signal(group: str) -> None:
    for value in (0.0, 1.0, 0.1 + 0.2, 0.891):
        assert grpo([[value] * 16] * 2, group) == pytest.approx(np.zeros((2, 16)), abs=1e-9)


def test_a_group_of_one_keeps_its_reward() -> None:
    # Mean 0, std 1.
    assert grpo([[0.5], [0.0]]) == pytest.approx(np.array([[0.5], [0.0]]), abs=1e-6)
    assert grpo([[NAN, 0.5, NAN], [1, NAN, 0]]) == pytest.approx(
        np.array([[NAN, 0.5, NAN], [math.sqrt(0.5), NAN, -math.sqrt(0.5)]]), abs=1e-5, nan_ok=True
    )


def test_an_untrained_view_stays_nan_and_counts_for_nothing() -> None:
    for group in ("view", "problem"):
        got = grpo([[1, 0, 0, 0], [NAN] * 4], group)
        assert got[0] == pytest.approx([1.5, -0.5, -0.5, -0.5], abs=1e-5)
        assert np.isnan(got[1]).all()
    assert np.isnan(grpo([[NAN, NAN]])).all()


def test_rewards_are_left_alone() -> None:
    rewards = np.array([[1.0, 0.0, NAN]])
    Grpo(Grpo.Options()).advantages(rewards)
    assert rewards[0, :2].tolist() == [1, 0]


def test_only_known_groups() -> None:
    with pytest.raises(ValidationError):
        grpo([[1.0]], "batch")


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=20), st.floats(0.1, 10), st.floats(-5, 5))
def test_shift_and_scale_cancel(rewards: list[float], scale: float, shift: float) -> None:
    values = np.array(rewards)
    if values.std() < 0.1:
        return
    got = grpo([rewards])[0]
    assert got.mean() == pytest.approx(0, abs=1e-9)
    assert got.std(ddof=1) == pytest.approx(1, abs=1e-4)
    assert grpo([(scale * values + shift).tolist()])[0] == pytest.approx(got, abs=1e-3)


def test_dr_grpo_by_hand() -> None:
    advantage = DrGrpo(DrGrpo.Options())
    got = advantage.advantages(np.array([[1, 0, 0, 0], [1, 2, NAN, 3]]))
    assert got == pytest.approx(np.array([[0.75, -0.25, -0.25, -0.25], [-1, 0, NAN, 1]]), nan_ok=True)


def test_rloo_by_hand() -> None:
    # 1 against 0 0 0, 0 against 1 0 0; 1 against 2 and 3, 2 against 1 and 3.
    advantage = Rloo(Rloo.Options())
    got = advantage.advantages(np.array([[1, 0, 0, 0], [1, 2, NAN, 3]]))
    assert got == pytest.approx(np.array([[1, -1 / 3, -1 / 3, -1 / 3], [-1.5, 0, NAN, 1.5]]), nan_ok=True)


@pytest.mark.parametrize(("advantage", "factor"), [(DrGrpo, 1), (Rloo, 4 / 3)])
def test_the_others_over_all_views_of_a_problem(advantage: Any, factor: float) -> None:
    """Rewards 1 0, 1 and 0, of which two views have one sample: together their mean is 1/2."""
    got = advantage(advantage.Options(group="problem")).advantages(np.array([[1, 0], [1, NAN], [0, NAN]]))
    assert got == pytest.approx(factor * np.array([[0.5, -0.5], [0.5, NAN], [-0.5, NAN]]), nan_ok=True)


@pytest.mark.parametrize("advantage", [DrGrpo, Rloo])
def test_the_others_keep_a_reward_that_is_alone_and_give_none_for_equal_ones(advantage: Any) -> None:
    rewards = np.array([[0.5, NAN], [0.25, 0.25], [NAN, NAN]])
    got = advantage(advantage.Options()).advantages(rewards)
    assert got == pytest.approx(np.array([[0.5, NAN], [0, 0], [NAN, NAN]]), nan_ok=True)
    assert got is not rewards
