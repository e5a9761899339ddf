"""Distances to the fused distribution by hand and against recorded values, and the rewards made of them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmonyray.algos.transport import (
    fused_distribution,
    kl_distance,
    kl_per_sample,
    w1_distance,
    w1_per_sample,
    w2_distance,
    w2_per_sample,
)

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "data" / "golden" / "vote.jsonl"

# Three answers of ten samples in view 0 (.6, .4, 0), five in view 1 (.2, .4, .4): fused (7/15, 6/15, 2/15).
SUPPORT = np.array([[0.6, 0.2], [0.4, 0.4], [0.0, 0.4]])
NUM = np.array([10, 5])
HAND = {
    "w1": (2 / 15, 4 / 15),
    "w2": ((2 / 15) ** 2 * 2, (4 / 15) ** 2 * 2),
    "kl": (0.6 * math.log(9 / 7), 0.2 * math.log(3 / 7) + 0.4 * math.log(3)),
}


def test_the_fused_distribution_is_the_pool() -> None:
    p, fused = fused_distribution(SUPPORT, NUM)
    assert fused.tolist() == pytest.approx([7 / 15, 6 / 15, 2 / 15, 0], abs=1e-15)
    assert p.shape == (4, 2)
    # Samples without an answer are a bucket.
    assert fused_distribution(np.array([[0.5, 1.0]]), np.array([4, 4]))[1].tolist() == [0.75, 0.25]


@pytest.mark.parametrize("v", [0, 1])
def test_distances_by_hand(v: int) -> None:
    p, fused = fused_distribution(SUPPORT, NUM)
    assert w1_distance(p[:, v], fused) == pytest.approx(HAND["w1"][v])
    assert w2_distance(p[:, v], fused) == pytest.approx(HAND["w2"][v])
    assert kl_distance(p[:, v], fused) == pytest.approx(HAND["kl"][v])


def test_extremes() -> None:
    p, fused = fused_distribution(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([4, 4]))
    assert (w1_distance(p[:, 0], fused), w2_distance(p[:, 0], fused)) == (0.5, 0.5)
    assert kl_distance(p[:, 0], fused) == pytest.approx(math.log(2))
    assert kl_per_sample(p[:, 0], fused, 0.5).tolist() == pytest.approx([0, 1, 1])
    same, fused = fused_distribution(np.array([[0.5, 0.5], [0.5, 0.5]]), np.array([4, 4]))
    assert w1_distance(same[:, 0], fused) == w2_distance(same[:, 0], fused) == kl_distance(same[:, 0], fused) == 0.0
    alone, fused = fused_distribution(np.array([[0.5], [0.25]]), np.array([4]))
    assert kl_per_sample(alone[:, 0], fused, 1.0).tolist() == [1, 1, 1]


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(2, 4))
def test_the_mean_over_a_views_samples_is_its_distance(seed: int, num_clusters: int, num_views: int) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 5, size=(num_clusters, num_views))
    num = counts.sum(axis=0) + rng.integers(1, 3, size=num_views)
    ps, fused = fused_distribution(counts / num, num)
    for v in range(num_views):
        p, share = ps[:, v], num[v] / num.sum()
        bound = -math.log(share)
        assert 0 <= w1_distance(p, fused) <= 1
        assert 0 <= w2_distance(p, fused) <= 2
        assert 0 <= kl_distance(p, fused) <= bound + 1e-12
        assert p @ w1_per_sample(p, fused) == pytest.approx(1 - w1_distance(p, fused))
        assert (fused - p) @ w2_per_sample(p, fused) == pytest.approx(w2_distance(p, fused))
        assert p @ kl_per_sample(p, fused, share) == pytest.approx(1 - kl_distance(p, fused) / bound)
        assert w1_per_sample(p, fused).min() >= 0
        assert kl_per_sample(p, fused, share).min() >= -1e-12


@pytest.mark.skipif(not GOLDEN.exists(), reason="the shared golden data is not beside this checkout")
def test_against_recorded() -> None:
    """Cases in which every sample has an answer; w1 with two answers at most (see `w1_distance`)."""
    num_checked = num_lines = 0
    for line in GOLDEN.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        views = [row["ori"], row["aug"]]
        if not all(views) or not all(all(view) for view in views) or "reference-raises" in row["flags"]:
            continue
        if "equivalent-strings-split-by-string-vote" in row["flags"]:
            continue
        texts = list(dict.fromkeys(text for view in views for text in view))
        support = np.array([[view.count(text) / len(view) for view in views] for text in texts])
        p, fused = fused_distribution(support, np.array([len(view) for view in views]))
        num_checked += 1
        for v, name in enumerate(("ori", "aug")):
            assert w2_distance(p[:, v], fused) == pytest.approx(row["out"][f"w2_to_fused:{name}"], abs=1e-9), row["id"]
            assert kl_distance(p[:, v], fused) == pytest.approx(row["out"][f"kl_to_fused:{name}"], abs=1e-6), row["id"]
            if len(texts) <= 2:
                num_lines += 1
                assert w1_distance(p[:, v], fused) == pytest.approx(row["out"][f"w1_to_fused:{name}"], abs=1e-9), row["id"]
    assert num_checked >= 50
    assert num_lines >= 10
