"""Learning rates over a run."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, PositiveFloat

from harmonyray.registry import PluginOptions


class ScheduleOptions(PluginOptions):
    """What every learner's rate follows."""

    lr: PositiveFloat = 3e-6
    schedule: Literal["constant", "cosine"] = "cosine"
    warmup_share: float = Field(0.1, ge=0, lt=1, description="share of the run's steps in which the rate rises linearly")


def learning_rate(options: ScheduleOptions, step: int, steps: int) -> float:
    """The rate of `step` (from 1) in a run of `steps`."""
    warmup = max(1, round(options.warmup_share * steps)) if options.warmup_share else 0
    if step <= warmup:
        return options.lr * step / warmup
    if options.schedule == "constant":
        return options.lr
    progress = (step - 1 - warmup) / max(1, steps - warmup)
    return options.lr * 0.5 * (1 + math.cos(math.pi * progress))
