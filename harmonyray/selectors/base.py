"""What every selector shares: checking the counts, frequencies, ties, margin and abstention.

Numpy only, integers in: a selector never sees an answer's text. Letters: C clusters, V views.

Ties are judged with a tolerance, because equal scores computed in a different order (a harmonic mean of thirds, say)
differ in their last bits: two scores are equal, and a score is zero, within `TOLERANCE * max(1, |best score|)`. That is
thousands of times the rounding error and below the smallest real difference at thousands of samples per view.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field, field_validator

from harmonyray.errors import ConfigError
from harmonyray.registry import PluginOptions
from harmonyray.types import Consensus, FloatArray, IntArray

TOLERANCE = 1e-12


class AbstainOptions(PluginOptions):
    """When to give no label: the best score is under `min_score`, or leads the runner-up by less than `min_margin`
    (both in the units of the selector's score)."""

    min_score: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)
    min_margin: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)


class SelectorOptions(AbstainOptions):
    """What every scoring selector can be told. `smoothing` is added to each view's count of each cluster (Laplace: 1)
    before scoring; a view's number of samples grows by the same total, so its frequencies still sum to at most 1."""

    smoothing: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)


class WeightedOptions(SelectorOptions):
    """`weights` [V], one per view in the run's order; only their proportions matter. None weighs all views alike."""

    weights: tuple[float, ...] | None = None

    @field_validator("weights")
    @classmethod
    def _usable(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if value is not None:
            check_proportions(value, "weights")
        return value


def check_proportions(values: tuple[float, ...], what: str) -> None:
    """Raises ValueError unless `values` are finite, none negative, with a positive sum."""
    if not all(np.isfinite(x) and x >= 0 for x in values) or not sum(values) > 0:
        raise ValueError(f"{what} must be finite numbers, none negative and not all zero")


def view_weights(weights: tuple[float, ...] | None, num_views: int) -> FloatArray:
    """Weights float[V] that sum to 1. Raises ConfigError when there is not one per view."""
    if weights is None:
        return np.full(num_views, 1.0 / num_views)
    if len(weights) != num_views:
        raise ConfigError(
            f"option 'weights' has {len(weights)} entries but there are {num_views} views: give one weight per view"
        )
    out = np.asarray(weights, dtype=np.float64)
    return out / out.sum()


@dataclass(frozen=True, slots=True)
class Votes:
    """The checked input of a selector: `counts` int[C, V] and `num_samples` int[V]."""

    counts: IntArray
    num_samples: IntArray

    @property
    def support(self) -> FloatArray:
        """Frequencies p[c, v] = counts / num_samples, float[C, V]; 0 for a view without samples."""
        return frequencies(self.counts.astype(np.float64), self.num_samples.astype(np.float64))


def frequencies(counts: FloatArray, num_samples: FloatArray) -> FloatArray:
    """p[c, v] = counts[c, v] / num_samples[v], float[C, V] in [0, 1]; 0 where num_samples[v] is 0."""
    return counts / np.where(num_samples > 0, num_samples, 1)


def _integers(values: Any, what: str) -> IntArray:
    """`values` as int64; raises ConfigError for anything but integers that are not negative."""
    try:
        array = np.asarray(values)
    except ValueError as e:
        raise ConfigError(f"{what} must be a rectangular array of integers: {e}") from e
    if array.size and array.dtype.kind not in "iu":
        raise ConfigError(
            f"{what} must hold integers, got {array.dtype}: count samples per cluster, never pass answers or shares"
        )
    if array.size and array.min() < 0:
        raise ConfigError(f"{what} must not be negative, got {array.min()}")
    return array.astype(np.int64)


def check_votes(counts: Any, num_samples: Any) -> Votes:
    """The input of a selector, checked: counts int[C, V] (C may be 0) and num_samples int[V], V >= 1.

    Raises ConfigError for a wrong shape, for values that are no counts, and for a view with more votes than samples.
    """
    n = _integers(num_samples, "num_samples")
    c = _integers(counts, "counts")
    if n.ndim != 1 or n.size == 0:
        raise ConfigError(f"num_samples must be one integer per view, got shape {n.shape}")
    if c.size == 0:
        c = np.zeros((0, n.size), dtype=np.int64)
    if c.ndim != 2 or c.shape[1] != n.size:
        raise ConfigError(f"counts must have shape [clusters, {n.size} views] to go with num_samples, got {c.shape}")
    if (c.sum(axis=0) > n).any():
        raise ConfigError(f"counts add up to {c.sum(axis=0).tolist()} per view, more than num_samples {n.tolist()}")
    return Votes(c, n)


def _pick(scores: FloatArray, totals: IntArray, options: AbstainOptions) -> tuple[int | None, float, bool]:
    """Label (or None), margin and whether the best score was shared, for scores float[C] and totals int[C], C >= 1."""
    best = float(scores.max())
    tolerance = TOLERANCE * max(1.0, abs(best))
    if best <= tolerance:
        return None, 0.0, False
    tied = np.flatnonzero(scores >= best - tolerance)
    # argmax takes the first of equals: the cluster whose first member was sampled first.
    winner = int(tied[totals[tied].argmax()])
    if len(tied) > 1:
        margin = 0.0
    else:
        margin = best - float(np.partition(scores, -2)[-2]) if len(scores) > 1 else best
    if best < options.min_score - tolerance or margin < options.min_margin - tolerance:
        return None, margin, len(tied) > 1
    return winner, margin, len(tied) > 1


def decide(scores: FloatArray, votes: Votes, options: AbstainOptions) -> Consensus:
    """The consensus that `scores` float[C], or float[C, V] where views are judged apart, lead to.

    The highest score wins; equal scores go to the higher total count, then to the lower cluster index. A cluster that
    nobody voted for scores 0 at most, and without a positive score there is no label. Where views are judged apart,
    `margin` is that of the least certain view and `tie` tells whether any view had one.
    """
    num_views = len(votes.num_samples)
    if len(votes.counts) == 0:
        return Consensus((None,) * num_views, scores, votes.support, margin=0.0)
    totals = votes.counts.sum(axis=1)
    unseen = totals == 0
    scores = np.where(unseen if scores.ndim == 1 else unseen[:, None], np.minimum(scores, 0.0), scores)
    if scores.ndim == 1:
        label, margin, tie = _pick(scores, totals, options)
        return Consensus((label,) * num_views, scores, votes.support, margin, tie)
    picks = [_pick(scores[:, v], totals, options) for v in range(num_views)]
    return Consensus(
        tuple(label for label, _, _ in picks),
        scores,
        votes.support,
        margin=min(margin for _, margin, _ in picks),
        tie=any(tie for _, _, tie in picks),
    )


class Selector(ABC):
    """A scoring selector. A subclass gives `scores`; smoothing, ties, margin and abstention are done here.

    A selector of your own may also subclass this: nest an `Options` that extends `SelectorOptions`.
    """

    Options: type[SelectorOptions] = SelectorOptions

    def __init__(self, options: SelectorOptions) -> None:
        self.smoothing = options.smoothing
        self.abstain: AbstainOptions = options

    @abstractmethod
    def scores(self, support: FloatArray, counts: FloatArray, num_samples: FloatArray) -> FloatArray:
        """Score per cluster, float[C], or float[C, V] where views are judged apart; higher is better, 0 is no label.

        `support` float[C, V] frequencies, `counts` float[C, V] and `num_samples` float[V], all after smoothing, C >= 1.
        """

    def select(self, counts: Any, num_samples: Any, *, step: int = 0, key: str = "") -> Consensus:
        """The consensus of one problem from counts int[C, V] and num_samples int[V].

        `support` of the result holds the frequencies as sampled, without smoothing. `step` and `key` (the problem's id)
        matter to schedules and to seeded selectors only. Raises ConfigError for arrays that do not fit.
        """
        votes = check_votes(counts, num_samples)
        if len(votes.counts) == 0:
            return decide(np.zeros(0), votes, self.abstain)
        smoothed = votes.counts.astype(np.float64) + self.smoothing
        enlarged = votes.num_samples.astype(np.float64) + self.smoothing * len(votes.counts)
        return decide(self.scores(frequencies(smoothed, enlarged), smoothed, enlarged), votes, self.abstain)


class WeightedSelector(Selector):
    """A scoring selector whose views have weights."""

    Options: type[WeightedOptions] = WeightedOptions

    def __init__(self, options: WeightedOptions) -> None:
        super().__init__(options)
        self.weights = options.weights

    def weights_for(self, support: FloatArray) -> FloatArray:
        """Weights float[V], summing to 1, for the views of support float[C, V]; raises ConfigError on a wrong number."""
        return view_weights(self.weights, support.shape[1])
