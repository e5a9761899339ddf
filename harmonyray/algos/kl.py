"""Estimates of KL(policy ‖ reference) per token, from the log-probs of the sampled token (nats) under both.

Sources: k1, k2, k3 are J. Schulman's (http://joschu.net/blog/kl-approx.html, 2020). Over the policy's own samples k1 and k3 have
the KL as their mean. What a loss term does is in the gradients: that of k2 is the KL's on average, k3's is near it close to the
reference, k1's is zero on average, and that of abs has the same size wherever the two differ. In the reward it is k1
whose gradient is the KL's on average.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

K3_BOUND = 10.0


def k1(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """policy − reference."""
    return logprobs - reference_logprobs


def k2(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """(policy − reference)² / 2."""
    return (logprobs - reference_logprobs).square() / 2


def k3(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """exp(d) − d − 1 with d = reference − policy bounded to ±10."""
    d = (reference_logprobs - logprobs).clamp(-K3_BOUND, K3_BOUND)
    return d.exp() - d - 1


def absolute(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """|policy − reference|."""
    return (logprobs - reference_logprobs).abs()


KL_ESTIMATES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"k1": k1, "k2": k2, "k3": k3, "abs": absolute}
