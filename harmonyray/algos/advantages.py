"""Rewards to advantages."""

from __future__ import annotations

from typing import Literal

import numpy as np

from harmonyray.registry import PluginOptions
from harmonyray.types import FloatArray

STD_EPS = 1e-6


class Grpo:
    """(r − mean) / (std + 1e-6) with the unbiased std (GRPO, arXiv 2402.03300, section 4.1.1).

    `group: view` normalises each view of a problem on its own, as published for Self-Harmony; `group: problem` normalises
    over all views of a problem together, where a factor that is constant within a view (the Jensen-Shannon penalty) acts too.
    """

    class Options(PluginOptions):
        group: Literal["view", "problem"] = "view"

    def __init__(self, options: Options) -> None:
        self.options = options

    def advantages(self, rewards: FloatArray) -> FloatArray:
        """Advantages of one problem, float[V, N], from its rewards float[V, N] (nan: absent or untrained, stays nan)."""
        if self.options.group == "problem":
            return normalise(rewards)
        return np.stack([normalise(row) for row in rewards])


def normalise(rewards: FloatArray) -> FloatArray:
    """Group-normalised rewards; a group of one has mean 0 and std 1, so it keeps its reward. nan is ignored and kept."""
    present = rewards[~np.isnan(rewards)]
    if len(present) < 2:
        return rewards / (1 + STD_EPS)
    return (rewards - present.mean()) / (present.std(ddof=1) + STD_EPS)
