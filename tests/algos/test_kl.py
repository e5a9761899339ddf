"""The KL estimates by hand; the recorded ones are in test_objective_recorded.py."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harmonyray.algos.kl import KL_ESTIMATES, absolute, k1, k2, k3


def test_k3_by_hand() -> None:
    # d = ref - logp = ln 2: 2 - ln 2 - 1; d = -ln 2: 1/2 + ln 2 - 1.
    got = k3(torch.tensor([-2.0, -2.0, -2.0]), torch.tensor([-2 + math.log(2), -2 - math.log(2), -2.0]))
    assert got.tolist() == pytest.approx([1 - math.log(2), math.log(2) - 0.5, 0.0], abs=1e-6)


def test_the_others_by_hand_with_their_gradients() -> None:
    for estimate, want, slope in (
        (k1, [-0.5, 2.0], [1.0, 1.0]),
        (k2, [0.125, 2.0], [-0.5, 2.0]),
        (absolute, [0.5, 2.0], [-1.0, 1.0]),
    ):
        x = torch.tensor([-1.5, -1.0], requires_grad=True)
        value = estimate(x, torch.tensor([-1.0, -3.0]))
        value.sum().backward()
        assert value.tolist() == pytest.approx(want)
        assert x.grad is not None
        assert x.grad.tolist() == pytest.approx(slope)


def test_k3_is_bounded() -> None:
    got = k3(torch.tensor([-50.0, -11.0, 0.0, 0.0]), torch.tensor([0.0, -1.0, -10.0, -50.0]))
    assert got.tolist() == pytest.approx([math.exp(10) - 11, math.exp(10) - 11, math.exp(-10) + 9, math.exp(-10) + 9], rel=1e-4)


@given(st.floats(-8, 0), st.floats(-8, 0))
def test_k3_is_never_negative_and_its_slope_points_to_the_reference(logp: float, reference: float) -> None:
    x = torch.tensor(logp, dtype=torch.float64, requires_grad=True)
    value = k3(x, torch.tensor(reference, dtype=torch.float64))
    value.backward()
    assert float(value.detach()) >= 0
    # d/dlogp (exp(ref - logp) - (ref - logp) - 1) = 1 - exp(ref - logp)
    assert float(x.grad) == pytest.approx(1 - math.exp(reference - logp), rel=1e-9, abs=1e-12)  # type: ignore[arg-type]


P, Q = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64), torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
KL = float((P * (P / Q).log()).sum())


@pytest.mark.parametrize("name", ["k1", "k3"])
def test_their_mean_over_the_policys_samples_is_the_kl(name: str) -> None:
    """Exactly so when summed over the vocabulary."""
    assert float((P * KL_ESTIMATES[name](P.log(), Q.log())).sum()) == pytest.approx(KL)


def mean_gradient(name: str) -> torch.Tensor:
    """Of the logits, as a loss term gives it: the mean over the policy's samples of the estimate's own gradient."""
    logits = P.log().requires_grad_()
    (P * KL_ESTIMATES[name](torch.log_softmax(logits, -1), Q.log())).sum().backward()
    assert logits.grad is not None
    return logits.grad


def test_what_a_loss_term_of_each_does_on_average() -> None:
    logits = P.log().requires_grad_()
    logp = torch.log_softmax(logits, -1)
    (logp.exp() * (logp - Q.log())).sum().backward()
    assert logits.grad is not None
    assert mean_gradient("k2").tolist() == pytest.approx(logits.grad.tolist())
    assert mean_gradient("k1").tolist() == pytest.approx([0, 0, 0], abs=1e-12)
    # k3's: p - q, the gradient of the KL the other way round.
    assert mean_gradient("k3").tolist() == pytest.approx((P - Q).tolist())


@pytest.mark.parametrize(("name", "exact"), [("k1", True), ("k2", False), ("k3", False)])
def test_in_the_reward_k1_has_the_gradient_of_the_kl(name: str, exact: bool) -> None:
    """The mean over the policy's samples of what the policy loss does with minus the estimate as advantage."""
    logits = P.log().requires_grad_()
    logp = torch.log_softmax(logits, -1)
    (P * KL_ESTIMATES[name](logp.detach(), Q.log()) * logp).sum().backward()
    wanted = P * ((P / Q).log() - KL)  # of the logits, by hand
    assert logits.grad is not None
    assert (logits.grad.tolist() == pytest.approx(wanted.tolist())) == exact
