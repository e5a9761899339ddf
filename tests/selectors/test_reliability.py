"""Reliability weights by hand, on planted views, through the wrappers, and kept in a checkpoint."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from harmonyray import registry
from harmonyray.errors import ConfigError
from harmonyray.selectors import select, select_many
from harmonyray.selectors.applying import fit_and_select, restore, state_of
from harmonyray.selectors.nested import SelectorSpec
from harmonyray.selectors.reliability import BOUND, Reliability, estimate_accuracies, posterior


def reliability(**options: Any) -> Reliability:
    return Reliability(Reliability.Options(**options))


def planted(accuracies: list[float], num_problems: int = 300, num_answers: int = 6, n: int = 5) -> tuple[list[Any], Any]:
    """Votes of views that are right (answer 0) with the given probabilities, else uniformly wrong; clusters as sampled."""
    rng = np.random.default_rng(0)
    counts = []
    for _ in range(num_problems):
        table = np.zeros((num_answers, len(accuracies)), dtype=np.int64)
        for v, a in enumerate(accuracies):
            for answer in np.where(rng.random(n) < a, 0, rng.integers(1, num_answers, size=n)):
                table[answer, v] += 1
        counts.append(table)
    return counts, np.full((num_problems, len(accuracies)), n)


def test_posterior_by_hand() -> None:
    # Two clusters, a = 0.8 and 0.6, one vote each way: 0.8 * 0.4 / 2 against 0.6 * 0.2 / 2.
    got = posterior(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0.8, 0.6]))
    assert got.tolist() == pytest.approx([0.16 / (0.16 + 0.06), 0.06 / (0.16 + 0.06)])
    assert posterior(np.array([[3.0, 1.0]]), np.array([0.8, 0.6])).tolist() == [1.0]


def test_one_step_by_hand() -> None:
    # a = 0.7, two clusters: a vote's odds are 0.7 / 0.15. View 0 has two votes for cluster 0, view 1 one for each.
    odds = (0.7 / 0.15) ** 2
    q = odds / (1 + odds)
    got = estimate_accuracies([np.array([[[2, 1], [0, 1]]])], 2, num_steps=1, start=0.7)
    assert got.tolist() == pytest.approx([q, 0.5])
    # Two problems with one cluster each are certain of it, however little it says.
    sure = estimate_accuracies([np.array([[[2, 1]], [[1, 1]]])], 2, num_steps=1, start=0.7)
    assert sure.tolist() == [1 - BOUND, 1 - BOUND]


def test_accuracies_of_planted_views_are_found() -> None:
    counts, num_samples = planted([0.8, 0.5, 0.3])
    selector = reliability()
    selector.fit(counts, num_samples)
    assert selector.accuracies is not None
    assert selector.accuracies.tolist() == pytest.approx([0.8, 0.5, 0.3], abs=0.05)


def test_a_bad_view_loses_weight() -> None:
    counts, num_samples = planted([0.7, 0.25, 0.25, 0.25], n=3)
    right = {
        name: np.mean([c.label[0] == 0 for c in select_many(name, counts, num_samples)])
        for name in ("majority", "harmonic", "reliability")
    }
    assert right["reliability"] > right["majority"] + 0.03
    assert right["reliability"] > right["harmonic"] + 0.03


def test_unfitted_it_is_the_pooled_majority() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        counts = rng.integers(0, 4, size=(4, 3))
        assert select("reliability", counts, [20] * 3).label == select("majority", counts, [20] * 3).label


def test_views_without_answers_keep_the_start() -> None:
    assert estimate_accuracies([], 2, 30, 0.7).tolist() == [0.7, 0.7]
    assert estimate_accuracies([np.zeros((4, 0, 2), dtype=np.int64)], 2, 30, 0.6).tolist() == [0.6, 0.6]
    assert estimate_accuracies([np.array([[[2, 0], [1, 0]]])], 2, 30, 0.7)[1] == 0.7


def test_ties_go_to_the_first() -> None:
    got = select_many("reliability", [[[1, 1], [1, 1]]] * 4, [[2, 2]] * 4)
    assert {(c.label, c.tie, c.margin) for c in got} == {((0, 0), True, 0.0)}
    assert got[0].scores.tolist() == [0.5, 0.5]


def test_min_score_is_a_probability() -> None:
    counts, num_samples = [[[2, 1], [1, 2]], [[3, 3], [0, 0]]], [[3, 3], [3, 3]]
    assert [c.label[0] for c in select_many("reliability", counts, num_samples, min_score=0.9)] == [None, 0]


def test_the_window_holds_the_last_steps() -> None:
    good, bad = planted([0.9, 0.3]), planted([0.3, 0.9])
    selector, both = reliability(window=2), reliability()
    for step, (counts, num_samples) in enumerate([planted([0.5, 0.5]), good, bad]):
        selector.fit(counts, num_samples, step=step)
    both.fit([*good[0], *bad[0]], np.concatenate([good[1], bad[1]]))
    assert selector.accuracies is not None
    assert both.accuracies is not None
    assert selector.accuracies == pytest.approx(both.accuracies)
    single = reliability()
    single.fit(*good)
    single.fit(*bad)
    assert single.accuracies is not None
    assert single.accuracies.tolist() == pytest.approx([0.3, 0.9], abs=0.05)


@pytest.mark.parametrize(
    "spec",
    [
        {"type": "reliability", "window": 3},
        {"type": "schedule", "first": "harmonic", "num_steps": 1, "then": {"type": "reliability", "window": 3}},
        {"type": "mixed", "of": ["harmonic", {"type": "reliability", "window": 3}], "probs": [0.2, 0.8]},
        {"type": "bootstrap", "of": {"type": "reliability", "window": 3}, "num_resamples": 4},
        "harmonic",
    ],
)
def test_state_travels_through_a_checkpoint(spec: Any) -> None:
    steps = [planted([0.9, 0.3], 20), planted([0.3, 0.9], 20), ([np.zeros((0, 2), dtype=np.int64)], np.array([[1, 1]]))]
    unbroken, resumed = SelectorSpec.model_validate(spec).build(), SelectorSpec.model_validate(spec).build()
    for step, (counts, num_samples) in enumerate(steps):
        fit_and_select(unbroken, counts, num_samples, step=step)
    restore(resumed, json.loads(json.dumps(state_of(unbroken))))
    counts, num_samples = planted([0.6, 0.6], 20)
    keys = [str(i) for i in range(len(counts))]
    want = fit_and_select(unbroken, counts, num_samples, step=3, keys=keys)
    got = fit_and_select(resumed, counts, num_samples, step=3, keys=keys)
    assert [g.scores.tolist() for g in got] == [w.scores.tolist() for w in want]
    assert [g.label for g in got] == [w.label for w in want]


def test_wrong_use_is_refused() -> None:
    selector = reliability(window=2)
    selector.fit([[[1, 1]]], [[1, 1]])
    with pytest.raises(ConfigError, match="fitted on 2 views, got 3"):
        selector.select([[1, 1, 1]], [1, 1, 1])
    with pytest.raises(ConfigError, match="fitted on 2 views, got 3"):
        selector.fit([[[1, 1, 1]]], [[1, 1, 1]])
    with pytest.raises(ConfigError, match="Harmonic has no state"):
        restore(SelectorSpec(type="harmonic").build(), {"accuracies": []})
    for bad in ({"start": 1.0}, {"start": 0.0}, {"num_steps": 0}, {"window": 0}):
        with pytest.raises(ConfigError):
            registry.make_options("selectors", "reliability", "", bad)


def test_odds_add_up_in_the_scores() -> None:
    selector = reliability(num_steps=1)
    selector.accuracies = np.array([0.9, 0.6])
    scores = selector.select([[1, 0], [0, 2]], [2, 2]).scores
    assert math.log(scores[0] / scores[1]) == pytest.approx(math.log(0.9 / 0.05) - 2 * math.log(0.6 / 0.2))
