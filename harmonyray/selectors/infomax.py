"""View-Invariant Infomax: a cluster is good when it is frequent and its frequency does not depend on the view.

Source: Self-Harmony (arXiv 2511.01191). Arrays: support p float[C, V] in [0, 1], weights w float[V] summing to 1,
scores float[C]. p_mean = sum_v w_v p_v, variance = sum_v w_v (p_v - p_mean)^2. Scores may be negative: such a cluster
is never the label. Support and scores may have a leading axis of problems.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from harmonyray.selectors.base import WeightedOptions, WeightedSelector, weighted_sum
from harmonyray.types import FloatArray


def mean_and_variance(support: FloatArray, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Weighted mean and variance over views, each float[C]."""
    mean = weighted_sum(support, weights)
    return mean, weighted_sum((support - mean[..., None]) ** 2, weights)


def infomax_score(support: FloatArray, weights: FloatArray, lam: float) -> FloatArray:
    """p_mean - lam variance / (2 p_mean), float[C]; 0 for a cluster without votes in the weighted views.

    The second-order form of the objective. lam = 2 is the harmonic mean for two views weighed alike, and for weights
    (w, 1 - w) the Weighted Invariant Score p_mean - w (1 - w) (p0 - p1)^2 / p_mean.
    """
    mean, variance = mean_and_variance(support, weights)
    return mean - lam * variance / (2.0 * np.where(mean > 0, mean, 1.0))


def binary_entropy(p: FloatArray) -> FloatArray:
    """-p ln p - (1 - p) ln(1 - p) in nats, elementwise, in [0, ln 2]; 0 at 0 and 1."""
    # Rounding may leave a frequency just outside of [0, 1].
    q = np.clip(p, 0.0, 1.0)
    return -(q * np.log(np.where(q > 0, q, 1.0)) + (1 - q) * np.log(np.where(q < 1, 1 - q, 1.0)))


class Infomax(WeightedSelector):
    """Score: p_mean - lam variance / (2 p_mean). lam = 2 with two views weighed alike is exactly the harmonic mean."""

    batched = True

    class Options(WeightedOptions):
        lam: float = Field(default=2.0, allow_inf_nan=False)

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.lam = options.lam

    def scores(self, support: FloatArray, counts: FloatArray, num_samples: FloatArray) -> FloatArray:
        return infomax_score(support, self.weights_for(support), self.lam)


class Consistency(WeightedSelector):
    """Score: the other published parametrisation of infomax, p_mean - lam (p0 - p1)^2 / (2 (p0 + p1)) for two views
    weighed alike: infomax with twice the lam. lam = 1 is the harmonic mean."""

    batched = True

    class Options(WeightedOptions):
        lam: float = Field(default=1.0, allow_inf_nan=False)

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.lam = options.lam

    def scores(self, support: FloatArray, counts: FloatArray, num_samples: FloatArray) -> FloatArray:
        return infomax_score(support, self.weights_for(support), 2.0 * self.lam)


class MeanVariance(WeightedSelector):
    """Score: p_mean - lam variance."""

    batched = True

    class Options(WeightedOptions):
        lam: float = Field(default=1.0, allow_inf_nan=False)

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.lam = options.lam

    def scores(self, support: FloatArray, counts: FloatArray, num_samples: FloatArray) -> FloatArray:
        mean, variance = mean_and_variance(support, self.weights_for(support))
        return mean - self.lam * variance


class InfomaxExact(WeightedSelector):
    """Score: I(Z_c; A) - lam I(Z_c; X) in nats, with Z_c = 1[A = c], A the answer and X the view with prior w. Abstains on
    unanimous problems: an answer that all samples give has entropy 0.

    Z_c is a function of A, so the first term is the entropy of Z_c. In training a unanimous problem would have given no
    advantage either.
    """

    batched = True

    class Options(WeightedOptions):
        lam: float = Field(default=1.0, allow_inf_nan=False)

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.lam = options.lam

    def scores(self, support: FloatArray, counts: FloatArray, num_samples: FloatArray) -> FloatArray:
        weights = self.weights_for(support)
        entropy = binary_entropy(weighted_sum(support, weights))
        return entropy - self.lam * (entropy - weighted_sum(binary_entropy(support), weights))
