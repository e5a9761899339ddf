"""What an answer earns, as plug-ins: the part of self_harmony's reward that its penalties then act on.

A plug-in has `rewards(answers, consensus, v)`: one number for each sample of view v. Samples without an answer earn 0. Views
without a pseudo-label are left out of the update whatever they earn. Letters: N samples of view v, C clusters, V views.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, Protocol

import numpy as np
from pydantic import Field

from harmonyray.algos.rewards import answer_match, score_reward, soft_rank
from harmonyray.algos.transport import (
    fused_distribution,
    kl_distance,
    kl_per_sample,
    w1_distance,
    w1_per_sample,
    w2_distance,
    w2_per_sample,
)
from harmonyray.registry import PluginOptions, PluginSpec
from harmonyray.types import AnswerGroup, Consensus, FloatArray


class AnswerReward(Protocol):
    """The rewards float[N] of view v's own samples."""

    def rewards(self, group: AnswerGroup, consensus: Consensus, v: int) -> FloatArray: ...


class RewardSpec(PluginSpec):
    """A reward by name with its options, as in the YAML: `{type: soft_rank, k: 4}` or just `match`."""

    kind = "rewards"

    def build(self) -> AnswerReward:
        """The reward this names."""
        reward: AnswerReward = super().build()
        return reward


def _ids(group: AnswerGroup, v: int) -> Any:
    return group.cluster_ids[v, : group.num_samples[v]]


def _view_scores(consensus: Consensus, v: int) -> FloatArray:
    return consensus.scores[:, v] if consensus.scores.ndim == 2 else consensus.scores


class Match:
    """1 for the pseudo-label, else 0, in {0, 1} (Self-Harmony, arXiv 2511.01191)."""

    class Options(PluginOptions):
        pass

    def __init__(self, options: Options) -> None:
        pass

    def rewards(self, group: AnswerGroup, consensus: Consensus, v: int) -> FloatArray:
        return answer_match(_ids(group, v), consensus.label[v])


class SoftRank:
    """1 - rank / (k - 1) by the selector's score, in [0, 1]: 1 for the best cluster, 0 from rank k - 1 on and without a
    positive score (the published soft reward, k = 8)."""

    class Options(PluginOptions):
        k: int = Field(default=8, ge=2, description="ranks that earn anything, plus one")

    def __init__(self, options: Options) -> None:
        self.options = options

    def rewards(self, group: AnswerGroup, consensus: Consensus, v: int) -> FloatArray:
        return soft_rank(_ids(group, v), _view_scores(consensus, v), self.options.k)


class Score:
    """The selector's score of the sample's own cluster; with `harmonic` the direct harmonic reward, in [0, 1]. In the units of
    the selector's score otherwise (advantages undo the scale, penalties that are subtracted do not)."""

    class Options(PluginOptions):
        pass

    def __init__(self, options: Options) -> None:
        pass

    def rewards(self, group: AnswerGroup, consensus: Consensus, v: int) -> FloatArray:
        return score_reward(_ids(group, v), _view_scores(consensus, v))


class TransportOptions(PluginOptions):
    """`per_sample` false gives every answered sample of a view the same reward, 1 at distance 0 and 0 at the largest possible
    one, as published; advantages within a view (`advantage.group: view`) see only who answered at all."""

    per_sample: bool = Field(default=True, description="each sample by its own answer's part in the distance")


class _Transport(ABC):
    """The pseudo-label plays no part in it but for deciding which problems are trained on."""

    def __init__(self, options: Any) -> None:
        self.options = options

    def rewards(self, group: AnswerGroup, consensus: Consensus, v: int) -> FloatArray:
        p, fused = fused_distribution(consensus.support, group.num_samples)
        share = float(group.num_samples[v] / max(int(group.num_samples.sum()), 1))
        value = self.by_sample if self.options.per_sample else self.by_view
        per_bucket = np.broadcast_to(value(p[:, v], fused, share), fused.shape).copy()
        per_bucket[-1] = 0.0  # no answer; also what index -1 finds
        out: FloatArray = per_bucket[_ids(group, v)]
        return out

    @abstractmethod
    def by_sample(self, p: FloatArray, fused: FloatArray, share: float) -> FloatArray:
        """The reward of a sample in each bucket of answers, float[C + 1]."""

    @abstractmethod
    def by_view(self, p: FloatArray, fused: FloatArray, share: float) -> float:
        """One reward for all samples of the view."""


class W1(_Transport):
    """Nearness of the view's answers to all views' by the Wasserstein-1 distance, in [0, 1]; the pseudo-label earns nothing
    of itself."""

    class Options(TransportOptions):
        pass

    def by_sample(self, p: FloatArray, fused: FloatArray, share: float) -> FloatArray:
        return w1_per_sample(p, fused)

    def by_view(self, p: FloatArray, fused: FloatArray, share: float) -> float:
        return 1.0 - w1_distance(p, fused)


class W2(_Transport):
    """Nearness of the view's answers to all views' by the squared Euclidean distance that is published as "w2": 1 - w2 / 2 in
    [0, 1], or per sample in [0, 2]."""

    class Options(TransportOptions):
        pass

    def by_sample(self, p: FloatArray, fused: FloatArray, share: float) -> FloatArray:
        return w2_per_sample(p, fused)

    def by_view(self, p: FloatArray, fused: FloatArray, share: float) -> float:
        return 1.0 - w2_distance(p, fused) / 2.0


class Kl(_Transport):
    """Nearness of the view's answers to all views' by the Kullback-Leibler divergence over its largest possible value, in
    [0, 1], or per sample from 0 with no upper bound but that of the counts."""

    class Options(TransportOptions):
        pass

    def by_sample(self, p: FloatArray, fused: FloatArray, share: float) -> FloatArray:
        return kl_per_sample(p, fused, share)

    def by_view(self, p: FloatArray, fused: FloatArray, share: float) -> float:
        return 1.0 if share >= 1.0 else 1.0 - kl_distance(p, fused) / -math.log(share)
