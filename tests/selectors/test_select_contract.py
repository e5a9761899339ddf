"""The contract `select(name, counts, num_samples, **options)`: labels, ties, margin, abstention, refusals."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from harmonyray import registry
from harmonyray.errors import ConfigError
from harmonyray.selectors import select
from harmonyray.types import Consensus

NESTED: dict[str, dict[str, Any]] = {
    "bootstrap": {"of": "harmonic", "num_resamples": 10},
    "schedule": {"first": "majority", "num_steps": 1, "then": "harmonic"},
    "mixed": {"of": ["harmonic", "majority"], "probs": [1, 1]},
}
NAMES = sorted(registry.BUILT_IN["selectors"])


def vote(name: str, counts: list[list[int]], num_samples: list[int], **options: Any) -> Consensus:
    return select(name, counts, num_samples, **{**NESTED.get(name, {}), **options})


def test_harmonic_by_hand() -> None:
    got = select("harmonic", [[3, 1], [1, 2]], [4, 4])
    # p = (3/4, 1/4) -> 2 * 3/16 / 1 = 3/8; p = (1/4, 1/2) -> 2 * 1/8 / (3/4) = 1/3.
    assert got.scores.tolist() == pytest.approx([3 / 8, 1 / 3])
    assert got.label == (0, 0)
    assert got.margin == pytest.approx(3 / 8 - 1 / 3)
    assert not got.tie
    assert got.support.tolist() == [[0.75, 0.25], [0.25, 0.5]]


def test_samples_without_an_answer_count() -> None:
    assert select("arithmetic", [[1], [1]], [4]).scores.tolist() == [0.25, 0.25]
    # Half of view 0 gave no answer: its frequency is 1/2, not 1.
    assert select("harmonic", [[2, 4]], [4, 4]).scores.tolist() == pytest.approx([2 / 3])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num_views", [1, 2, 3])
def test_no_answer_at_all_abstains(name: str, num_views: int) -> None:
    got = vote(name, [], [4] * num_views)
    assert got.label == (None,) * num_views
    assert got.margin == 0.0
    assert got.scores.shape == (0,)
    assert got.support.shape == (0, num_views)
    empty = vote(name, [], [0] * num_views)
    assert empty.label == (None,) * num_views


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("cross", "infomax_exact")])
@pytest.mark.parametrize("num_views", [1, 2, 3])
def test_unanimous(name: str, num_views: int) -> None:
    assert vote(name, [[4] * num_views], [4] * num_views).label == (0,) * num_views


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("cross", "infomax_exact")])
def test_one_view_is_its_majority(name: str) -> None:
    if name in ("true_mutual_information", "determinant"):
        # One view tells nothing apart: all scores are equal and the count decides.
        assert vote(name, [[1], [3]], [4]).tie
    assert vote(name, [[1], [3]], [4]).label == (1,)


@pytest.mark.parametrize("name", NAMES)
def test_one_sample(name: str) -> None:
    label = vote(name, [[1]], [1]).label
    assert label == ((None,) if name in ("cross", "infomax_exact") else (0,))


@pytest.mark.parametrize("name", NAMES)
def test_clusters_that_nobody_voted_for_never_win(name: str) -> None:
    assert all(label in (None, 1) for label in vote(name, [[0, 0], [2, 1], [0, 0]], [4, 4], **smoothing(name)).label)
    assert vote(name, [[0, 0]], [4, 4], **smoothing(name)).label == (None, None)


def smoothing(name: str) -> dict[str, float]:
    return {} if name in NESTED else {"smoothing": 1.0}


@pytest.mark.parametrize("name", ["harmonic", "geometric", "power_mean"])
def test_views_that_share_no_answer_abstain(name: str) -> None:
    got = select(name, [[4, 0], [0, 4]], [4, 4])
    assert got.label == (None, None)
    assert got.scores.tolist() == [0.0, 0.0]
    assert (got.margin, got.tie) == (0.0, False)
    assert select("infomax", [[4, 0], [0, 4]], [4, 4]).label == (None, None)


def test_zero_up_to_rounding_is_zero() -> None:
    # One view of three has the answer: mean 1/3, variance 2/9, and 1/3 - 2/9 / (2/3) = 0.
    got = select("infomax", [[3, 0, 0]], [3, 3, 3], lam=1.0)
    assert got.scores[0] == pytest.approx(0.0, abs=1e-15)
    assert got.label == (None, None, None)


def test_ties_go_to_the_higher_count_then_to_the_first() -> None:
    # p = (1/4, 1/2) and (1/2, 1/4): both harmonic means are 1/3; counts 2 + 2 against 4 + 1.
    by_count = select("harmonic", [[2, 2], [4, 1]], [8, 4])
    assert by_count.scores.tolist() == pytest.approx([1 / 3, 1 / 3])
    assert (by_count.label, by_count.margin, by_count.tie) == ((1, 1), 0.0, True)
    by_order = select("harmonic", [[1, 2], [2, 1]], [3, 3])
    assert (by_order.label, by_order.margin, by_order.tie) == ((0, 0), 0.0, True)
    first = select("majority", [[2, 0], [0, 2], [1, 1]], [3, 3])
    assert (first.label, first.tie) == ((0, 0), True)


def test_ties_survive_float_noise() -> None:
    # The same three frequencies in every order: a harmonic mean of thirds differs in its last bit by the order.
    rows = [[1, 2, 7], [7, 1, 2], [2, 7, 1]]
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
        for name in ("harmonic", "geometric", "infomax", "mean_variance", "infomax_exact", "arithmetic"):
            got = select(name, [rows[i] for i in order], [30, 30, 30])
            assert (got.label, got.tie, got.margin) == ((0, 0, 0), True, 0.0), name


def test_abstention() -> None:
    counts, n = [[3, 1], [1, 2]], [4, 4]  # scores 3/8 and 1/3
    assert select("harmonic", counts, n, min_score=0.375).label == (0, 0)
    refused = select("harmonic", counts, n, min_score=0.38)
    assert refused.label == (None, None)
    assert refused.margin == pytest.approx(1 / 24)
    assert select("harmonic", counts, n, min_margin=1 / 24).label == (0, 0)
    assert select("harmonic", counts, n, min_margin=0.05).label == (None, None)
    # Alone, a cluster leads by its own score.
    assert select("harmonic", [[2, 2]], n, min_margin=0.5).label == (0, 0)
    tied = select("majority", [[1, 1], [1, 1]], n, min_margin=1)
    assert (tied.label, tied.tie) == ((None, None), True)


def test_views_judged_apart_abstain_apart() -> None:
    got = select("self", [[3, 1], [1, 1]], [4, 4], min_margin=1)
    assert got.label == (0, None)
    assert (got.margin, got.tie) == (0.0, True)
    assert got.scores.shape == (2, 2)


@pytest.mark.parametrize(
    ("counts", "num_samples", "message"),
    [
        ([["4", "5"]], [1, 1], "integers"),
        ([[0.5, 0.5]], [1, 1], "integers"),
        ([[1, 2], [1]], [4, 4], "rectangular"),
        ([[1, 1, 1]], [4, 4], "shape"),
        ([1, 2], [4, 4], "shape"),
        ([[-1, 2]], [4, 4], "negative"),
        ([[3, 0], [2, 0]], [4, 4], "more than num_samples"),
        ([[1]], 4, "one integer per view"),
        ([], [], "one integer per view"),
    ],
)
def test_arrays_that_do_not_fit(counts: Any, num_samples: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        select("harmonic", counts, num_samples)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("harmnic", {}, "did you mean 'harmonic'"),
        ("harmonic", {"weight": [1, 1]}, "did you mean 'weights'"),
        ("harmonic", {"weights": [1, 1, 1]}, "3 entries but there are 2 views"),
        ("harmonic", {"weights": [1, -1]}, "none negative"),
        ("harmonic", {"weights": [0, 0]}, "not all zero"),
        ("harmonic", {"weights": [1, float("nan")]}, "finite"),
        ("harmonic", {"smoothing": -1}, "smoothing"),
        ("harmonic", {"min_score": -1}, "min_score"),
        ("majority", {"weights": [1, 1]}, "unknown option 'weights'"),
        ("power_mean", {"lam": float("inf")}, "finite"),
        ("bootstrap", {}, "missing option 'of'"),
        ("bootstrap", {"of": "harmnic"}, "did you mean 'harmonic'"),
        ("bootstrap", {"of": {"type": "harmonic", "smooth": 1}}, "did you mean 'smoothing'"),
        ("bootstrap", {"of": "harmonic", "num_resamples": 0}, "num_resamples"),
        ("schedule", {"first": "majority", "then": "harmonic"}, "missing option 'num_steps'"),
        ("mixed", {"of": ["harmonic"], "probs": [0.5, 0.5]}, "one probability for each"),
        ("mixed", {"of": ["harmonic", "self"], "probs": [1, -1]}, "none negative"),
        ("mixed", {"of": [], "probs": []}, "of"),
    ],
)
def test_options_that_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        select(name, [[3, 1]], [4, 4], **options)


def test_input_is_left_alone() -> None:
    counts, n = np.array([[3, 1], [1, 2]]), np.array([4, 4])
    for name in NAMES:
        select(name, counts, n, **NESTED.get(name, {}))
    assert counts.tolist() == [[3, 1], [1, 2]]
    assert n.tolist() == [4, 4]


def test_importing_selectors_loads_nothing_heavy() -> None:
    code = "import sys, harmonyray.selectors as s; s.select('harmonic', [[1, 1]], [1, 1]); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not [m for m in ("torch", "ray", "transformers", "vllm", "mlflow", "deepspeed") if m in loaded]
