"""Selectors that count votes: pooled, per view, from the other views. Scores are counts of samples."""

from __future__ import annotations

from harmonyray.selectors.base import Selector, SelectorOptions
from harmonyray.types import FloatArray


class Majority(Selector):
    """Score: the number of samples in the cluster, pooled over all views (TTRL, arXiv 2504.16084)."""

    batched = True

    class Options(SelectorOptions):
        pass

    def scores(self, support: FloatArray, counts: FloatArray, num_samples: FloatArray) -> FloatArray:
        return counts.sum(axis=-1)


class SelfVote(Selector):
    """Score: the view's own count, float[C, V]; every view gets the majority of its own samples as its label."""

    batched = True

    class Options(SelectorOptions):
        pass

    def scores(self, support: FloatArray, counts: FloatArray, num_samples: FloatArray) -> FloatArray:
        return counts


class Cross(Selector):
    """Score: the count in all other views, float[C, V]; every view gets the others' majority (Co-Reward,
    arXiv 2508.00410). A single view has no other, so it gets no label."""

    batched = True

    class Options(SelectorOptions):
        pass

    def scores(self, support: FloatArray, counts: FloatArray, num_samples: FloatArray) -> FloatArray:
        return counts.sum(axis=-1, keepdims=True) - counts
