"""REINFORCE with importance weights of its own, for rollouts of an older policy."""

from __future__ import annotations

from pydantic import Field, PositiveFloat
from torch import Tensor

from harmonyray.registry import PluginOptions


class TruncatedIs:
    """REINFORCE with truncated importance weights (arXiv 1802.01561, section 4.1, without the values): −min(ρ, cap)·A·log π, no
    gradient through the weight. For rollouts of an older policy: what is more likely now counts more, up to the cap."""

    corrects_lag = True

    class Options(PluginOptions):
        cap: PositiveFloat = Field(2.0, description="the largest weight; takes the place of objective.importance")

    def __init__(self, options: Options) -> None:
        self.options = options

    def per_token(self, logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and whether the weight was truncated, each [number of tokens]. Log-probs in nats."""
        ratio = (logprobs.detach() - old_logprobs).exp()
        return -ratio.clamp(max=self.options.cap) * advantages * logprobs, ratio > self.options.cap
