"""Bootstrap, Schedule and Mixed: what they draw, that they are seeded, and that they compose."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from harmonyray.errors import ConfigError
from harmonyray.selectors import select
from harmonyray.selectors.deciding import check_votes
from harmonyray.selectors.modifiers import resample

COUNTS = [[5, 3], [3, 4], [0, 1]]
NUM = [8, 10]


def test_resample_keeps_sizes_and_shares() -> None:
    votes = check_votes([[6, 0], [2, 0]], [10, 0])
    drawn = resample(votes, None, 4000, np.random.default_rng(0))
    assert drawn.shape == (4000, 2, 2)
    assert drawn[:, :, 0].sum(axis=1).max() <= 10
    assert not drawn[:, :, 1].any()
    # 6 and 2 of 10, two samples without an answer; the mean of 4000 draws is within 5 standard errors.
    assert drawn[:, :, 0].mean(axis=0) == pytest.approx([6, 2], abs=5 * np.sqrt(2.5 / 4000))
    small = resample(votes, 3, 50, np.random.default_rng(0))
    assert small[:, :, 0].sum(axis=1).max() <= 3


def test_bootstrap_of_a_certain_answer() -> None:
    got = select("bootstrap", [[4, 4]], [4, 4], of="harmonic", num_resamples=20)
    assert (got.scores.tolist(), got.label, got.margin) == ([1.0], (0, 0), 1.0)


def test_bootstrap_shares_add_up() -> None:
    got = select("bootstrap", COUNTS, NUM, of="majority", num_resamples=200)
    assert got.scores.sum() == pytest.approx(1.0)
    assert got.label == (0, 0)
    assert got.support[0].tolist() == [5 / 8, 3 / 10]
    # A single draw of one sample per view agrees across views by chance only; the rest are abstentions.
    sparse = select("bootstrap", COUNTS, NUM, of="harmonic", num_resamples=200, size=1)
    assert 0 < sparse.scores.sum() < 1
    # P(both draw cluster 0) = 5/8 * 3/10.
    assert sparse.scores[0] == pytest.approx(0.1875, abs=5 * np.sqrt(0.1875 * 0.8125 / 200))
    assert select("bootstrap", COUNTS, NUM, of="harmonic", num_resamples=200, size=1, min_score=0.5).label == (None, None)


def test_bootstrap_of_views_judged_apart() -> None:
    got = select("bootstrap", [[4, 0], [0, 4]], [4, 4], of="self", num_resamples=10)
    assert got.scores.tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert got.label == (0, 1)


def test_bootstrap_is_seeded_by_seed_step_and_key() -> None:
    def draw(seed: int = 0, step: int = 0, key: str = "") -> list[float]:
        return list(select("bootstrap", COUNTS, NUM, of="harmonic", num_resamples=64, seed=seed, step=step, key=key).scores)

    assert draw() == draw()
    assert len({tuple(draw(seed=s)) for s in range(4)}) > 1
    assert len({tuple(draw(step=s)) for s in range(4)}) > 1
    assert len({tuple(draw(key=s)) for s in "abcd"}) > 1


def test_schedule_changes_over() -> None:
    # Harmonic abstains where no answer is shared, majority does not.
    options: dict[str, Any] = {"first": "majority", "num_steps": 2, "then": {"type": "harmonic"}}
    labels = [select("schedule", [[4, 0], [0, 3]], [4, 4], step=step, **options).label for step in range(4)]
    assert labels == [(0, 0), (0, 0), (None, None), (None, None)]
    never = {**options, "num_steps": 0}
    assert select("schedule", [[4, 0], [0, 3]], [4, 4], **never).label == (None, None)


def test_mixed_draws_by_probability() -> None:
    counts, n = [[4, 0], [0, 3]], [4, 4]
    options: dict[str, Any] = {"of": ["majority", "harmonic"], "probs": [3, 1]}
    labels = [select("mixed", counts, n, key=f"problem-{i}", **options).label for i in range(400)]
    assert labels == [select("mixed", counts, n, key=f"problem-{i}", **options).label for i in range(400)]
    share = labels.count((0, 0)) / 400
    assert share == pytest.approx(0.75, abs=5 * np.sqrt(0.75 * 0.25 / 400))
    assert labels.count((None, None)) == 400 - labels.count((0, 0))
    assert select("mixed", counts, n, of=["harmonic", "majority"], probs=[0, 1], key="any").label == (0, 0)
    by_step = [select("mixed", counts, n, step=s, **options).label for s in range(40)]
    assert (0, 0) in by_step
    assert (None, None) in by_step


def test_modifiers_compose() -> None:
    smoothed = {"type": "harmonic", "smoothing": 1}
    bootstrap = {"type": "bootstrap", "of": smoothed, "num_resamples": 20, "min_score": 0.6}
    schedule = {"type": "schedule", "first": "majority", "num_steps": 1, "then": bootstrap}
    mixed: dict[str, Any] = {"of": [schedule, "cross"], "probs": [1, 0]}
    assert select("mixed", [[4, 0], [0, 3]], [4, 4], step=0, **mixed).label == (0, 0)
    got = select("mixed", [[6, 0], [0, 1]], [8, 8], step=1, **mixed)
    assert got.label == (0, 0)
    assert 0.6 <= got.scores[0] <= 1


def test_weights_are_checked_inside_wrappers() -> None:
    with pytest.raises(ConfigError, match="3 entries but there are 2 views"):
        select("bootstrap", COUNTS, NUM, of={"type": "harmonic", "weights": [1, 1, 1]})
