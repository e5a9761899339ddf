"""The policy losses by hand; the recorded ones are in test_objective_recorded.py."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from harmonyray.algos.losses.cispo import Cispo
from harmonyray.algos.losses.gspo import Gspo
from harmonyray.algos.losses.ppo_clip import PpoClip
from harmonyray.algos.losses.truncated_is import TruncatedIs
from harmonyray.protocols import Loss


def computed(
    loss: Loss, ratios: list[float], advantages: list[float], rows: list[int] | None = None
) -> tuple[list[float], list[bool], list[float]]:
    """Loss, whether the clip was active, and the derivative by the log-prob, of every token; the old log-probs are -1."""
    x = (torch.tensor(ratios, dtype=torch.float64).log() - 1).requires_grad_()
    old = torch.full_like(x, -1).detach()
    value, clipped = loss.per_token(x, old, torch.tensor(advantages), torch.tensor(rows or [0] * len(ratios)))
    value.sum().backward()
    assert x.grad is not None
    assert clipped.dtype == torch.bool
    return value.tolist(), clipped.tolist(), x.grad.tolist()


def ppo(**options: Any) -> PpoClip:
    return PpoClip(PpoClip.Options(**options))


@pytest.mark.parametrize(
    ("ratio", "advantage", "want", "clipped", "slope"),
    [
        (1.0, 2.0, -2.0, False, -2.0),
        (1.1, 2.0, -2.2, False, -2.2),
        (1.5, 2.0, -2.4, True, 0.0),  # no reward for going further up
        (0.5, 2.0, -1.0, False, -1.0),  # the way back is open
        (1.0, -2.0, 2.0, False, 2.0),
        (0.9, -2.0, 1.8, False, 1.8),
        (0.5, -2.0, 1.6, True, 0.0),
        (1.5, -2.0, 3.0, False, 3.0),
        (7.0, 0.0, 0.0, False, 0.0),
    ],
)
def test_clipped_loss(ratio: float, advantage: float, want: float, clipped: bool, slope: float) -> None:
    assert computed(ppo(), [ratio], [advantage]) == (pytest.approx([want]), [clipped], pytest.approx([slope]))


def test_each_bound_acts_on_its_own_side() -> None:
    higher = ppo(clip_low=0.1, clip_high=0.4)
    assert computed(higher, [1.3, 1.5], [1.0, 1.0]) == (pytest.approx([-1.3, -1.4]), [False, True], pytest.approx([-1.3, 0]))
    assert computed(higher, [0.95, 0.8], [-1.0, -1.0]) == (pytest.approx([0.95, 0.9]), [False, True], pytest.approx([0.95, 0]))


def test_the_dual_clip_bounds_what_a_negative_advantage_can_do() -> None:
    ratios, advantages = [5.0, 2.9, 5.0, 0.5], [-2.0, -2.0, 2.0, -2.0]
    assert computed(ppo(dual_clip=3.0), ratios, advantages) == (
        pytest.approx([6.0, 5.8, -2.4, 1.6]),
        [False, False, True, True],
        pytest.approx([0.0, 5.8, 0.0, 0.0]),
    )
    assert computed(ppo(), ratios, advantages)[0][0] == pytest.approx(10.0)


@pytest.mark.parametrize("bad", [{"clip_low": 0}, {"clip_low": 1.1}, {"clip_high": 0}, {"dual_clip": 1.0}, {"clip": 0.2}])
def test_bad_options(bad: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        PpoClip.Options.model_validate(bad)


def test_gspo_has_one_ratio_for_a_response() -> None:
    """Ratios 2 and 1/2 in one response (geometric mean 1), 1.5 and 1.5 in the other, which is clipped as a whole at 1.2."""
    loss = Gspo(Gspo.Options(clip_low=0.2, clip_high=0.2))
    got = computed(loss, [2.0, 0.5, 1.5, 1.5], [3.0, 3.0, 3.0, 3.0], [0, 0, 1, 1])
    assert got == (pytest.approx([-3, -3, -3.6, -3.6]), [False, False, True, True], pytest.approx([-3, -3, 0, 0]))
    # A negative advantage goes on: 1.5 is on its own side.
    assert computed(loss, [2.25, 1.0], [-1.0, -1.0])[::2] == (pytest.approx([1.5, 1.5]), pytest.approx([1.5, 1.5]))


def test_cispo_keeps_every_tokens_gradient() -> None:
    """Losses -w A log pi and gradients -w A with w the clipped ratio."""
    loss = Cispo(Cispo.Options(clip_low=0.5, clip_high=1.0))
    value, clipped, slope = computed(loss, [3.0, 0.25, 1.5], [1.0, -2.0, 2.0])
    assert slope == pytest.approx([-2.0, 1.0, -3.0])
    assert clipped == [True, True, False]
    assert value == pytest.approx([-2 * (math.log(3) - 1), math.log(0.25) - 1, -3 * (math.log(1.5) - 1)])
    assert computed(Cispo(Cispo.Options()), [0.01], [1.0])[1] == [False]  # as published, no lower bound


def test_truncated_importance_weights_by_hand() -> None:
    """Ratios 1, e (cut to 2) and 1/2: losses -w A log pi and gradients -w A, the weight without one."""
    value, cut, slope = computed(TruncatedIs(TruncatedIs.Options(cap=2.0)), [1.0, math.e, 0.5], [2.0, 1.0, -4.0])
    assert value == pytest.approx([2.0, 0.0, 2.0 * (math.log(0.5) - 1)])
    assert cut == [False, True, False]
    assert slope == pytest.approx([-2.0, -2.0, 2.0])
