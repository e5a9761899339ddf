"""Selectors from the published code's ablations that look for independence of answer and view.

They work on counts n float[C, V] out of N float[V] samples and treat the samples as one pool. By design they may prefer
a rare answer that is balanced over the views to a frequent one that is not.
Source: the training code published with Self-Harmony (arXiv 2511.01191), stated for two views; other numbers of views
are this package's generalisation.
"""

from __future__ import annotations

import numpy as np

from harmonyray.selectors.base import Selector, SelectorOptions, weighted_sum
from harmonyray.selectors.deciding import frequencies
from harmonyray.selectors.infomax import binary_entropy
from harmonyray.types import FloatArray

COUNT_BONUS = 1e-3


class MutualInformation(Selector):
    """Score: 4 n0 n1 / (n0 + n1)^2 + 1e-3 (n0 + n1), the balance of the counts with a small bonus for their number.

    For V views the balance is (geometric mean / arithmetic mean of the counts)^V, which is 1 for a single view.
    """

    batched = True

    class Options(SelectorOptions):
        pass

    def scores(self, support: FloatArray, counts: FloatArray, num_samples: FloatArray) -> FloatArray:
        mean = counts.mean(axis=-1, keepdims=True)
        balance = (counts / np.where(mean > 0, mean, 1.0)).prod(axis=-1)
        return balance + COUNT_BONUS * counts.sum(axis=-1)


class TrueMutualInformation(Selector):
    """Score: exp(-I(S; Y_c)), in (0, 1], for a sample drawn from the pool, S its view and Y_c whether it is in cluster c.

    The lowest mutual information wins, and the higher count among equals. The exponential only makes the score
    positive, so that the selector never abstains of itself.
    """

    batched = True

    class Options(SelectorOptions):
        pass

    def scores(self, support: FloatArray, counts: FloatArray, num_samples: FloatArray) -> FloatArray:
        total = num_samples.sum(axis=-1, keepdims=True)
        pooled = frequencies(counts.sum(axis=-1), total)
        shares = frequencies(num_samples, total)[..., None, :]
        information = binary_entropy(pooled) - weighted_sum(binary_entropy(support), shares)
        return np.exp(-information)


class Determinant(Selector):
    """Score: 1 / (1 + |n0 (N1 - n1) - n1 (N0 - n0)|), in (0, 1]: the table of cluster and view nearest to singular.

    The smallest determinant wins, and the higher count among equals. n0 (N1 - n1) - n1 (N0 - n0) = n0 N1 - n1 N0; for V
    views it is summed over all pairs.
    """

    batched = True

    class Options(SelectorOptions):
        pass

    def scores(self, support: FloatArray, counts: FloatArray, num_samples: FloatArray) -> FloatArray:
        num_views = counts.shape[-1]
        determinants = np.zeros(counts.shape[:-1])
        for i in range(num_views):
            for j in range(i + 1, num_views):
                determinants += np.abs(counts[..., i] * num_samples[..., None, j] - counts[..., j] * num_samples[..., None, i])
        return 1.0 / (1.0 + determinants)
