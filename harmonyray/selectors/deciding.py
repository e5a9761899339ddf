"""Counts in, scores to labels: checking what a selector is given, and the one rule by which scores choose.

Numpy only, integers in: a selector never sees an answer's text. Letters: P problems, B problems with equally many clusters
(a bucket of the P), C clusters, V views.

Ties are judged with a tolerance, because equal scores computed in a different order (a harmonic mean of thirds, say)
differ in their last bits: two scores are equal, and a score is zero, within `TOLERANCE * max(1, |best score|)`. That is
thousands of times the rounding error and below the smallest real difference at thousands of samples per view.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field

from harmonyray.errors import ConfigError
from harmonyray.registry import PluginOptions
from harmonyray.types import BoolArray, Consensus, FloatArray, IntArray

TOLERANCE = 1e-12


class AbstainOptions(PluginOptions):
    """When to give no label: the best score is under `min_score`, or leads the runner-up by less than `min_margin`
    (both in the units of the selector's score)."""

    min_score: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)
    min_margin: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)


@dataclass(frozen=True, slots=True)
class Votes:
    """The checked input of a selector: `counts` int[C, V] and `num_samples` int[V]."""

    counts: IntArray
    num_samples: IntArray

    @property
    def support(self) -> FloatArray:
        """Frequencies p[c, v] = counts / num_samples, float[C, V]; 0 for a view without samples."""
        return frequencies(self.counts.astype(np.float64), self.num_samples.astype(np.float64))


@dataclass(frozen=True, slots=True)
class Bucket:
    """The problems that have C clusters: `places` list[B] in the input, `counts` int[B, C, V], `num_samples` int[B, V]."""

    places: list[int]
    counts: IntArray
    num_samples: IntArray


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


def check_many(counts: Sequence[Any], num_samples: Any) -> list[Bucket]:
    """The input of many problems, checked and put into one bucket per number of clusters, smallest number first.

    `counts` [P] of int[C_p, V] (C_p may be 0), `num_samples` int[P, V]. Raises ConfigError as `check_votes`, naming the problem.
    """
    if len(counts) == 0:
        return []
    n = _integers(num_samples, "num_samples")
    if n.ndim != 2 or n.shape[1] == 0 or len(n) != len(counts):
        raise ConfigError(f"num_samples must have shape [{len(counts)} problems, views] to go with counts, got {n.shape}")
    places: dict[int, list[int]] = {}
    arrays: list[IntArray] = []
    for i, item in enumerate(counts):
        array = item if isinstance(item, np.ndarray) else _checked(i, item, n[i])
        if array.ndim != 2 or array.shape[1] != n.shape[1] or array.dtype.kind not in "iu":
            array = _checked(i, item, n[i])
        arrays.append(array)
        places.setdefault(len(array), []).append(i)
    buckets = []
    for size in sorted(places):
        stacked = np.stack([arrays[i] for i in places[size]]).astype(np.int64)
        bucket = Bucket(places[size], stacked, n[places[size]])
        wrong = (stacked < 0).any(axis=(1, 2)) | (stacked.sum(axis=1) > bucket.num_samples).any(axis=1)
        for b in np.flatnonzero(wrong):
            _checked(places[size][b], stacked[b], bucket.num_samples[b])
        buckets.append(bucket)
    return buckets


def _checked(place: int, counts: Any, num_samples: IntArray) -> IntArray:
    try:
        return check_votes(counts, num_samples).counts
    except ConfigError as e:
        raise ConfigError(f"problem {place}: {e}") from e


def _pick(scores: FloatArray, totals: IntArray, options: AbstainOptions) -> tuple[IntArray, FloatArray, BoolArray]:
    """Label (-1 for none), margin and whether the best score was shared, each [B], for scores float[B, C] and totals
    int[B, C], C >= 1."""
    best = scores.max(axis=1)
    tolerance = TOLERANCE * np.maximum(1.0, np.abs(best))
    tied = scores >= (best - tolerance)[:, None]
    several = tied.sum(axis=1) > 1
    # argmax takes the first of equals: the cluster whose first member was sampled first.
    winner = np.where(tied, totals, -1).argmax(axis=1)
    lead = best - np.partition(scores, -2, axis=1)[:, -2] if scores.shape[1] > 1 else best
    zero = best <= tolerance
    margin = np.where(several | zero, 0.0, lead)
    refused = (best < options.min_score - tolerance) | (margin < options.min_margin - tolerance)
    return np.where(zero | refused, -1, winner), margin, several & ~zero


def decide_many(scores: FloatArray, bucket: Bucket, options: AbstainOptions) -> list[Consensus]:
    """The consensus of each of a bucket's problems, [B], that `scores` float[B, C], or float[B, C, V] where views are
    judged apart, lead to. The rules are those of `decide`."""
    num_views = bucket.num_samples.shape[1]
    support = frequencies(bucket.counts.astype(np.float64), bucket.num_samples[:, None, :].astype(np.float64))
    if bucket.counts.shape[1] == 0:
        none = (None,) * num_views
        return [Consensus(none, np.zeros(0), s, margin=0.0) for s in support]
    totals = bucket.counts.sum(axis=2)
    apart = scores.ndim == 3
    scores = np.where((totals == 0)[:, :, None] if apart else totals == 0, np.minimum(scores, 0.0), scores)
    columns = [scores[:, :, v] for v in range(num_views)] if apart else [scores]
    picks = [_pick(column, totals, options) for column in columns]
    labels = [[None if c < 0 else c for c in label.tolist()] for label, _, _ in picks]
    margins = np.min([margin for _, margin, _ in picks], axis=0).tolist()
    ties = np.any([tie for _, _, tie in picks], axis=0).tolist()
    chosen = zip(*labels, strict=True) if apart else ((label,) * num_views for label in labels[0])
    return [Consensus(*parts) for parts in zip(chosen, scores, support, margins, ties, strict=True)]


def decide(scores: FloatArray, votes: Votes, options: AbstainOptions) -> Consensus:
    """The consensus that `scores` float[C], or float[C, V] where views are judged apart, lead to.

    The highest score wins; equal scores go to the higher total count, then to the lower cluster index. A cluster that
    nobody voted for scores 0 at most, and without a positive score there is no label. Where views are judged apart,
    `margin` is that of the least certain view and `tie` tells whether any view had one.
    """
    return decide_many(scores[None], Bucket([0], votes.counts[None], votes.num_samples[None]), options)[0]
