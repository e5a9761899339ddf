"""`select_many` gives what `select` gives one by one, to the last bit, for every selector."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harmonyray import registry
from harmonyray.errors import ConfigError
from harmonyray.selectors import Selector, SelectorOptions, select, select_many
from harmonyray.selectors.applying import fit, fit_and_select, select_all
from harmonyray.types import Consensus, FloatArray

NAMES = sorted(registry.BUILT_IN["selectors"])
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "bootstrap": [{"of": "harmonic", "num_resamples": 5}, {"of": {"type": "cross"}, "num_resamples": 3, "size": 4}],
    "schedule": [{"first": "majority", "num_steps": 3, "then": "reliability"}],
    "mixed": [{"of": ["harmonic", "self", "reliability"], "probs": [1, 1, 1]}],
    "power_mean": [{"lam": lam} for lam in (-1.0, 0.5, 1.0, 3.0)],
    "reliability": [{"num_steps": 3}, {"smoothing": 1.0}],
    "infomax": [{"smoothing": 0.5, "min_margin": 0.05}, {"lam": 0.7}],
    "harmonic": [{}, {"smoothing": 1.0}, {"min_score": 0.2}],
}


class OneByOne(Selector):
    """A selector of somebody's own that knows nothing of a leading axis."""

    Options = SelectorOptions

    def scores(self, support: FloatArray, counts: FloatArray, num_samples: FloatArray) -> FloatArray:
        assert support.ndim == 2
        assert num_samples.ndim == 1
        return support.max(axis=1)


class Plain:
    """A selector of somebody's own with `select` alone."""

    def select(self, counts: Any, num_samples: Any, *, step: int = 0, key: str = "") -> Consensus:
        return select("majority", counts, num_samples)


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[np.ndarray], np.ndarray]:
    """Up to 12 problems of one number of views, with 0 to 9 clusters, some empty views and some unseen clusters."""
    num_views = draw(st.integers(1, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sizes = draw(st.lists(st.integers(0, 9), min_size=1, max_size=12))
    counts = [rng.integers(0, 4, size=(size, num_views)) * rng.integers(0, 2, size=(1, num_views)) for size in sizes]
    spare = rng.integers(0, 3, size=(len(sizes), num_views))
    return counts, np.array([c.sum(axis=0) for c in counts]).reshape(len(sizes), num_views) + spare


def same(got: Consensus, want: Consensus) -> bool:
    equal = (got.label, got.margin, got.tie) == (want.label, want.margin, want.tie)
    arrays = [(got.scores, want.scores), (got.support, want.support)]
    return equal and all(g.shape == w.shape and g.tobytes() == w.tobytes() for g, w in arrays)


CASES = [(name, options) for name in NAMES for options in OPTIONS.get(name, [{}])]


@pytest.mark.parametrize(("name", "options"), CASES, ids=[f"{n}-{i}" for i, (n, _) in enumerate(CASES)])
@settings(max_examples=40)
@given(problems(), st.integers(0, 5))
def test_many_is_one_by_one(name: str, options: dict[str, Any], given_problems: Any, step: int) -> None:
    counts, num_samples = given_problems
    keys = [f"p{i}" for i in range(len(counts))]
    selector = registry.resolve("selectors", name)(registry.make_options("selectors", name, "", options))
    fit(selector, counts, num_samples, step=step)
    singly = [selector.select(c, n, step=step, key=k) for c, n, k in zip(counts, num_samples, keys, strict=True)]
    for got, want in zip(select_many(name, counts, num_samples, keys=keys, step=step, **options), singly, strict=True):
        assert same(got, want)


@settings(max_examples=25)
@given(problems(), st.randoms(use_true_random=False))
def test_the_order_of_the_problems_does_not_matter(given_problems: Any, random: Any) -> None:
    counts, num_samples = given_problems
    order = list(range(len(counts)))
    random.shuffle(order)
    straight = select_many("harmonic", counts, num_samples)
    shuffled = select_many("harmonic", [counts[i] for i in order], num_samples[order])
    assert all(same(shuffled[place], straight[i]) for place, i in enumerate(order))


def test_lists_and_no_problems() -> None:
    labels = [c.label for c in select_many("harmonic", [[[3, 1], [1, 2]], [], [[1, 1]]], [[4, 4], [4, 4], [4, 4]])]
    assert labels == [(0, 0), (None, None), (0, 0)]
    assert select_many("harmonic", [], []) == []
    assert select_many("mixed", [], [], of=["harmonic"], probs=[1]) == []
    assert select_many("reliability", [], []) == []


def test_labels_are_plain_integers() -> None:
    (got,) = select_many("harmonic", [[[3, 1], [1, 2]]], [[4, 4]])
    assert [type(label) for label in got.label] == [int, int]
    assert (type(got.margin), type(got.tie)) == (float, bool)


def test_selectors_of_ones_own() -> None:
    counts, num_samples = [[[3, 1], [1, 2]], [[1, 1]]], [[4, 4], [4, 4]]
    for selector in (OneByOne(SelectorOptions()), Plain()):
        got = fit_and_select(selector, counts, num_samples)
        assert [c.label for c in got] == [(0, 0), (0, 0)]
    assert select_all(OneByOne(SelectorOptions()), counts, num_samples)[1].scores.tolist() == [0.25]


@pytest.mark.parametrize(
    ("counts", "num_samples", "message"),
    [
        ([[[1, 1]], [[5, 1]]], [[4, 4], [4, 4]], "problem 1: counts add up to"),
        ([[[1, 1]], [[-1, 1]]], [[4, 4], [4, 4]], "problem 1: counts must not be negative"),
        ([[[1, 1]], [["1", 1]]], [[4, 4], [4, 4]], "problem 1: counts must hold integers"),
        ([np.array([[-1, 1]])], [[4, 4]], "problem 0: counts must not be negative"),
        ([np.array([[0.5, 1]])], [[4, 4]], "problem 0: counts must hold integers"),
        ([[[1, 1, 1]]], [[4, 4]], "problem 0: counts must have shape"),
        ([[[1, 1]]], [4, 4], r"num_samples must have shape \[1 problems, views\]"),
        ([[[1, 1]]], [[4, 4], [4, 4]], r"num_samples must have shape \[1 problems, views\]"),
    ],
)
def test_arrays_that_do_not_fit_name_the_problem(counts: Any, num_samples: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        select_many("harmonic", counts, num_samples)


def test_keys_are_one_per_problem() -> None:
    with pytest.raises(ConfigError, match="keys must name each of the 1 problems, got 2"):
        select_many("harmonic", [[[1, 1]]], [[4, 4]], keys=["a", "b"])
