"""Votes counted by an answer's exact text instead of by mathematical equality, as in the code published with Self-Harmony.

Rewards stay by equality, so a label is turned back into a cluster of equal answers.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from harmonyray.types import AnswerGroup, Consensus, IntArray


def exact_counts(group: AnswerGroup) -> tuple[IntArray, IntArray]:
    """Samples per text and view, int[S, V], and the cluster that each of the S texts is in, int[S]; texts are numbered by the
    sample at which they first appear."""
    places: dict[tuple[int, str], int] = {}
    votes: list[tuple[int, int]] = []
    for v, row in enumerate(group.read):
        for n, read in enumerate(row):
            cluster = int(group.cluster_ids[v, n])
            if read.answer is not None and cluster >= 0:
                votes.append((places.setdefault((cluster, read.answer), len(places)), v))
    counts = np.zeros((len(places), len(group.num_samples)), dtype=np.int64)
    for place, v in votes:
        counts[place, v] += 1
    return counts, np.array([cluster for cluster, _ in places], dtype=np.int64)


def as_clusters(consensus: Consensus, cluster_of: IntArray, group: AnswerGroup) -> Consensus:
    """A verdict on texts as one on clusters: a cluster scores what the best of its texts does. `support` is the clusters'."""
    scores = np.zeros((len(group.representatives), *consensus.scores.shape[1:]))
    for c in range(len(scores)):
        scores[c] = consensus.scores[cluster_of == c].max(axis=0)
    label = tuple(None if text is None else int(cluster_of[text]) for text in consensus.label)
    return replace(consensus, label=label, scores=scores, support=group.counts() / group.num_samples)
