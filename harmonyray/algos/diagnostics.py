"""What a step's consensus looks like: averages over its problems, for the metrics. No gold answers here.

Letters: P problems, C clusters, V views.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harmonyray.algos.rewards import cross_view_js
from harmonyray.selectors.means import Harmonic
from harmonyray.selectors.votes import Majority
from harmonyray.types import AnswerGroup, Consensus, FloatArray, IntArray


def answer_entropy(counts: IntArray) -> float:
    """Entropy in nats, in [0, ln C], of the answers counts int[C, V] pooled over views; 0 when nobody answered."""
    pooled = counts.sum(axis=1)
    p = pooled[pooled > 0] / max(int(pooled.sum()), 1)
    return max(float(-(p * np.log(p)).sum()), 0.0)


def harmonic_terms(support: FloatArray) -> tuple[float, float]:
    """Self-consistency and view-invariance of one cluster with frequencies float[V]: mean p and variance / mean p.

    For two views they are (p0 + p1) / 2 and (p0 - p1)^2 / (2 (p0 + p1)), and their difference is the harmonic mean
    (Self-Harmony, arXiv 2511.01191). Both are 0 for a cluster without votes.
    """
    mean = float(support.mean())
    if mean == 0.0:
        return 0.0, 0.0
    return mean, float(((support - mean) ** 2).mean()) / mean


def chosen_terms(consensus: Consensus) -> tuple[float, float] | None:
    """`harmonic_terms` of the label, averaged over the views that have one; None when no view has."""
    terms = [harmonic_terms(consensus.support[label]) for label in consensus.label if label is not None]
    if not terms:
        return None
    self_consistency, view_invariance = np.mean(terms, axis=0)
    return float(self_consistency), float(view_invariance)


def pick_differently(counts: IntArray, num_samples: IntArray) -> bool:
    """Whether the harmonic and the pooled majority selector both give a label, and not the same one."""
    harmonic = Harmonic(Harmonic.Options()).select(counts, num_samples).label[0]
    majority = Majority(Majority.Options()).select(counts, num_samples).label[0]
    return harmonic is not None and majority is not None and harmonic != majority


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else 0.0


def consensus_metrics(consensuses: Sequence[Consensus], groups: Sequence[AnswerGroup]) -> dict[str, float]:
    """The averages of a step over its problems; `consensuses` [P] belong to `groups` [P].

    - consensus/coverage: share of problems with a label in some view, in [0, 1]
    - consensus/disagreement: share of problems where harmonic and pooled majority give different labels, in [0, 1]
    - consensus/js: Jensen-Shannon divergence over views with "no answer" as a bucket, nats, in [0, ln V]
    - consensus/margin: the selector's margin, in units of its score, 0 where no score is positive
    - consensus/entropy: entropy of the pooled answers, nats
    - consensus/self_consistency, consensus/view_invariance: see `harmonic_terms`; over the problems with a label

    An average over no problems is 0 (see coverage).
    """
    counts = [group.counts() for group in groups]
    labelled = [terms for consensus in consensuses if (terms := chosen_terms(consensus)) is not None]
    return {
        "consensus/coverage": len(labelled) / max(len(consensuses), 1),
        "consensus/disagreement": _mean([pick_differently(c, g.num_samples) for c, g in zip(counts, groups, strict=True)]),
        "consensus/js": _mean([cross_view_js(consensus.support) for consensus in consensuses]),
        "consensus/margin": _mean([consensus.margin for consensus in consensuses]),
        "consensus/entropy": _mean([answer_entropy(c) for c in counts]),
        "consensus/self_consistency": _mean([terms[0] for terms in labelled]),
        "consensus/view_invariance": _mean([terms[1] for terms in labelled]),
    }
