"""The step averages, by hand: two views, one view, three views, abstentions, nothing at all."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmonyray.algos.diagnostics import answer_entropy, consensus_metrics, harmonic_terms, pick_differently
from harmonyray.selectors import select
from harmonyray.types import AnswerGroup, Consensus

NAMES = ("coverage", "disagreement", "js", "margin", "entropy", "self_consistency", "view_invariance")


def group(cluster_ids: list[list[int]], num_samples: list[int] | None = None) -> AnswerGroup:
    ids = np.array(cluster_ids)
    n = np.array(num_samples if num_samples is not None else [ids.shape[1]] * len(ids))
    return AnswerGroup("problem", ids, n, tuple(str(c) for c in range(ids.max(initial=-1) + 1)))


def judged(name: str, groups: list[AnswerGroup]) -> dict[str, float]:
    verdicts: list[Consensus] = [select(name, g.counts(), g.num_samples) for g in groups]
    return consensus_metrics(verdicts, groups)


def test_one_problem_by_hand() -> None:
    # p = (3/4, 1/4) and (1/4, 1/2): harmonic 3/8 and 1/3.
    got = judged("harmonic", [group([[0, 0, 0, 1], [1, 1, 0, -1]])])
    assert list(got) == [f"consensus/{name}" for name in NAMES]
    assert got["consensus/coverage"] == 1.0
    assert got["consensus/disagreement"] == 0.0
    assert got["consensus/margin"] == pytest.approx(3 / 8 - 1 / 3)
    # (p0 + p1) / 2 = 1/2; (p0 - p1)^2 / (2 (p0 + p1)) = 1/8; their difference is the harmonic mean.
    assert got["consensus/self_consistency"] == pytest.approx(1 / 2)
    assert got["consensus/view_invariance"] == pytest.approx(1 / 8)
    # Pooled answers 4 and 3 of 7.
    assert got["consensus/entropy"] == pytest.approx(-(4 / 7) * math.log(4 / 7) - (3 / 7) * math.log(3 / 7))
    # (3/4, 1/4, 0) and (1/4, 1/2, 1/4), mixture (1/2, 3/8, 1/8).
    kl0 = 0.75 * math.log(1.5) + 0.25 * math.log(2 / 3)
    kl1 = 0.25 * math.log(0.5) + 0.5 * math.log(4 / 3) + 0.25 * math.log(2)
    assert got["consensus/js"] == pytest.approx((kl0 + kl1) / 2)


def test_averages_over_problems() -> None:
    unanimous = group([[0, 0], [0, 0]])
    disjoint = group([[0, 0], [1, 1]])
    silent = group([[-1, -1], [-1, -1]])
    got = judged("harmonic", [unanimous, disjoint, silent])
    assert got["consensus/coverage"] == pytest.approx(1 / 3)
    assert got["consensus/margin"] == pytest.approx(1 / 3)
    assert got["consensus/js"] == pytest.approx(math.log(2) / 3)
    assert got["consensus/entropy"] == pytest.approx(math.log(2) / 3)
    # Over the one problem with a label.
    assert got["consensus/self_consistency"] == 1.0
    assert got["consensus/view_invariance"] == 0.0


def test_disagreement() -> None:
    # Cluster 0: 8 and 1 of 8; cluster 1: 0 and 7. Harmonic takes 0, pooled majority too (9 against 7).
    assert not pick_differently(np.array([[8, 1], [0, 7]]), np.array([8, 8]))
    # p = (3/4, 1/8) and (1/4, 1/2), harmonic 3/14 and 1/3; counts 7 and 6.
    assert pick_differently(np.array([[6, 1], [2, 4]]), np.array([8, 8]))
    # Harmonic has no label: an abstention, not another pick.
    assert not pick_differently(np.array([[2, 0], [0, 1]]), np.array([2, 2]))
    different = group([[0, 0, 0, 0, 0, 0, 1, 1], [1, 1, 1, 1, 0, -1, -1, -1]])
    same = group([[0] * 8, [0] * 8])
    # It does not depend on the selector in use.
    for name in ("harmonic", "majority", "self"):
        assert judged(name, [different, same])["consensus/disagreement"] == 0.5


def test_one_view() -> None:
    got = judged("majority", [group([[0, 0, 1, -1]])])
    assert got["consensus/js"] == 0.0
    assert got["consensus/self_consistency"] == 0.5
    assert got["consensus/view_invariance"] == 0.0
    assert got["consensus/disagreement"] == 0.0
    assert got["consensus/margin"] == 1.0


def test_views_with_labels_of_their_own() -> None:
    # Labels 0 and 1 with p = (1, 1/2) and (0, 1/2): means 3/4 and 1/4, terms 1/16 / (3/4) and 1/16 / (1/4).
    got = judged("self", [group([[0, 0, 0, 0], [1, 1, 0, 0]])])
    assert got["consensus/coverage"] == 1.0
    # In view 1 the two tie at 2; cluster 0 has the higher pooled count.
    assert got["consensus/self_consistency"] == pytest.approx(3 / 4)
    apart = judged("cross", [group([[0, 0, 0, 0], [1, 1, 1, 0]])])
    # View 0 takes cluster 1, p = (0, 3/4), mean 3/8, variance 9/64; view 1 takes 0, p = (1, 1/4), mean 5/8.
    assert apart["consensus/self_consistency"] == pytest.approx((3 / 8 + 5 / 8) / 2)
    assert apart["consensus/view_invariance"] == pytest.approx((3 / 8 + 9 / 64 / (5 / 8)) / 2)


def test_views_of_different_size() -> None:
    got = judged("harmonic", [group([[0, 0, 0, 0], [0, 0, -1, -1]], num_samples=[4, 2])])
    assert got["consensus/self_consistency"] == 1.0
    assert got["consensus/js"] == 0.0


def test_nothing_at_all() -> None:
    assert set(consensus_metrics([], []).values()) == {0.0}
    assert set(judged("harmonic", [group([[-1], [-1]])]).values()) == {0.0}


def test_entropy_by_hand() -> None:
    assert answer_entropy(np.array([[2, 0], [0, 2]])) == pytest.approx(math.log(2))
    assert answer_entropy(np.array([[4, 4], [0, 0]])) == 0.0
    assert answer_entropy(np.zeros((0, 2), dtype=np.int64)) == 0.0


@given(st.integers(0, 16), st.integers(0, 16))
def test_terms_make_up_the_harmonic_mean(n0: int, n1: int) -> None:
    p0, p1 = n0 / 16, n1 / 16
    self_consistency, view_invariance = harmonic_terms(np.array([p0, p1]))
    assert self_consistency == pytest.approx((p0 + p1) / 2)
    harmonic = 2 * p0 * p1 / (p0 + p1) if n0 + n1 else 0.0
    assert self_consistency - view_invariance == pytest.approx(harmonic, abs=1e-12)


def test_every_value_is_finite_and_a_float() -> None:
    rng = np.random.default_rng(0)
    groups = [group(rng.integers(-1, 4, size=(3, 8)).tolist()) for _ in range(20)]
    for name in ("harmonic", "majority", "self", "determinant"):
        for value in judged(name, groups).values():
            assert type(value) is float
            assert math.isfinite(value)
