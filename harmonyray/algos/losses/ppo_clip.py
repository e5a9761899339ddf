"""The clipped surrogate of PPO, with the bounds of DAPO and the dual clip."""

from __future__ import annotations

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from harmonyray.registry import PluginOptions


class PpoClip:
    """The clipped surrogate of PPO (arXiv 1707.06347, equation 7): −min(ρA, clip(ρ, 1 − clip_low, 1 + clip_high)A). Two bounds
    as in DAPO's clip-higher (arXiv 2503.14476, section 3.1)."""

    clips = True

    class Options(PluginOptions):
        clip_low: float = Field(0.2, gt=0, le=1, description="how far below 1 a ratio counts")
        clip_high: PositiveFloat = Field(0.2, description="how far above 1 a ratio counts; above clip_low: clip-higher")
        dual_clip: float | None = Field(
            None,
            gt=1,
            description="a negative advantage counts at most this many times (arXiv 1912.09729); null: no bound",
        )

    def __init__(self, options: Options) -> None:
        self.options = options

    def per_token(self, logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and whether the clip (not the dual one) was active, each [number of tokens]. Log-probs in nats."""
        ratio = (logprobs - old_logprobs).exp()
        clipped = ratio.clamp(1 - self.options.clip_low, 1 + self.options.clip_high)
        plain, bounded = -ratio * advantages, -clipped * advantages
        loss = torch.maximum(plain, bounded)
        if self.options.dual_clip is not None:
            loss = torch.where(advantages < 0, torch.minimum(loss, -self.options.dual_clip * advantages), loss)
        return loss, bounded > plain
