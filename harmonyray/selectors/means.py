"""Selectors that score a cluster by a weighted mean of its frequencies in the views.

Source of the formulas: Self-Harmony (arXiv 2511.01191), and for the power mean the textbook family (Hardy, Littlewood
and Polya, Inequalities, ch. 2). Arrays: support float[C, V] in [0, 1], weights float[V] summing to 1, scores float[C];
support and scores may have a leading axis of problems.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from harmonyray.selectors.base import WeightedOptions, WeightedSelector, weighted_sum
from harmonyray.types import FloatArray


def arithmetic_mean(support: FloatArray, weights: FloatArray) -> FloatArray:
    """sum_v w_v p_v, float[C] in [0, 1]."""
    return weighted_sum(support, weights)


def geometric_mean(support: FloatArray, weights: FloatArray) -> FloatArray:
    """prod_v p_v^w_v, float[C] in [0, 1]; 0 where a view with positive weight has frequency 0."""
    p, w = support[..., weights > 0], weights[weights > 0]
    everywhere = (p > 0).all(axis=-1)
    return np.where(everywhere, np.exp(weighted_sum(np.log(np.where(p > 0, p, 1.0)), w)), 0.0)


def harmonic_mean(support: FloatArray, weights: FloatArray) -> FloatArray:
    """1 / sum_v (w_v / p_v), float[C] in [0, 1]; 0 where a view with positive weight has frequency 0."""
    p, w = support[..., weights > 0], weights[weights > 0]
    everywhere = (p > 0).all(axis=-1)
    return np.where(everywhere, 1.0 / weighted_sum(1.0 / np.where(p > 0, p, 1.0), w), 0.0)


def power_mean(support: FloatArray, weights: FloatArray, lam: float) -> FloatArray:
    """(sum_v w_v p_v^k)^(1/k) with k = 1 - lam, float[C] in [0, 1]; the geometric mean at k = 0.

    For k <= 0 it is 0 where a view with positive weight has frequency 0. Computed relative to the largest frequency
    (smallest for k < 0) through expm1 and log1p, so that neither a large |k| nor one near 0 loses digits.
    """
    k = 1.0 - lam
    if k == 0.0:
        return geometric_mean(support, weights)
    p, w = support[..., weights > 0], weights[weights > 0]
    reference = p.max(axis=-1) if k > 0 else p.min(axis=-1)
    safe = np.where(reference > 0, reference, 1.0)
    with np.errstate(divide="ignore"):
        relative = np.log(p / safe[..., None])
    # A row with reference 0 is zero by definition; its logarithms (of 0, or of p / 1) are put out of the way.
    relative = np.where((reference > 0)[..., None], relative, 0.0)
    return np.where(reference > 0, safe * np.exp(np.log1p(weighted_sum(np.expm1(k * relative), w)) / k), 0.0)


class Arithmetic(WeightedSelector):
    """Score: the weighted arithmetic mean of the frequencies, in [0, 1]."""

    batched = True

    class Options(WeightedOptions):
        pass

    def scores(self, support: FloatArray, counts: FloatArray, num_samples: FloatArray) -> FloatArray:
        return arithmetic_mean(support, self.weights_for(support))


class Geometric(WeightedSelector):
    """Score: the weighted geometric mean of the frequencies, in [0, 1]; 0 if any weighted view lacks the answer."""

    batched = True

    class Options(WeightedOptions):
        pass

    def scores(self, support: FloatArray, counts: FloatArray, num_samples: FloatArray) -> FloatArray:
        return geometric_mean(support, self.weights_for(support))


class Harmonic(WeightedSelector):
    """Score: the weighted harmonic mean of the frequencies, in [0, 1]; 0 if any weighted view lacks the answer.

    The published choice of Self-Harmony: an answer must be common in every view.
    """

    batched = True

    class Options(WeightedOptions):
        pass

    def scores(self, support: FloatArray, counts: FloatArray, num_samples: FloatArray) -> FloatArray:
        return harmonic_mean(support, self.weights_for(support))


class PowerMean(WeightedSelector):
    """Score: the weighted power mean with exponent 1 - lam, in [0, 1]. lam -1 is the root mean square, 0 arithmetic,
    1 geometric, 2 harmonic; a larger lam asks more of the least favourable view."""

    batched = True

    class Options(WeightedOptions):
        lam: float = Field(default=2.0, allow_inf_nan=False)

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.lam = options.lam

    def scores(self, support: FloatArray, counts: FloatArray, num_samples: FloatArray) -> FloatArray:
        return power_mean(support, self.weights_for(support), self.lam)
