"""How far a view's answers are from those of all views together: the w1, w2 and kl distances and the rewards made of them.

Numpy only, nothing of texts or configuration. Letters: N samples of one view, C clusters, V views. Distributions have a last
bucket for samples without an answer, so they sum to 1. Source: the distances "to the fused distribution" of the training code
published with Self-Harmony (arXiv 2511.01191), with the differences that each function names.

A distance is one number per problem and view, so a reward made of it scales a whole group alike and advantages within the view
cancel it. Each distance therefore also has a per-sample form that acts: what this sample's answer contributes to it.
"""

from __future__ import annotations

import numpy as np

from harmonyray.algos.rewards import with_no_answer
from harmonyray.types import FloatArray, IntArray


def fused_distribution(support: FloatArray, num_samples: IntArray) -> tuple[FloatArray, FloatArray]:
    """The views' distributions float[C + 1, V] and the fused one float[C + 1], the pool of all samples of all views.

    support float[C, V], num_samples int[V]. A view counts by its samples, as in the published code.
    """
    p = with_no_answer(support)
    return p, p @ (num_samples / max(int(num_samples.sum()), 1))


def w1_distance(p: FloatArray, fused: FloatArray) -> float:
    """The Wasserstein distance of order 1 where two different answers are 1 apart, in [0, 1]: half of sum_c |p_c - f_c|.

    The published code puts the answers on a line in the order in which they were first seen, 1 apart from one to the next; its
    value depends on that order and equals this one for two answers.
    """
    return float(np.abs(p - fused).sum()) / 2.0


def w2_distance(p: FloatArray, fused: FloatArray) -> float:
    """sum_c (p_c - f_c)^2, in [0, 2]: what the published code computes as "w2" (the squared Euclidean distance; the Wasserstein
    distance of order 2 between unordered answers is the root of w1 and orders views no differently)."""
    return float(((p - fused) ** 2).sum())


def kl_distance(p: FloatArray, fused: FloatArray) -> float:
    """KL(p || f) = sum_c p_c ln(p_c / f_c) in nats, in [0, -ln s] where s is the view's share of all samples; f is never 0 where
    p is not, so nothing is smoothed."""
    seen = p > 0
    return max(float((p[seen] * np.log(p[seen] / fused[seen])).sum()), 0.0)


def w1_per_sample(p: FloatArray, fused: FloatArray) -> FloatArray:
    """min(1, f_c / p_c) of every bucket, float[C + 1] in [0, 1]; 1 where p_c = 0. Its mean over the view's samples is
    1 - w1_distance: an answer costs as much as the view says it more often than all views do."""
    return np.minimum(1.0, np.divide(fused, p, out=np.ones_like(p), where=p > 0))


def w2_per_sample(p: FloatArray, fused: FloatArray) -> FloatArray:
    """1 - (p_c - f_c), float[C + 1] in [0, 2]. The mean of p_c - f_c over the view's samples less that over the pool's is
    w2_distance (the witness of the squared distance)."""
    return 1.0 - (p - fused)


def kl_per_sample(p: FloatArray, fused: FloatArray, share: float) -> FloatArray:
    """1 - ln(p_c / f_c) / -ln s of every bucket, float[C + 1], s = `share` of all samples that are the view's; 0 at the least,
    for an answer of this view alone, over 1 for one that the others prefer; 1 where p_c = 0 and for a view alone (s = 1).

    Its mean over the view's samples is 1 - kl_distance / -ln s.
    """
    if share >= 1.0:
        return np.ones_like(p)
    ratio = np.divide(p, fused, out=np.ones_like(p), where=p > 0)
    out: FloatArray = 1.0 + np.log(ratio) / np.log(share)
    return out
