"""REINFORCE with a clipped ratio as weight: no token loses its gradient."""

from __future__ import annotations

from pydantic import Field, PositiveFloat
from torch import Tensor

from harmonyray.registry import PluginOptions


class Cispo:
    """−clip(ρ, 1 − clip_low, 1 + clip_high)·A·log π, no gradient through the clipped ratio (CISPO, arXiv 2506.13585, equations 4
    and 5). As published there is no lower bound."""

    clips = True

    class Options(PluginOptions):
        clip_low: float = Field(1.0, gt=0, le=1, description="how far below 1 a ratio counts; 1: no lower bound")
        clip_high: PositiveFloat = Field(1.0, description="how far above 1 a ratio counts")

    def __init__(self, options: Options) -> None:
        self.options = options

    def per_token(self, logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and whether the ratio was clipped, each [number of tokens]. Log-probs in nats."""
        ratio = (logprobs.detach() - old_logprobs).exp()
        weight = ratio.clamp(1 - self.options.clip_low, 1 + self.options.clip_high)
        return -weight * advantages * logprobs, weight != ratio
