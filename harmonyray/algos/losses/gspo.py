"""The clipped surrogate with one ratio for a whole response."""

from __future__ import annotations

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from harmonyray.algos.token_rows import row_means
from harmonyray.registry import PluginOptions


class Gspo:
    """The clipped surrogate with the geometric mean of a response's token ratios as the ratio of all its tokens (GSPO, arXiv
    2507.18071, equations 5 and 7)."""

    clips = True

    class Options(PluginOptions):
        clip_low: float = Field(3e-4, gt=0, le=1, description="how far below 1 a response's ratio counts")
        clip_high: PositiveFloat = Field(4e-4, description="how far above 1 a response's ratio counts")

    def __init__(self, options: Options) -> None:
        self.options = options

    def per_token(self, logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and whether the clip was active, each [number of tokens]. Log-probs in nats.

        A token's gradient is that of its own log-prob alone (GSPO-token, equation 14), so that an aggregation can weigh tokens.
        """
        of_row = row_means((logprobs - old_logprobs).detach(), rows)
        ratio = (of_row[rows] + logprobs - logprobs.detach()).exp()
        clipped = ratio.clamp(1 - self.options.clip_low, 1 + self.options.clip_high)
        plain, bounded = -ratio * advantages, -clipped * advantages
        return torch.maximum(plain, bounded), bounded > plain
