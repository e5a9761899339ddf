"""Policy losses, per token, and the KL estimate. torch only; nothing distributed."""

from __future__ import annotations

import torch
from pydantic import PositiveFloat
from torch import Tensor

from harmonyray.registry import PluginOptions

KL_BOUND = 10.0


class PpoClip:
    """The clipped surrogate of PPO (arXiv 1707.06347, equation 7): −min(ρA, clip(ρ, 1−ε, 1+ε)A)."""

    class Options(PluginOptions):
        clip: PositiveFloat = 0.2

    def __init__(self, options: Options) -> None:
        self.options = options

    def per_token(self, logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and whether the clip was active, each of the inputs' shape. Log-probs in nats."""
        ratio = (logprobs - old_logprobs).exp()
        clipped = ratio.clamp(1 - self.options.clip, 1 + self.options.clip)
        plain, bounded = -ratio * advantages, -clipped * advantages
        return torch.maximum(plain, bounded), bounded > plain


class TruncatedIs:
    """REINFORCE with truncated importance weights (arXiv 1802.01561, section 4.1, without the values): −min(ρ, cap)·A·log π, no
    gradient through the weight. For rollouts of an older policy: what is more likely now counts more, up to the cap."""

    corrects_lag = True

    class Options(PluginOptions):
        cap: PositiveFloat = 2.0

    def __init__(self, options: Options) -> None:
        self.options = options

    def per_token(self, logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and whether the weight was truncated, each of the inputs' shape. Log-probs in nats."""
        ratio = (logprobs.detach() - old_logprobs).exp()
        return -ratio.clamp(max=self.options.cap) * advantages * logprobs, ratio > self.options.cap


def kl_k3(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """The k3 estimate of KL(policy ‖ reference) per token, exp(d) − d − 1 with d = reference − policy bounded to ±10."""
    d = (reference_logprobs - logprobs).clamp(-KL_BOUND, KL_BOUND)
    return d.exp() - d - 1
