"""Rewards to advantages, as plug-ins. Letters: V views, N samples per view."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import numpy as np
from pydantic import Field

from harmonyray.registry import PluginOptions
from harmonyray.types import FloatArray

STD_EPS = 1e-6


class AdvantageOptions(PluginOptions):
    """What all of them have."""

    group: Literal["view", "problem"] = Field(
        "view",
        description="whose rewards are compared: each view's of a problem on their own, as published for Self-Harmony, or those "
        "of all its views, where a factor that is constant within a view acts too",
    )


class _Grouped(ABC):
    """A group is compared with itself; one with a single reward has nothing to be compared with and keeps it."""

    def __init__(self, options: AdvantageOptions) -> None:
        self.options = options

    def advantages(self, rewards: FloatArray) -> FloatArray:
        """Advantages of one problem, float[V, N], from its rewards float[V, N] (nan: absent or untrained, stays nan)."""
        if self.options.group == "problem":
            return self._compared(rewards)
        return np.stack([self._compared(row) for row in rewards])

    def _compared(self, rewards: FloatArray) -> FloatArray:
        present = rewards[~np.isnan(rewards)]
        return self.compare(rewards, present) if len(present) > 1 else self.alone(rewards)

    def alone(self, rewards: FloatArray) -> FloatArray:
        return rewards.copy()

    @abstractmethod
    def compare(self, rewards: FloatArray, present: FloatArray) -> FloatArray:
        """Advantages of `rewards`, of which `present` are no nan: two at least."""


class Grpo(_Grouped):
    """(r − mean) / (std + 1e-6) with the unbiased std (GRPO, arXiv 2402.03300, section 4.1.1). A group of one has mean 0 and
    std 1."""

    class Options(AdvantageOptions):
        pass

    def alone(self, rewards: FloatArray) -> FloatArray:
        return rewards / (1 + STD_EPS)

    def compare(self, rewards: FloatArray, present: FloatArray) -> FloatArray:
        return (rewards - present.mean()) / (present.std(ddof=1) + STD_EPS)


class DrGrpo(_Grouped):
    """r − mean: without the std, which weighs up problems that are nearly always or nearly never solved (Dr. GRPO, arXiv
    2503.20783). Goes with `objective.aggregation: seq-mean-token-sum-norm`."""

    class Options(AdvantageOptions):
        pass

    def compare(self, rewards: FloatArray, present: FloatArray) -> FloatArray:
        return rewards - present.mean()


class Rloo(_Grouped):
    """r − the mean of the others' rewards: an unbiased baseline (REINFORCE leave-one-out, arXiv 2402.14740)."""

    class Options(AdvantageOptions):
        pass

    def compare(self, rewards: FloatArray, present: FloatArray) -> FloatArray:
        return (rewards - present.mean()) * (len(present) / (len(present) - 1))
