"""Rewards of single samples, as small functions on numpy arrays; methods put them together. Nothing here knows of
texts, models or configuration.

Letters: N samples of one view, C clusters, V views. Source: Self-Harmony (arXiv 2511.01191), whose penalties on format
(F) and diversity (D) act on the fused view only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from harmonyray.selectors.deciding import TOLERANCE
from harmonyray.types import FloatArray, IntArray


def answer_match(cluster_ids: IntArray, label: int | None) -> FloatArray:
    """1[y = y*] for every sample: cluster_ids int[N] (-1 no answer) -> float[N] in {0, 1}.

    No answer never matches. Without a label nothing does, and the caller leaves the view out of the update.
    """
    if label is None:
        return np.zeros(len(cluster_ids))
    assert label >= 0, f"a label is a cluster index or None, got {label}"
    return (np.asarray(cluster_ids) == label).astype(np.float64)


def with_no_answer(support: FloatArray) -> FloatArray:
    """Frequencies float[C, V] with a last row for samples without an answer, so that every column sums to 1:
    float[C + 1, V]."""
    rest = np.clip(1.0 - support.sum(axis=0, keepdims=True), 0.0, 1.0)
    return np.concatenate([support, rest])


def cross_view_js(support: FloatArray) -> float:
    """Generalised Jensen-Shannon divergence of the views' answer distributions, in nats, in [0, ln V].

    support float[C, V] are shares of all samples; what is missing to 1 is a bucket of its own ("no answer"), so that a
    view that fails to answer differs from one that answers. H(mean_v p_v) - mean_v H(p_v), views weighed alike
    (Lin 1991, eq. 5.1). One view: 0.
    """
    p = with_no_answer(support)
    mixture = p.mean(axis=1, keepdims=True)
    ratio = np.divide(p, mixture, out=np.ones_like(p), where=p > 0)
    divergence = float((p * np.log(ratio)).sum(axis=0).mean())
    return min(max(divergence, 0.0), math.log(p.shape[1]))


def js_divergence(p: FloatArray, q: FloatArray) -> float:
    """Jensen-Shannon divergence of two views' frequencies p float[C] and q float[C], in nats, in [0, ln 2].

    As in `cross_view_js`, samples without an answer are a bucket of their own: neither p nor q need sum to 1.
    """
    return cross_view_js(np.stack([p, q], axis=1))


def diversity_penalty(p: FloatArray, q: FloatArray) -> float:
    """D = 1 - JS(p, q) / ln 2 for the frequencies p, q float[C] of solver and view, in [0, 1]: 1 where the views answer
    alike (the rewording added nothing), 0 where they share no answer."""
    return 1.0 - js_divergence(p, q) / math.log(2)


Term = tuple[float, FloatArray | float]  # a weight, and a penalty in [0, 1], one number or one per sample


def gate(reward: FloatArray, terms: Sequence[Term]) -> FloatArray:
    """R = r prod_i (1 - w_i x_i), float[N], for terms (w_i, x_i): penalties scale what the answer earned.

    A right answer keeps a share of its reward and a wrong one keeps its 0. In [0, max r] for weights in [0, 1]; a negative
    weight rewards its term. Published: (1 - w_f F)(1 - w_d D) 1[y = y*].
    """
    out = np.asarray(reward, dtype=np.float64)
    for weight, penalty in terms:
        out = out * (1.0 - weight * np.asarray(penalty))
    return out


def subtract(reward: FloatArray, terms: Sequence[Term]) -> FloatArray:
    """R = r - sum_i w_i x_i, float[N], for terms (w_i, x_i): penalties act on wrong answers too.

    The published code adds w_f (1 - F) and w_d (1 - D) instead, which differs by a constant that advantages within a view
    cancel. In [-sum_i w_i, max r] for weights in [0, 1].
    """
    out = np.asarray(reward, dtype=np.float64)
    for weight, penalty in terms:
        out = out - weight * np.asarray(penalty)
    return out


def sharpness_penalty(num_matches: int, target: float, num_samples: int) -> float:
    """min(1, |m - m*|^2 / (M^2 / 4)), in [0, 1]: how far the number m of samples that reach the label is from the wanted
    number m*, for M samples. 0 for M = 0."""
    if num_samples == 0:
        return 0.0
    return min(1.0, (num_matches - target) ** 2 / (num_samples**2 / 4))


def score_reward(cluster_ids: IntArray, scores: FloatArray) -> FloatArray:
    """The score of each sample's own cluster: cluster_ids int[N] (-1 no answer, reward 0), scores float[C] -> float[N].

    Scores under 0 earn 0. With harmonic scores this is "the harmonic score itself as reward", in [0, 1].
    """
    ids: NDArray[np.int64] = np.asarray(cluster_ids)
    # The last entry answers for index -1.
    table = np.append(np.maximum(scores, 0.0), 0.0)
    return table[ids]


def soft_rank(cluster_ids: IntArray, scores: FloatArray, k: int = 8) -> FloatArray:
    """1 - rank / (k - 1) for the samples of the k best clusters, float[N] in [0, 1]; the best cluster has rank 0.

    cluster_ids int[N] (-1 no answer), scores float[C], k >= 2. Equal scores share the better rank. A cluster without a
    positive score earns 0: views that share no answer earn nothing.
    """
    assert k >= 2, f"a soft rank needs k >= 2, got {k}"
    if len(scores) == 0:
        return np.zeros(len(cluster_ids))
    tolerance = TOLERANCE * max(1.0, float(np.abs(scores).max()))
    rank = (scores[None, :] > scores[:, None] + tolerance).sum(axis=1)
    per_cluster = np.where(scores > tolerance, np.maximum(1.0 - rank / (k - 1), 0.0), 0.0)
    return score_reward(cluster_ids, per_cluster)
