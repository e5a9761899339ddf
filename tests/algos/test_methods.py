"""The methods by hand on small groups of answers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from method_helpers import NAN, ToyGrader, assert_rewards, group, judge
from pydantic import ValidationError

from harmonyray.algos.advantages import Grpo
from harmonyray.algos.base import MethodContext
from harmonyray.algos.ground_truth import GroundTruth
from harmonyray.algos.majority_vote import MajorityVote
from harmonyray.algos.self_harmony import SelfHarmony
from harmonyray.errors import ConfigError
from harmonyray.types import GoldAnswer

# --- self_harmony ----------------------------------------------------------------------------------------------------

# p0 = (3/4, 1/4), p1 = (1/2, 1/4) and 1/4 without an answer: harmonic means 3/5 and 1/4.
IDS = [[0, 0, 0, 1], [0, 0, 1, -1]]
MISSING, COPIED = {1: [0.0, 1 / 3, 1.0, 1.0]}, {1: [0.0, 0.5, 1.0, 0.0]}


def agreement() -> float:
    """D = 1 - JS / ln 2 of (3/4, 1/4, 0) and (1/2, 1/4, 1/4), whose mixture is (5/8, 1/4, 1/8)."""
    kl0 = 0.75 * math.log(0.75 / 0.625)
    kl1 = 0.5 * math.log(0.5 / 0.625) + 0.25 * math.log(2)
    return 1 - (kl0 + kl1) / 2 / math.log(2)


def test_self_harmony_with_published_penalties() -> None:
    (judged,) = judge(SelfHarmony, [group(IDS, missing=MISSING, copied=COPIED)])
    assert judged.consensus.label == (0, 0)
    assert judged.consensus.scores.tolist() == pytest.approx([0.6, 0.25])
    assert judged.trained.tolist() == [True, True]
    gate = 1 - 0.1 * agreement()
    # The solver view has no penalties; F = 0 and 1/3 on the right answers; what is wrong earns nothing.
    assert_rewards(judged, [[1, 1, 1, 0], [gate, gate * (1 - 0.1 / 3), 0, 0]])
    assert judged.metrics == pytest.approx(
        {
            "reward/view1/format_compliance": 1 - (7 / 3) / 4,
            "reward/view1/copied": 1.5 / 4,
            "reward/view1/agreement": agreement(),
        }
    )


def test_every_penalty_alone() -> None:
    g = group(IDS, missing=MISSING, copied=COPIED)
    off: dict[str, Any] = {"format_penalty": 0, "diversity_penalty": 0, "copy_penalty": 0}
    cases: list[tuple[dict[str, Any], list[float]]] = [
        ({}, [1, 1, 0, 0]),
        ({"format_penalty": 0.6}, [1, 0.8, 0, 0]),
        ({"diversity_penalty": 0.5}, [1 - 0.5 * agreement()] * 2 + [0, 0]),
        ({"diversity_penalty": -0.5}, [1 + 0.5 * agreement()] * 2 + [0, 0]),
        ({"copy_penalty": 0.4}, [1, 0.8, 0, 0]),
        ({"copy_penalty": 1.0, "format_penalty": 0.6}, [1, 0.4, 0, 0]),
    ]
    for options, want in cases:
        (judged,) = judge(SelfHarmony, [g], **(off | options))
        assert_rewards(judged, [[1, 1, 1, 0], want])


def test_penalties_of_the_solver_view_are_ignored() -> None:
    g = group(IDS, missing={0: [1.0] * 4}, copied={0: [1.0] * 4})
    (judged,) = judge(SelfHarmony, [g], format_penalty=1, copy_penalty=1, diversity_penalty=0)
    assert_rewards(judged, [[1, 1, 1, 0], [1, 1, 0, 0]])


def test_agreement_cancels_within_a_view_and_acts_over_the_problem() -> None:
    """What the module's docstring and the configuration's help say about the published diversity term."""
    with_term, without = (judge(SelfHarmony, [group(IDS)], diversity_penalty=w)[0].rewards for w in (0.5, 0.0))
    view, problem = Grpo(Grpo.Options()), Grpo(Grpo.Options(group="problem"))
    assert view.advantages(with_term) == pytest.approx(view.advantages(without), abs=1e-4)
    assert abs(problem.advantages(with_term) - problem.advantages(without)).max() > 0.1


def test_abstention_is_untrained_and_the_others_keep_their_place() -> None:
    apart, fine = group([[0, 0], [1, -1]], problem="p"), group([[0, 1], [0, 0]], problem="q")
    silent = group([[-1, -1], [-1, -1]], problem="r")
    judged = judge(SelfHarmony, [apart, fine, silent], diversity_penalty=0)
    assert [j.consensus.label for j in judged] == [(None, None), (0, 0), (None, None)]
    assert [j.trained.tolist() for j in judged] == [[False, False], [True, True], [False, False]]
    assert [j.group.problem_id for j in judged] == ["p", "q", "r"]
    assert_rewards(judged[0], [[0, 0], [0, 0]])
    assert_rewards(judged[1], [[1, 0], [1, 1]])
    assert_rewards(judged[2], [[0, 0], [0, 0]])


def test_the_selector_and_its_options_are_used() -> None:
    # Harmonic prefers cluster 1 (p = .25, .5), the pooled majority cluster 0 (7 of 16 against 6).
    ids = [[0] * 6 + [1] * 2, [1] * 4 + [0] + [-1] * 3]
    for selector, label in [("harmonic", 1), ("majority", 0), ({"type": "harmonic", "min_margin": 0.5}, None)]:
        (judged,) = judge(SelfHarmony, [group(ids)], selector=selector)
        assert judged.consensus.label == (label, label)
        assert judged.trained.tolist() == [label is not None] * 2


def test_views_with_labels_of_their_own() -> None:
    (judged,) = judge(SelfHarmony, [group([[0, 0, 1], [1, 1, 0]])], selector="cross", diversity_penalty=0)
    assert judged.consensus.label == (1, 0)
    assert_rewards(judged, [[0, 0, 1], [0, 0, 1]])


def test_schedules_see_the_step() -> None:
    ids = [[0] * 6 + [1] * 2, [1] * 4 + [0] + [-1] * 3]
    selector = {"type": "schedule", "first": "majority", "then": "harmonic", "num_steps": 2}
    labels = [judge(SelfHarmony, [group(ids)], step=step, selector=selector)[0].consensus.label[0] for step in (1, 2, 3, 4)]
    assert labels == [0, 0, 1, 1]


def test_three_views_of_different_size() -> None:
    g = group([[0, 0, 1, 0], [0, 1], [0, 0, 0]], missing={1: [1.0, 0.0, 0, 0], 2: [0.0, 0.5, 0.0, 0]})
    (judged,) = judge(SelfHarmony, [g], diversity_penalty=0, format_penalty=0.5)
    assert_rewards(judged, [[1, 1, 0, 1], [0.5, 0, NAN, NAN], [1, 0.75, 1, NAN]])
    assert sorted(judged.metrics) == sorted(
        f"reward/view{v}/{what}" for v in (1, 2) for what in ("format_compliance", "copied", "agreement")
    )
    assert judged.metrics["reward/view1/format_compliance"] == 0.5
    assert judged.metrics["reward/view2/format_compliance"] == pytest.approx(1 - 0.5 / 3)


def test_self_harmony_needs_two_views() -> None:
    SelfHarmony.check(SelfHarmony.Options.model_validate({}), {"solver": 4, "reframer": 4})
    with pytest.raises(ConfigError, match=r"self_harmony compares views and needs at least 2, got 1: \['solver'\]"):
        SelfHarmony.check(SelfHarmony.Options.model_validate({}), {"solver": 4})
    MajorityVote.check(MajorityVote.Options(), {"solver": 4})
    GroundTruth.check(GroundTruth.Options(), {"solver": 4})


@pytest.mark.parametrize("bad", [{"format_penalty": 1.1}, {"copy_penalty": -0.1}, {"diversity_penalty": -1.1}, {"penalty": 0}])
def test_bad_options(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SelfHarmony.Options.model_validate(bad)


# --- majority_vote ---------------------------------------------------------------------------------------------------


def test_majority_in_one_view() -> None:
    judged = judge(MajorityVote, [group([[0, 1, 1, -1, 1]]), group([[-1, -1]]), group([[0, 1]])])
    assert_rewards(judged[0], [[0, 1, 1, 0, 1]])
    assert judged[1].consensus.label == (None,)
    assert judged[1].trained.tolist() == [False]
    assert_rewards(judged[1], [[0, 0]])
    # A tie goes to the answer that came first.
    assert_rewards(judged[2], [[1, 0]])
    assert judged[2].trained.tolist() == [True]


def test_majority_is_pooled_over_views() -> None:
    (judged,) = judge(MajorityVote, [group([[0, 0, 1], [1, 1]])])
    assert judged.consensus.label == (1, 1)
    assert_rewards(judged, [[0, 0, 1], [1, 1, NAN]])


# --- ground_truth ----------------------------------------------------------------------------------------------------


def test_ground_truth_by_hand() -> None:
    first, second = group([[0, 1, -1], [1, 1, 2]], problem="p"), group([[0, 0, 1], [2, 1]], problem="q")
    judged = judge(GroundTruth, [first, second], gold={"p": "B", "q": "C", "other": "A"})
    assert [j.consensus.label for j in judged] == [(1, 1), (2, 2)]
    assert_rewards(judged[0], [[0, 1, 0], [1, 1, 0]])
    # Right in one view only: the other is trained too, on zeros.
    assert_rewards(judged[1], [[0, 0, 0], [1, 0, NAN]])
    assert [j.trained.tolist() for j in judged] == [[True, True], [True, True]]
    assert judged[0].consensus.scores.tolist() == [0, 1, 0]
    assert judged[0].consensus.support == pytest.approx(np.array([[1 / 3, 0], [1 / 3, 2 / 3], [0, 1 / 3]]))
    assert judged[1].consensus.support[:, 1].tolist() == [0, 0.5, 0.5]


def test_a_gold_answer_that_nobody_gave() -> None:
    groups = [group([[0, 1]], problem="p"), group([[-1, -1]], problem="q"), group([[1, 0]], problem="r")]
    judged = judge(GroundTruth, groups, gold={"p": "Z", "q": "A", "r": "A"})
    assert [j.consensus.label for j in judged] == [(None,), (None,), (0,)]
    assert [j.trained.tolist() for j in judged] == [[False], [False], [True]]
    assert_rewards(judged[0], [[0, 0]])
    assert_rewards(judged[1], [[0, 0]])
    assert_rewards(judged[2], [[0, 1]])
    assert judged[0].consensus.margin == 0


def test_every_cluster_that_equals_the_gold_answer_is_right() -> None:
    # Equality is not transitive: "5" equals "5 m" and "5 cm", which differ from each other.
    (judged,) = judge(GroundTruth, [group([[0, 1, 2, -1]], answers="xBb")], gold={"p": "b"})
    assert judged.consensus.label == (1,)
    assert_rewards(judged, [[0, 1, 1, 0]])


def test_the_grader_is_asked_once_gold_first() -> None:
    grader = ToyGrader()
    context = MethodContext(("solver",), grader, {k: GoldAnswer(k, v) for k, v in (("p", "G"), ("q", "H"))})
    GroundTruth(GroundTruth.Options(), context).judge([group([[0, 1]], problem="q"), group([[0]], problem="p")], 1)
    assert grader.asked == [[("H", "a"), ("H", "b"), ("G", "a")]]


def test_ground_truth_without_gold_answers() -> None:
    groups = [group([[0]], problem=name) for name in ("p", "q", "r")]
    with pytest.raises(ConfigError, match="needs a gold answer for every problem; 2 have none, 'q' for one"):
        judge(GroundTruth, groups, gold={"p": "a"})


def test_only_ground_truth_asks_for_gold() -> None:
    assert GroundTruth.needs_gold
    assert not SelfHarmony.needs_gold
    assert not MajorityVote.needs_gold
