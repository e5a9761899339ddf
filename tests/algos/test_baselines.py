"""The methods that Self-Harmony is compared with, by hand: whose samples vote, whose are trained, and what each earns."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from method_helpers import NAN, assert_rewards, group, judge
from pydantic import ValidationError

from harmonyray.algos.advantages import Grpo
from harmonyray.algos.co_reward import CoReward
from harmonyray.algos.empo import Empo
from harmonyray.algos.intuitor import Intuitor
from harmonyray.algos.majority_vote import MajorityVote
from harmonyray.algos.rent import Rent
from harmonyray.algos.self_certainty_vote import SelfCertaintyVote, borda_weights
from harmonyray.algos.self_harmony import SelfHarmony
from harmonyray.errors import ConfigError

# --- TTRL ------------------------------------------------------------------------------------------------------------


def test_ttrl_votes_with_64_and_trains_on_32() -> None:
    """Of the first 32 samples 20 say a, 12 say b; of all 64 b has 36: what the trained samples alone would choose is not it."""
    ids = [0] * 20 + [1] * 12 + [1] * 24 + [0] * 8
    (judged,) = judge(MajorityVote, [group([ids])], num_trained=32)
    assert judged.consensus.label == (1,)
    assert judged.consensus.support[:, 0].tolist() == [28 / 64, 36 / 64]
    assert_rewards(judged, [[0.0] * 20 + [1.0] * 12 + [NAN] * 32])
    advantages = Grpo(Grpo.Options()).advantages(judged.rewards)[0]
    assert np.isnan(advantages[32:]).all()
    # The group is the 32: mean 12/32, unbiased variance 12/32 x 20/32 x 32/31.
    std = math.sqrt(12 / 32 * 20 / 32 * 32 / 31)
    assert advantages[:32] == pytest.approx([-12 / 32 / std] * 20 + [20 / 32 / std] * 12, rel=1e-5)


def test_a_view_with_as_many_samples_as_are_trained_trains_all() -> None:
    MajorityVote.check(MajorityVote.Options(num_trained=2), {"solver": 2})
    (judged,) = judge(MajorityVote, [group([[0, 1, 1], [1, 1]])], num_trained=2)
    assert_rewards(judged, [[0, 1, NAN], [1, 1, NAN]])


def test_more_trained_than_sampled_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"is 3, but view 'reframer' has 2 samples that vote: raise views\.reframer"):
        MajorityVote.check(MajorityVote.Options(num_trained=3), {"solver": 3, "reframer": 2})
    with pytest.raises(ValidationError):
        MajorityVote.Options(num_trained=0)


# --- co_reward -------------------------------------------------------------------------------------------------------


def test_co_reward_crosses_the_labels() -> None:
    """The first view says a, the second b: each is rewarded for saying what the other says."""
    (judged,) = judge(CoReward, [group([[0, 0, 1, 0], [1, 1, 0, -1]])])
    assert judged.consensus.label == (1, 0)
    assert_rewards(judged, [[0, 0, 1, 0], [0, 0, 1, 0]])
    assert judged.trained.tolist() == [True, True]


def test_co_reward_without_an_answer_on_the_other_side() -> None:
    (judged,) = judge(CoReward, [group([[0, 0, 1], [-1, -1, -1]])])
    assert judged.consensus.label == (None, 0)
    assert judged.trained.tolist() == [False, True]
    assert_rewards(judged, [[0, 0, 0], [0, 0, 0]])


def test_co_reward_with_three_views_pools_the_others() -> None:
    (judged,) = judge(CoReward, [group([[0, 0, 0], [1, 1, 2], [1, 2, 2]])])
    # Counts (3, 0, 0), (0, 2, 1), (0, 1, 2). The others' are for the first (0, 3, 3), a tie, then (3, 1, 2), and (3, 2, 1).
    assert judged.consensus.label == (1, 0, 0)


def test_co_reward_needs_two_views() -> None:
    with pytest.raises(ConfigError, match="co_reward compares views and needs at least 2, got 1"):
        CoReward.check(CoReward.Options(), {"solver": 8})
    CoReward.check(CoReward.Options(), {"solver": 8, "rewritten": 8})


# --- intuitor and rent -----------------------------------------------------------------------------------------------


def test_intuitor_is_the_certainty_and_nothing_of_the_answers() -> None:
    assert Intuitor.token_statistics == ("self_certainty",)
    g = group([[0, 0, -1], [1, 1]], self_certainty=[[1.5, 2.5, 7.0], [0.0, 0.25]])
    (judged,) = judge(Intuitor, [g])
    assert_rewards(judged, [[1.5, 2.5, 7.0], [0.0, 0.25, NAN]])
    assert judged.consensus.label == (None, None)
    assert judged.consensus.support.tolist() == [[2 / 3, 0], [0, 1]]
    assert judged.trained.tolist() == [True, True]


def test_rent_is_the_negative_entropy() -> None:
    assert Rent.token_statistics == ("entropy",)
    g = group([[0, 0, -1], [1, -1]], entropy=[[1.5, 0.5, 0.0], [2.0, 3.0]])
    (judged,) = judge(Rent, [g])
    assert_rewards(judged, [[-1.5, -0.5, 0.0], [-2.0, -3.0, NAN]])
    (judged,) = judge(Rent, [g], unanswered_reward=-7)
    assert_rewards(judged, [[-1.5, -0.5, -7.0], [-2.0, -7.0, NAN]])
    assert g.statistics["entropy"][0, 0] == 1.5, "the group is left as it was"


# --- self_certainty_vote ---------------------------------------------------------------------------------------------


def test_borda_weights_by_hand() -> None:
    certainties = np.array([0.2, 0.9, 0.5, 0.5])  # ranks 4, 1, 2, 2
    assert borda_weights(certainties, 1.0).tolist() == [0.25, 1.0, 0.75, 0.75]
    assert borda_weights(certainties, 2.0).tolist() == [0.0625, 1.0, 0.5625, 0.5625]
    assert borda_weights(certainties, 0.0).tolist() == [1.0] * 4


@pytest.mark.parametrize(
    ("power", "label", "scores"), [(0.0, 0, [3.0, 2.0]), (1.0, 1, [1.2, 1.8]), (0.5, 1, [1.854266, 1.894427])]
)
def test_the_most_certain_samples_weigh_more(power: float, label: int, scores: list[float]) -> None:
    """Three uncertain samples say a (weights 3/5, 2/5, 1/5 to the power), the two most certain say b (1, 4/5)."""
    g = group([[0, 0, 0, 1, 1]], self_certainty=[[0.3, 0.2, 0.1, 0.9, 0.8]])
    (judged,) = judge(SelfCertaintyVote, [g], power=power)
    assert judged.consensus.label == (label,)
    assert judged.consensus.scores == pytest.approx(np.array(scores), abs=1e-6)
    assert_rewards(judged, [[1 - label] * 3 + [label] * 2])


def test_a_sample_without_an_answer_takes_a_rank_and_votes_for_nothing() -> None:
    g = group([[-1, 0, 1, 1], [0]], self_certainty=[[9.0, 8.0, 1.0, 0.0], [5.0]])
    (judged,) = judge(SelfCertaintyVote, [g], power=1.0)
    assert judged.consensus.scores.tolist() == [0.75 + 1.0, 0.5 + 0.25]
    (silent,) = judge(SelfCertaintyVote, [group([[-1]], self_certainty=[[1.0]])])
    assert silent.trained.tolist() == [False]


# --- empo ------------------------------------------------------------------------------------------------------------


def test_empo_earns_the_frequency_of_the_answer() -> None:
    (judged,) = judge(Empo, [group([[0, 0, 1, -1], [0, 2]])])
    assert_rewards(judged, [[0.5, 0.5, 1 / 6, 0.0], [0.5, 1 / 6, NAN, NAN]])
    assert judged.consensus.label == (0, 0)
    assert judged.trained.tolist() == [True, True]
    (silent,) = judge(Empo, [group([[-1, -1]])])
    assert silent.trained.tolist() == [False]
    assert_rewards(silent, [[0, 0]])


# --- exact votes -----------------------------------------------------------------------------------------------------


def test_exact_votes_count_texts_and_reward_equality() -> None:
    """1/2 is written in two ways, each rarer than 3 in the first view: by equality 1/2 has the votes, by text 3 has them."""
    ids = [[0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 1, 1, 1]]
    texts = [["1/2", "1/2", "0.5", "0.5", "3", "3", "3"]] * 2
    g = group(ids, texts=texts)
    options: dict[str, Any] = {"format_penalty": 0, "diversity_penalty": 0}
    (by_equality,) = judge(SelfHarmony, [g], **options)
    assert by_equality.consensus.label == (0, 0)
    (by_text,) = judge(SelfHarmony, [g], exact_votes=True, **options)
    assert by_text.consensus.label == (1, 1)
    assert by_text.consensus.scores == pytest.approx([2 / 7, 3 / 7])
    assert by_text.consensus.margin == pytest.approx(1 / 7)
    assert by_text.consensus.support.tolist() == by_equality.consensus.support.tolist()
    assert_rewards(by_text, [[0, 0, 0, 0, 1, 1, 1]] * 2)


def test_an_exact_label_rewards_what_equals_it() -> None:
    g = group([[0, 0, 1], [0, 1, -1]], texts=[["1/2", "0.5", "3"], ["1/2", "4", ""]])
    (judged,) = judge(SelfHarmony, [g], exact_votes=True, format_penalty=0, diversity_penalty=0)
    assert judged.consensus.label == (0, 0)
    assert_rewards(judged, [[1, 1, 0], [1, 0, 0]])


def test_exact_votes_abstain_and_may_judge_views_apart() -> None:
    apart = group([[0, 0], [0, 0]], texts=[["1/2", "1/2"], ["0.5", "0.5"]])
    (judged,) = judge(SelfHarmony, [apart], exact_votes=True, diversity_penalty=0)
    assert judged.consensus.label == (None, None)
    assert judged.trained.tolist() == [False, False]
    (crossed,) = judge(SelfHarmony, [group([[0, 0], [1, 1]])], exact_votes=True, selector="cross", diversity_penalty=0)
    assert crossed.consensus.label == (1, 0)
    assert crossed.consensus.scores.tolist() == [[0, 2], [2, 0]]
    (silent,) = judge(SelfHarmony, [group([[-1], [-1]])], exact_votes=True, diversity_penalty=0)
    assert silent.consensus.scores.tolist() == []
