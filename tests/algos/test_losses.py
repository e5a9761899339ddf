"""The clipped loss and the KL by hand, and with the advantages against what an established GRPO framework computes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from harmonyray.algos.advantages import Grpo
from harmonyray.algos.losses import PpoClip, TruncatedIs, kl_k3

SHIPPED = Path(__file__).parent / "data" / "grpo_cases.jsonl"
RECORDED = Path(__file__).resolve().parents[3] / "shared" / "data" / "golden" / "grpo_dev.jsonl"
needs_recorded = pytest.mark.skipif(not RECORDED.exists(), reason="the shared golden data is not beside this checkout")
SOURCES = [pytest.param(SHIPPED, id="shipped"), pytest.param(RECORDED, id="recorded", marks=needs_recorded)]


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def loss(logprob: float, old: float, advantage: float, clip: float = 0.2) -> tuple[float, bool, float]:
    """Loss, whether the clip was active, and the derivative by the log-prob, of one token."""
    x = torch.tensor([logprob], dtype=torch.float64, requires_grad=True)
    value, clipped = PpoClip(PpoClip.Options(clip=clip)).per_token(x, torch.tensor([old]), torch.tensor([advantage]))
    value.sum().backward()
    assert x.grad is not None
    return float(value.detach()), bool(clipped), float(x.grad)


# --- by hand ---------------------------------------------------------------------------------------------------------


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
    got = loss(-1.0 + math.log(ratio), -1.0, advantage)
    assert got[0] == pytest.approx(want, abs=1e-6)
    assert got[1] is clipped
    assert got[2] == pytest.approx(slope, abs=1e-6)


def test_the_clip_option() -> None:
    assert loss(math.log(1.5), 0.0, 1.0, clip=0.4)[0] == pytest.approx(-1.4)
    assert loss(math.log(1.5), 0.0, 1.0, clip=0.6)[:2] == (pytest.approx(-1.5), False)
    with pytest.raises(ValidationError):
        PpoClip.Options(clip=0)
    with pytest.raises(ValidationError):
        PpoClip.Options.model_validate({"epsilon": 0.2})


def test_loss_keeps_the_shape() -> None:
    shape = (3, 5)
    value, clipped = PpoClip(PpoClip.Options()).per_token(torch.zeros(shape), torch.zeros(shape), torch.ones(shape))
    assert value.shape == clipped.shape == shape
    assert clipped.dtype == torch.bool


def test_kl_by_hand() -> None:
    # d = ref - logp = ln 2: 2 - ln 2 - 1; d = -ln 2: 1/2 + ln 2 - 1.
    got = kl_k3(torch.tensor([-2.0, -2.0, -2.0]), torch.tensor([-2 + math.log(2), -2 - math.log(2), -2.0]))
    assert got.tolist() == pytest.approx([1 - math.log(2), math.log(2) - 0.5, 0.0], abs=1e-6)


def test_kl_is_bounded() -> None:
    got = kl_k3(torch.tensor([-50.0, -11.0, 0.0, 0.0]), torch.tensor([0.0, -1.0, -10.0, -50.0]))
    assert got.tolist() == pytest.approx([math.exp(10) - 11, math.exp(10) - 11, math.exp(-10) + 9, math.exp(-10) + 9], rel=1e-4)


@given(st.floats(-8, 0), st.floats(-8, 0))
def test_kl_is_never_negative_and_its_slope_points_to_the_reference(logp: float, reference: float) -> None:
    x = torch.tensor(logp, dtype=torch.float64, requires_grad=True)
    value = kl_k3(x, torch.tensor(reference, dtype=torch.float64))
    value.backward()
    assert float(value.detach()) >= 0
    # d/dlogp (exp(ref - logp) - (ref - logp) - 1) = 1 - exp(ref - logp)
    assert float(x.grad) == pytest.approx(1 - math.exp(reference - logp), rel=1e-9, abs=1e-12)  # type: ignore[arg-type]


def test_kl_estimates_the_kl() -> None:
    """Its mean over the policy's own samples is the KL divergence, exactly so when summed over the vocabulary."""
    p, q = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64), torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    want = float((p * (p / q).log()).sum())
    assert float((p * kl_k3(p.log(), q.log())).sum()) == pytest.approx(want)


# --- against recorded values -----------------------------------------------------------------------------------------


def recorded_advantages(row: dict[str, Any]) -> np.ndarray:
    """Our advantages of a recorded case, float[B]: its groups stand in for a problem's views."""
    group, reward = np.array(row["group"]), np.array(row["reward"])
    out = np.zeros(len(group))
    for g in sorted(set(row["group"])):
        out[group == g] = Grpo(Grpo.Options()).advantages(reward[None, group == g])[0]
    return out


def recorded_loss(row: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Token-mean loss, clip fraction and gradient of a recorded case.

    The framework clips up and down by different amounts, and bounds the loss of a negative advantage by `dual_clip` times
    its size. Which side can act depends on the advantage's sign alone, so two of our losses make up theirs; the dual
    bound, which we do not have, is added here.
    """
    mask = torch.tensor(row["mask"], dtype=torch.bool)
    x = torch.tensor(row["new_logprob"], requires_grad=True)
    old = torch.tensor(row["old_logprob"])
    advantage = torch.tensor(recorded_advantages(row), dtype=torch.float32)[:, None].expand(mask.shape)
    up, clipped_up = PpoClip(PpoClip.Options(clip=row["clip_high"])).per_token(x, old, advantage)
    down, clipped_down = PpoClip(PpoClip.Options(clip=row["clip_low"])).per_token(x, old, advantage)
    per_token = torch.where(advantage >= 0, up, torch.minimum(down, -row["dual_clip"] * advantage))
    clipped = torch.where(advantage >= 0, clipped_up, clipped_down)
    value = per_token[mask].mean()
    value.backward()
    assert x.grad is not None
    return value.detach(), clipped[mask].float().mean(), x.grad


@pytest.mark.parametrize("path", SOURCES)
def test_advantages_against_recorded(path: Path) -> None:
    cases = rows(path)
    assert len(cases) >= (4 if path == SHIPPED else 30)
    for row in cases:
        assert recorded_advantages(row) == pytest.approx(np.array(row["expected"]["adv_grpo"]), abs=1e-5), row["id"]


@pytest.mark.parametrize("path", SOURCES)
def test_loss_clip_fraction_and_gradient_against_recorded(path: Path) -> None:
    for row in rows(path):
        want = row["expected"]["loss_ppo_clip_token-mean"]
        value, clip_fraction, gradient = recorded_loss(row)
        assert float(value) == pytest.approx(want["loss"], abs=1e-5), row["id"]
        assert float(clip_fraction) == pytest.approx(want["clip_fraction"], abs=1e-5), row["id"]
        assert gradient.numpy() == pytest.approx(np.array(want["grad_logprob"]), abs=1e-5), row["id"]


@pytest.mark.parametrize("path", SOURCES)
def test_kl_against_recorded(path: Path) -> None:
    for row in rows(path):
        mask = np.array(row["mask"], dtype=bool)
        got = kl_k3(torch.tensor(row["new_logprob"]), torch.tensor(row["ref_logprob"])).numpy()
        assert got[mask] == pytest.approx(np.array(row["expected"]["kl_k3"])[mask], abs=1e-5), row["id"]


def test_truncated_importance_weights_by_hand() -> None:
    """Ratios 1, e (cut to 2) and 1/2: losses −ρ·A·log π and gradients −ρ·A, the weight without one."""
    old = torch.tensor([-1.0, -2.0, math.log(0.5)])
    new = torch.tensor([-1.0, -1.0, math.log(0.25)], requires_grad=True)
    advantages = torch.tensor([2.0, 1.0, -4.0])
    loss, cut = TruncatedIs(TruncatedIs.Options(cap=2.0)).per_token(new, old, advantages)
    assert loss.tolist() == pytest.approx([2.0, 2.0, 2.0 * math.log(0.25)])
    assert cut.tolist() == [False, True, False]
    loss.sum().backward()
    assert new.grad is not None
    assert new.grad.tolist() == pytest.approx([-2.0, -2.0, 2.0])
