"""Every selector's score against numbers worked out by hand, and the identities between selectors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmonyray.selectors import select
from harmonyray.selectors.infomax import infomax_score
from harmonyray.selectors.means import Arithmetic, arithmetic_mean, geometric_mean, harmonic_mean, power_mean
from harmonyray.types import FloatArray, IntArray

MEANS = ("arithmetic", "geometric", "harmonic", "power_mean")
WEIGHTED = (*MEANS, "infomax", "consistency", "mean_variance", "infomax_exact")
UNIFORM = np.array([0.5, 0.5])


def scores(name: str, counts: list[list[int]], num_samples: list[int], **options: Any) -> list[float]:
    return list(select(name, counts, num_samples, **options).scores.tolist())


def test_means_by_hand() -> None:
    counts, n = [[4, 1], [3, 0]], [8, 4]  # p = (1/2, 1/4) and (3/8, 0)
    assert scores("arithmetic", counts, n) == pytest.approx([3 / 8, 3 / 16])
    assert scores("geometric", counts, n) == pytest.approx([math.sqrt(1 / 8), 0])
    assert scores("harmonic", counts, n) == pytest.approx([1 / 3, 0])
    assert scores("power_mean", counts, n, lam=-1) == pytest.approx([math.sqrt(5 / 32), 3 / 8 * math.sqrt(1 / 2)])
    assert scores("power_mean", counts, n, lam=0) == pytest.approx(scores("arithmetic", counts, n))
    assert scores("power_mean", counts, n, lam=1) == pytest.approx(scores("geometric", counts, n))
    assert scores("power_mean", counts, n, lam=2) == pytest.approx(scores("harmonic", counts, n))


def test_weighted_means_by_hand() -> None:
    counts, n, w = [[4, 1]], [8, 4], [3, 1]  # p = (1/2, 1/4), w = (3/4, 1/4)
    assert scores("arithmetic", counts, n, weights=w) == pytest.approx([7 / 16])
    assert scores("harmonic", counts, n, weights=w) == pytest.approx([1 / (1.5 + 1)])
    assert scores("geometric", counts, n, weights=w) == pytest.approx([0.5**0.75 * 0.25**0.25])


@pytest.mark.parametrize("name", ["geometric", "harmonic", "power_mean"])
def test_a_view_without_weight_may_lack_the_answer(name: str) -> None:
    assert scores(name, [[2, 0]], [4, 4], weights=[1, 0]) == pytest.approx([0.5])
    assert scores(name, [[2, 0]], [4, 4], weights=[0, 1]) == [0.0]


@pytest.mark.parametrize("lam", [-300.0, -1.0, 0.0, 1 - 1e-10, 1.0, 1 + 1e-10, 2.0, 300.0])
def test_power_mean_keeps_its_digits(lam: float) -> None:
    p = np.array([[0.25, 0.25], [1e-3, 1.0], [0.0, 0.5], [0.0, 0.0]])
    got = power_mean(p, UNIFORM, lam)
    assert got[0] == pytest.approx(0.25, rel=1e-12)
    assert got[3] == 0.0
    assert np.isfinite(got).all()
    if lam >= 1.0:
        assert got[2] == 0.0
    if lam == 0.0:
        assert got[2] == 0.25
    if abs(lam - 1) < 1e-6:
        assert got[1] == pytest.approx(math.sqrt(1e-3), rel=1e-8)
    if lam == 300.0:
        # The limit is the smallest frequency: 1e-3 * 2^(1/299).
        assert got[1] == pytest.approx(1e-3 * 2 ** (1 / 299))
    if lam == -300.0:
        assert got[1] == pytest.approx(2 ** (-1 / 301))


def test_infomax_by_hand() -> None:
    counts, n = [[4, 1]], [8, 4]  # mean 3/8, variance 1/64
    assert scores("infomax", counts, n, lam=2) == pytest.approx([3 / 8 - 1 / 24])
    assert scores("infomax", counts, n, lam=0) == pytest.approx([3 / 8])
    assert scores("infomax", counts, n, lam=4) == pytest.approx([3 / 8 - 1 / 12])
    assert scores("consistency", counts, n, lam=2) == pytest.approx([3 / 8 - 1 / 12])
    assert scores("mean_variance", counts, n, lam=2) == pytest.approx([3 / 8 - 1 / 32])
    # Weights (3/4, 1/4): mean 7/16, and the Weighted Invariant Score 7/16 - 3/16 * 1/16 / (7/16).
    assert scores("infomax", counts, n, weights=[3, 1]) == pytest.approx([7 / 16 - 3 / 112])


def test_published_consistency_for_two_views() -> None:
    p0, p1, lam = 5 / 8, 1 / 4, 0.7
    want = (p0 + p1) / 2 - lam * (p0 - p1) ** 2 / (2 * (p0 + p1))
    assert scores("consistency", [[5, 1]], [8, 4], lam=lam) == pytest.approx([want])


def test_infomax_exact_by_hand() -> None:
    # p = (1/2, 0): Z is 1 with probability 1/4. I(Z;A) = H(1/4); I(Z;X) = H(1/4) - H(1/2) / 2.
    h = lambda x: -x * math.log(x) - (1 - x) * math.log(1 - x)  # noqa: E731
    assert scores("infomax_exact", [[2, 0]], [4, 4], lam=0) == pytest.approx([h(0.25)])
    assert scores("infomax_exact", [[2, 0]], [4, 4], lam=1) == pytest.approx([math.log(2) / 2])
    assert scores("infomax_exact", [[2, 0]], [4, 4], lam=3) == pytest.approx([h(0.25) - 3 * (h(0.25) - math.log(2) / 2)])
    # An answer that depends on no view loses nothing to lam; one that everybody gives carries no information.
    assert scores("infomax_exact", [[1, 1]], [4, 4], lam=9) == pytest.approx([h(0.25)])
    assert select("infomax_exact", [[3, 3, 3]], [3, 3, 3]).label == (None, None, None)
    # Entropy is symmetric, so of two complementary answers the more frequent wins by its count.
    assert select("infomax_exact", [[1, 1], [3, 3]], [4, 4]).label == (1, 1)


def test_votes_by_hand() -> None:
    counts, n = [[3, 0, 1], [1, 2, 1], [0, 1, 2]], [4, 4, 4]
    pooled = select("majority", counts, n)
    assert (pooled.scores.tolist(), pooled.label, pooled.tie) == ([4, 4, 3], (0, 0, 0), True)
    own = select("self", counts, n)
    assert (own.scores.tolist(), own.label) == (counts, (0, 1, 2))
    others = select("cross", counts, n)
    assert others.scores.tolist() == [[1, 4, 3], [3, 2, 3], [3, 2, 1]]
    # View 0: clusters 1 and 2 tie at 3, the pooled counts (4 against 3) decide. View 2: 3 against 3, both 4: the first.
    assert others.label == (1, 0, 0)


def test_cross_swaps_the_labels_of_two_views() -> None:
    assert select("cross", [[3, 1], [1, 3]], [4, 4]).label == (1, 0)
    assert select("cross", [[4, 0]], [4, 4]).label == (None, 0)
    assert select("cross", [[4]], [4]).label == (None,)


def test_mutual_information_by_hand() -> None:
    counts, n = [[3, 1], [1, 1], [0, 2]], [4, 4]
    assert scores("mutual_information", counts, n) == pytest.approx([12 / 16 + 0.004, 1.002, 0.002])
    # By design a rare balanced answer beats a frequent unbalanced one.
    assert select("mutual_information", counts, n).label == (1, 1)
    # Three views: n0 n1 n2 / mean^3.
    assert scores("mutual_information", [[3, 2, 1]], [4, 4, 4]) == pytest.approx([6 / 8 + 0.006])


def test_true_mutual_information_by_hand() -> None:
    # Unanimous and disjoint: the answer tells the view, I = ln 2.
    assert scores("true_mutual_information", [[2, 0], [0, 2]], [2, 2]) == pytest.approx([0.5, 0.5])
    # 2 of 4 and 3 of 6 is independence, I = 0.
    got = select("true_mutual_information", [[1, 3], [2, 3]], [4, 6])
    assert got.label == (1, 1)
    assert got.scores[1] == pytest.approx(1.0)
    # Both answers are independent of the view, 1 of 9 and 2 of 18, 3 of 9 and 6 of 18: the count decides.
    assert select("true_mutual_information", [[1, 2], [3, 6]], [9, 18]).label == (1, 1)


def test_determinant_by_hand() -> None:
    # n0 N1 - n1 N0: 1*6 - 3*4 = -6; 2*6 - 3*4 = 0.
    assert scores("determinant", [[1, 3], [2, 3]], [4, 6]) == pytest.approx([1 / 7, 1.0])
    # Pairs (0,1) 4, (0,2) 8, (1,2) 4.
    assert scores("determinant", [[3, 2, 1]], [4, 4, 4]) == pytest.approx([1 / 17])


def test_smoothing_by_hand() -> None:
    # Three clusters: 4 + 3 samples a view; (1 + 3)/7 and 1/7, ...
    got = select("arithmetic", [[3, 0], [0, 2], [1, 1]], [4, 4], smoothing=1)
    assert got.scores.tolist() == pytest.approx([5 / 14, 4 / 14, 4 / 14])
    assert got.support.tolist() == [[0.75, 0.0], [0.0, 0.5], [0.25, 0.25]]
    # Unsmoothed, no answer is shared and harmonic abstains; smoothed, 4 and 1 beat 3 and 1.
    assert select("harmonic", [[3, 0], [0, 2]], [4, 4]).label == (None, None)
    assert select("harmonic", [[2, 0], [0, 3]], [4, 4], smoothing=1).label == (1, 1)
    # A view without samples becomes uniform and leaves the choice to the other.
    assert select("harmonic", [[0, 1], [0, 3]], [0, 4], smoothing=1).label == (1, 1)


# ------------------------------------------------------------------------------------------------ properties


@st.composite
def problems(draw: st.DrawFn, max_views: int = 4) -> tuple[IntArray, IntArray]:
    num_views = draw(st.integers(1, max_views))
    num_clusters = draw(st.integers(1, 6))
    cell = st.integers(0, 6)
    counts = np.array(
        draw(st.lists(st.lists(cell, min_size=num_views, max_size=num_views), min_size=num_clusters, max_size=num_clusters))
    )
    spare = np.array(draw(st.lists(st.integers(0, 4), min_size=num_views, max_size=num_views)))
    return counts, counts.sum(axis=0) + spare


def weights_for(num_views: int, seed: int) -> list[float]:
    return list(np.random.default_rng(seed).uniform(0.1, 2.0, num_views))


@pytest.mark.parametrize("name", WEIGHTED)
@given(problem=problems(), seed=st.integers(0, 99))
def test_order_of_views_does_not_matter(name: str, problem: tuple[IntArray, IntArray], seed: int) -> None:
    counts, n = problem
    order = np.random.default_rng(seed).permutation(len(n))
    weights = np.array(weights_for(len(n), seed))
    one = select(name, counts, n, weights=weights.tolist())
    other = select(name, counts[:, order], n[order], weights=weights[order].tolist())
    assert other.label[0] == one.label[0]
    assert other.scores == pytest.approx(one.scores, abs=1e-12)


@pytest.mark.parametrize("name", ["harmonic", "majority", "infomax", "self", "cross", "mutual_information", "determinant"])
@given(problem=problems(), seed=st.integers(0, 99))
def test_order_of_clusters_only_breaks_ties(name: str, problem: tuple[IntArray, IntArray], seed: int) -> None:
    counts, n = problem
    order = np.random.default_rng(seed).permutation(len(counts))
    one, other = select(name, counts, n), select(name, counts[order], n)
    assert other.scores == pytest.approx(one.scores[order])
    assert (other.tie, other.margin) == (one.tie, pytest.approx(one.margin))
    for a, b in zip(one.label, other.label, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None and not one.tie:
            assert order[b] == a


@pytest.mark.parametrize("name", WEIGHTED)
@given(problem=problems(), seed=st.integers(0, 99), factor=st.floats(0.01, 100))
def test_only_proportions_of_weights_matter(name: str, problem: tuple[IntArray, IntArray], seed: int, factor: float) -> None:
    counts, n = problem
    weights = weights_for(len(n), seed)
    one = select(name, counts, n, weights=weights)
    other = select(name, counts, n, weights=[w * factor for w in weights])
    assert other.label == one.label
    assert other.scores == pytest.approx(one.scores)


def frequencies_of(problem: tuple[IntArray, IntArray]) -> FloatArray:
    counts, n = problem
    return counts / np.maximum(n, 1)


@given(problem=problems(), seed=st.integers(0, 99), lam=st.floats(-8, 8))
def test_means_lie_between_and_in_order(problem: tuple[IntArray, IntArray], seed: int, lam: float) -> None:
    p = frequencies_of(problem)
    w = np.array(weights_for(p.shape[1], seed))
    w = w / w.sum()
    for mean in (arithmetic_mean(p, w), geometric_mean(p, w), harmonic_mean(p, w), power_mean(p, w, lam)):
        assert (mean >= p.min(axis=1) - 1e-12).all()
        assert (mean <= p.max(axis=1) + 1e-12).all()
    assert (harmonic_mean(p, w) <= geometric_mean(p, w) + 1e-12).all()
    assert (geometric_mean(p, w) <= arithmetic_mean(p, w) + 1e-12).all()
    assert (power_mean(p, w, lam) <= power_mean(p, w, lam - 1) + 1e-12).all()


@given(problem=problems(), seed=st.integers(0, 99))
def test_power_mean_closed_forms(problem: tuple[IntArray, IntArray], seed: int) -> None:
    p = frequencies_of(problem)
    w = np.array(weights_for(p.shape[1], seed))
    w = w / w.sum()
    assert power_mean(p, w, -1) == pytest.approx(np.sqrt(p**2 @ w))
    assert power_mean(p, w, 0) == pytest.approx(arithmetic_mean(p, w))
    assert power_mean(p, w, 1) == pytest.approx(geometric_mean(p, w))
    assert power_mean(p, w, 2) == pytest.approx(harmonic_mean(p, w))


@given(p=st.lists(st.tuples(st.integers(0, 64), st.integers(0, 64)), min_size=1, max_size=6))
def test_infomax_is_harmonic_for_two_views(p: list[tuple[int, int]]) -> None:
    support = np.array(p) / 64
    assert infomax_score(support, UNIFORM, 2.0) == pytest.approx(harmonic_mean(support, UNIFORM), abs=1e-12)


@given(problem=problems(), lam=st.floats(0, 5))
def test_consistency_is_infomax_with_twice_the_lam(problem: tuple[IntArray, IntArray], lam: float) -> None:
    counts, n = problem
    one, other = select("consistency", counts, n, lam=lam), select("infomax", counts, n, lam=2 * lam)
    assert one.label == other.label
    assert one.scores == pytest.approx(other.scores)


@given(problem=problems())
def test_label_is_a_best_cluster_that_somebody_voted_for(problem: tuple[IntArray, IntArray]) -> None:
    counts, n = problem
    for name in ("harmonic", "majority", "infomax", "mutual_information", "true_mutual_information", "determinant"):
        got = select(name, counts, n)
        label = got.label[0]
        assert got.margin >= 0
        if label is not None:
            assert counts[label].sum() > 0
            assert got.scores[label] == pytest.approx(got.scores.max())


def test_factors_multiply_the_views_weights() -> None:
    """Weights 1/2, 1/2 times 1, 1/4 are 4/5, 1/5; factors that leave no weight at all change nothing."""
    votes: dict[str, Any] = {"counts": [[3, 0], [1, 4]], "num_samples": [4, 4]}
    selector = Arithmetic(Arithmetic.Options())
    selector.weigh_views(np.array([1, 0.25]))
    assert selector.select(**votes).scores == pytest.approx([0.8 * 0.75, 0.8 * 0.25 + 0.2])
    one_sided = Arithmetic(Arithmetic.Options(weights=(1, 0)))
    plain = one_sided.select(**votes).scores
    one_sided.weigh_views(np.array([0, 1]))
    assert one_sided.select(**votes).scores == pytest.approx(plain)
