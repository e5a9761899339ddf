"""The rewards and variants that self_harmony's options choose, by hand; every option changes something, none contradicts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from harmonyray.algos.base import MethodContext
from harmonyray.algos.rewards import gate, subtract
from harmonyray.algos.self_harmony import SelfHarmony
from harmonyray.config import load_config
from harmonyray.errors import ConfigError
from harmonyray.registry import BUILT_IN
from harmonyray.types import AnswerGroup, Judgement, Reading

# p0 = (3/4, 1/4), p1 = (1/2, 1/4) and 1/4 without an answer: harmonic scores 3/5 and 1/4, label 0; fused (5/8, 1/4, 1/8).
IDS = np.array([[0, 0, 0, 1], [0, 0, 1, -1]])
MISSING, COPIED = [0.0, 1.0, 1.0, 0.0], [0.0, 0.5, 1.0, 0.0]
OFF: dict[str, Any] = {"format_penalty": 0, "diversity_penalty": 0}


def judge(**options: Any) -> Judgement:
    parsed = tuple(
        tuple(Reading("x", missing=m if v else 0.0, copied=c if v else 0.0) for m, c in zip(MISSING, COPIED, strict=True))
        for v in (0, 1)
    )
    group = AnswerGroup("p", IDS, np.array([4, 4]), ("a", "b"), parsed)
    method = SelfHarmony(SelfHarmony.Options.model_validate(options), MethodContext(("solver", "reframer"), grader=None))  # type: ignore[arg-type]
    (judged,) = method.judge([group], 1)
    return judged


@pytest.mark.parametrize(
    ("reward", "want"),
    [
        ("match", [[1, 1, 1, 0], [1, 1, 0, 0]]),
        ("score", [[0.6, 0.6, 0.6, 0.25], [0.6, 0.6, 0.25, 0]]),
        ("soft_rank", [[1, 1, 1, 6 / 7], [1, 1, 6 / 7, 0]]),
        ({"type": "soft_rank", "k": 3}, [[1, 1, 1, 0.5], [1, 1, 0.5, 0]]),
        # f / p: 5/6 and 1 in view 0; 5/4, cut to 1, and 1 in view 1.
        ("w1", [[5 / 6, 5 / 6, 5 / 6, 1], [1, 1, 1, 0]]),
        ({"type": "w1", "per_sample": False}, [[7 / 8] * 4, [7 / 8] * 3 + [0]]),
        ("w2", [[7 / 8] * 3 + [1], [9 / 8, 9 / 8, 1, 0]]),
        ({"type": "w2", "per_sample": False}, [[1 - 1 / 64] * 4, [1 - 1 / 64] * 3 + [0]]),
        # 1 - log2(6/5) and 1; 1 - log2(4/5) and 1.
        ("kl", [[0.736965594] * 3 + [1], [1.321928095] * 2 + [1, 0]]),
        # 3/4 log2(6/5); 1/2 log2(4/5) + 1/4 log2(2).
        ({"type": "kl", "per_sample": False}, [[1 - 0.197275804] * 4, [1 - (-0.160964047 + 0.25)] * 3 + [0]]),
    ],
)
def test_what_an_answer_earns(reward: Any, want: list[list[float]]) -> None:
    assert judge(reward=reward, **OFF).rewards == pytest.approx(np.array(want), abs=1e-8)


def test_rewards_of_views_judged_apart() -> None:
    # cross: view 0's scores are view 1's counts (2, 1), and the reverse (3, 1).
    assert judge(selector="cross", reward="score", **OFF).rewards.tolist() == [[2, 2, 2, 1], [3, 3, 1, 0]]
    assert judge(selector="cross", reward={"type": "soft_rank", "k": 2}, **OFF).rewards.tolist() == [[1, 1, 1, 0], [1, 1, 0, 0]]


def test_additive_penalties_act_on_wrong_answers() -> None:
    judged = judge(combine="additive", format_penalty=0.2, diversity_penalty=0, copy_penalty=0.1)
    assert judged.rewards[0].tolist() == [1, 1, 1, 0]
    assert judged.rewards[1].tolist() == pytest.approx([1, 0.75, -0.3, 0])


def test_no_answer_reward_in_the_fused_view() -> None:
    judged = judge(combine="additive", reward_fused_answers=False, format_penalty=0.2, diversity_penalty=0)
    assert judged.rewards[0].tolist() == [1, 1, 1, 0]
    assert judged.rewards[1].tolist() == pytest.approx([0, -0.2, -0.2, 0])


def test_negative_diversity_rewards_agreement() -> None:
    agreement = judge().metrics["reward/reframer/agreement"]
    assert 0 < agreement < 1
    judged = judge(format_penalty=0, diversity_penalty=-0.5)
    assert judged.rewards[1].tolist() == pytest.approx([1 + agreement / 2] * 2 + [0, 0])


def test_sharpness() -> None:
    # Two of four fused samples reach the label, one is wanted: (2 - 1)^2 / 4.
    judged = judge(sharpness={"weight": 0.4, "target": 0.25}, **OFF)
    assert judged.metrics["reward/reframer/sharpness"] == 0.25
    assert judged.rewards.tolist() == [[1, 1, 1, 0], pytest.approx([0.9, 0.9, 0, 0])]
    added = judge(sharpness={"weight": 0.4, "target": 0.25}, combine="additive", **OFF)
    assert added.rewards[1].tolist() == pytest.approx([0.9, 0.9, -0.1, -0.1])
    assert "reward/reframer/sharpness" not in judge().metrics


def test_gate_and_subtract_by_hand() -> None:
    terms = [(0.5, np.array([0.0, 1.0])), (0.2, 0.5)]
    assert gate(np.array([1.0, 1.0]), terms).tolist() == pytest.approx([0.9, 0.45])
    assert subtract(np.array([1.0, 0.0]), terms).tolist() == pytest.approx([0.9, -0.6])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reward_fused_answers": False}, "set combine to additive"),
        ({"reward_fused_answers": False, "combine": "additive", **OFF}, "without any reward"),
        ({"combine": "multiplied"}, "gated"),
        ({"sharpness": {"weight": 0.1}}, "target"),
        ({"sharpness": {"weight": 0, "target": 0.5}}, "greater than 0"),
        ({"sharpness": {"weight": 0.1, "target": 2}}, "less than or equal to 1"),
    ],
)
def test_impossible_combinations(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SelfHarmony.Options.model_validate(options)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("method.reward_fused_answers=false", "set combine to additive"),
        ("method.reward=harmonic", "unknown type 'harmonic' among rewards"),
        ("method.reward={type: soft_rank, kk: 3}", "did you mean 'k'"),
        ("method.reward={type: match, k: 3}", "unknown option"),
        ("method.reward.type=w3", "did you mean 'w"),
    ],
)
def test_a_config_names_the_mistake(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config("quickstart", [override])


@pytest.mark.parametrize("name", sorted(BUILT_IN["rewards"]))
def test_a_config_takes_every_reward(name: str) -> None:
    config = load_config("quickstart", [f"method.reward.type={name}"])
    assert config.method.options.reward.type == name  # type: ignore[attr-defined]
    assert load_config("quickstart", [f"method.reward={name}"]).method.options.reward.type == name  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", sorted(BUILT_IN["rewards"]))
def test_every_reward_is_finite_on_awkward_groups(name: str) -> None:
    for ids, num in [([[-1, -1], [0, -1]], [2, 2]), ([[0, 0], [0, -1]], [2, 1]), ([[-1], [-1]], [1, 1])]:
        table = np.array(ids)
        parsed = tuple(tuple(Reading(None) for _ in range(n)) for n in num)
        group = AnswerGroup("p", table, np.array(num), ("a",) if table.max() >= 0 else (), parsed)
        options = SelfHarmony.Options.model_validate({"reward": name, "selector": "majority"})
        context = MethodContext(("a", "b"), grader=None)  # type: ignore[arg-type]
        (judged,) = SelfHarmony(options, context).judge([group], 1)
        for v, n in enumerate(num):
            assert np.isfinite(judged.rewards[v, :n]).all()
            assert np.isnan(judged.rewards[v, n:]).all()
            assert not judged.rewards[v, :n][table[v, :n] < 0].any()
