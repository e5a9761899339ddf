"""Figures of an evaluation against hand-computed numbers, brute force over all subsets, and known distributions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from harmonyray.measures import (
    RESAMPLES,
    Scores,
    bootstrap_interval,
    categories,
    category_intervals,
    flat_metrics,
    hits,
    intervals,
    labels_right,
    means,
    pass_at,
    pass_sizes,
    score_problems,
)
from harmonyray.types import AnswerGroup


def group(*views: list[int]) -> AnswerGroup:
    """A problem's clusters by view and sample; -1 is no answer."""
    num_clusters = max((c for view in views for c in view), default=-1) + 1
    return AnswerGroup("p", np.array(views), np.array([len(v) for v in views]), tuple(map(str, range(num_clusters))))


# --- pass@j ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8])
def test_pass_at_is_the_share_of_subsets_with_a_right_sample(n: int) -> None:
    for c in range(n + 1):
        samples = [True] * c + [False] * (n - c)
        for j in range(1, n + 1):
            subsets = list(itertools.combinations(samples, j))
            expected = sum(any(s) for s in subsets) / len(subsets)
            assert pass_at(np.array([c]), n, j)[0] == pytest.approx(expected, abs=1e-12), (n, c, j)


def test_pass_at_by_the_formula_where_the_binomials_are_huge() -> None:
    got = pass_at(np.array([0, 1, 37, 1000]), 1000, 200)
    expected = [1 - math.comb(1000 - c, 200) / math.comb(1000, 200) for c in (0, 1, 37, 1000)]
    assert got == pytest.approx(expected, abs=1e-12)


def test_pass_at_1_is_the_mean_and_pass_at_n_is_any() -> None:
    num_right = np.arange(17)
    assert pass_at(num_right, 16, 1) == pytest.approx(num_right / 16)
    assert pass_at(num_right, 16, 16).tolist() == [0.0] + [1.0] * 16


def test_pass_at_is_unbiased() -> None:
    """Over all outcomes of n samples that are right with chance q, its mean is the chance that any of j is right."""
    n, q = 6, 0.3
    weight = np.array([math.comb(n, c) * q**c * (1 - q) ** (n - c) for c in range(n + 1)])
    for j in range(1, n + 1):
        assert float(weight @ pass_at(np.arange(n + 1), n, j)) == pytest.approx(1 - (1 - q) ** j)


@pytest.mark.parametrize("j", [0, 5])
def test_pass_at_more_than_there_are_is_refused(j: int) -> None:
    with pytest.raises(ValueError, match=r"pass@\d cannot be estimated from 4 samples; expected 1 <= j <= 4"):
        pass_at(np.array([1]), 4, j)


@pytest.mark.parametrize(
    ("k", "sizes"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (4, [1, 2, 4]), (6, [1, 2, 4, 6]), (16, [1, 2, 4, 8, 16])]
)
def test_pass_sizes(k: int, sizes: list[int]) -> None:
    assert pass_sizes(k) == sizes


# --- votes -------------------------------------------------------------------------------------------------------------------


def test_hits_never_take_no_answer_for_the_last_cluster() -> None:
    assert hits(group([0, 1, -1], [1, 1, -1]), np.array([False, True])).tolist() == [[False, True, False], [True, True, False]]
    assert hits(group([-1, -1]), np.array([], dtype=bool)).tolist() == [[False, False]]


def test_labels_by_hand() -> None:
    groups = [
        group([0, 0, 1], [1, 1, 1]),  # pooled: 1; harmonic: 1 (2*1/3*1/(4/3) = .5 against 0); first view: 0
        group([0, 1, -1], [1, 0, -1]),  # a tie everywhere: the one sampled first
        group([0, 0, 0], [1, 1, 1]),  # nothing in common: pooled ties to 0, harmonic abstains
        group([-1, -1, -1], [-1, -1, -1]),  # nobody answered
    ]
    right = [np.array([False, True]), np.array([True, False]), np.array([True, False]), np.array([], dtype=bool)]
    assert labels_right(groups, right, "majority").tolist() == [1, 1, 1, 0]
    assert labels_right(groups, right, "harmonic").tolist() == [1, 1, 0, 0]
    assert labels_right(groups, right, "majority", 0).tolist() == [0, 1, 1, 0]
    assert labels_right(groups, right, "majority", 1).tolist() == [1, 1, 0, 0]


def test_all_views_votes_do_not_depend_on_the_order_of_the_samples() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        rows = rng.choice(4, size=(2, 7), p=[0.5, 0.2, 0.2, 0.1])
        right = np.array([True, False, False, False])
        counts = np.stack([np.bincount(row, minlength=4) for row in rows], axis=1)
        if len(set(counts.sum(axis=1))) < 4:
            continue  # a tie is for the order to decide
        mixed = rng.permuted(rows, axis=1)
        first = labels_right([group(*rows.tolist())], [right], "majority")
        assert first.tolist() == labels_right([group(*mixed.tolist())], [right], "majority").tolist()


def test_the_scores_of_two_problems_by_hand() -> None:
    right = [np.array([True, False]), np.array([False])]
    sampled = ([group([0, 0, 1, -1], [1, 1, 1, 1]), group([0, 0, 0, 0], [-1, 0, 0, -1])], right)
    greedy = ([group([0], [-1]), group([-1], [0])], [np.array([True]), np.array([True])])
    got = {name: values.tolist() for name, values in score_problems(["a", "b"], sampled, greedy).items()}
    assert got == {
        "a/avg_at_k": [0.5, 0.0],
        "a/pass_at_k": [1.0, 0.0],
        "a/pass_at_1": [0.5, 0.0],
        "a/pass_at_2": [pytest.approx(5 / 6), 0.0],  # of six pairs one has no right sample
        "a/pass_at_4": [1.0, 0.0],
        "a/majority_at_k": [1.0, 0.0],
        "a/greedy": [1.0, 0.0],
        "b/avg_at_k": [0.0, 0.0],
        "b/pass_at_k": [0.0, 0.0],
        "b/pass_at_1": [0.0, 0.0],
        "b/pass_at_2": [0.0, 0.0],
        "b/pass_at_4": [0.0, 0.0],
        "b/majority_at_k": [0.0, 0.0],
        "b/greedy": [0.0, 1.0],
        "majority_at_k": [0.0, 0.0],  # five for the wrong one
        "harmonic_at_k": [0.0, 0.0],  # the right one is missing from view b
    }


def test_samples_that_share_a_draft_are_no_independent_draws() -> None:
    """Two drafts, each good half of the time, and two samples of each, right if their draft is good: 0, 2, 2 or 4 are right.

    Two of the four share a draft in a third of the draws: between pass@2 of one draft (1/2) and of two (3/4). pass@1 is exact.
    """
    num_right = np.array([0, 2, 2, 4])
    assert pass_at(num_right, 4, 1).mean() == 1 / 2
    assert pass_at(num_right, 4, 2).mean() == pytest.approx(1 / 3 * 1 / 2 + 2 / 3 * 3 / 4)


# --- intervals ---------------------------------------------------------------------------------------------------------------


def test_equal_values_have_no_width() -> None:
    for value in (0.0, 1.0, 0.1, 1 / 3):
        low, high = bootstrap_interval(np.full((1, 97), value), 0)
        assert low[0] == high[0] == pytest.approx(value)


@pytest.mark.parametrize(("num_problems", "share"), [(200, 0.5), (1319, 0.3), (1319, 0.9)])
def test_a_bernoulli_mean_against_the_normal_approximation(num_problems: int, share: float) -> None:
    values = (np.arange(num_problems) < share * num_problems).astype(float)
    low, high = bootstrap_interval(values[None], 0)
    mean = values.mean()
    half = 1.959964 * math.sqrt(mean * (1 - mean) / num_problems)
    assert low[0] == pytest.approx(mean - half, abs=0.12 * half)
    assert high[0] == pytest.approx(mean + half, abs=0.12 * half)


def test_against_scipy() -> None:
    from scipy.stats import bootstrap

    values = np.random.default_rng(5).beta(0.4, 0.6, size=300)
    low, high = bootstrap_interval(values[None], 1)
    theirs = bootstrap(
        (values,), np.mean, n_resamples=20 * RESAMPLES, batch=1000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    width = theirs.high - theirs.low
    assert low[0] == pytest.approx(theirs.low, abs=0.05 * width)
    assert high[0] == pytest.approx(theirs.high, abs=0.05 * width)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(7)
    covered = 0
    for i in range(300):
        values = rng.beta(2, 3, size=100)  # mean 0.4
        low, high = bootstrap_interval(values[None], i)
        covered += low[0] <= 0.4 <= high[0]
    assert 0.91 < covered / 300 < 0.98


def test_intervals_are_seeded_and_shared_by_the_measures() -> None:
    values = np.random.default_rng(0).random((2, 50))
    first, again, other = (np.array(bootstrap_interval(values, seed)) for seed in (3, 3, 4))
    assert (first == again).all()
    assert (first != other).all()
    alone = np.array(bootstrap_interval(values[1:], 3))
    assert (alone[:, 0] == first[:, 1]).all()  # the same problems were drawn


def test_blocks_of_resamples_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).random((3, 40))
    whole = np.array(bootstrap_interval(values, 3))
    monkeypatch.setattr("harmonyray.measures._BLOCK", 40 * 7)
    assert (np.array(bootstrap_interval(values, 3)) == whole).all()


def test_no_problems_no_interval() -> None:
    with pytest.raises(ValueError, match=r"expected values of shape \[M, P\] with P >= 1"):
        bootstrap_interval(np.zeros((1, 0)), 0)


# --- names -------------------------------------------------------------------------------------------------------------------

SCORES = Scores(
    {
        "solver/avg_at_k": np.array([1.0, 0.5, 0.0, 0.0]),
        "solver/pass_at_2": np.array([1.0, 1, 0, 0]),
        "harmonic_at_k": np.ones(4),
    },
    ("hard", "easy", "hard", ""),
)


def test_means_and_categories_by_hand() -> None:
    assert means(SCORES) == {
        "solver/avg_at_k": 0.375,
        "solver/pass_at_2": 0.5,
        "harmonic_at_k": 1.0,
        "num_problems": 4,
        "solver/avg_at_k/easy": 0.5,
        "harmonic_at_k/easy": 1.0,
        "num_problems/easy": 1,
        "solver/avg_at_k/hard": 0.5,
        "harmonic_at_k/hard": 1.0,
        "num_problems/hard": 2,
    }


def test_intervals_stand_beside_what_they_belong_to() -> None:
    flat = flat_metrics("holdout", SCORES, 0)
    assert {name.split("/")[0] for name in flat} == {"holdout"}
    low, high = intervals(SCORES, 0)["solver/avg_at_k"]
    assert (flat["holdout/solver/avg_at_k_low"], flat["holdout/solver/avg_at_k_high"]) == (low, high)
    assert 0 <= low < 0.375 < high <= 1
    assert not any(name.endswith(("_low", "_high")) for name in flat if "hard" in name or "num_problems" in name)
    assert set(category_intervals(SCORES, 0)) == {
        f"{name}/{category}" for name in ("solver/avg_at_k", "harmonic_at_k") for category in ("easy", "hard")
    }


def test_a_category_is_a_metric_name_that_mlflow_takes() -> None:
    from mlflow.utils.validation import _validate_metric_name

    awkward = ("Counting & Probability", "a/b", "a\\b", "..", ".", "3.5", "Größe: 1", "", "x_low")
    scores = Scores({"solver/avg_at_k": np.arange(9.0)}, awkward)
    for name in flat_metrics("eval", scores, 0):
        _validate_metric_name(name)
    assert [name for name, _ in categories(scores)] == ["3.5", "Counting _ Probability", "Größe_ 1", "_", "a_b", "x_low"]
    assert {name: members.tolist() for name, members in categories(scores)}["a_b"] == [1, 2]


def test_the_domains_of_gpqa_are_metric_names() -> None:
    """As its data set spells them; parentheses are what MLflow refuses."""
    from mlflow.utils.validation import _validate_metric_name

    domains = ("Physics (general)", "Chemistry (general)", "High-energy particle physics", "Electromagnetism and Photonics")
    scores = Scores({"solver/avg_at_k": np.array([1.0, 0.0, 0.0, 1.0])}, domains)
    names = flat_metrics("eval", scores, 0)
    for name in names:
        _validate_metric_name(name)
    assert names["eval/solver/avg_at_k/Physics _general_"] == 1.0
    assert names["eval/num_problems/Chemistry _general_"] == 1.0
