"""Reliability: how far to trust each view, estimated from the votes of many problems without any gold answer.

The model is one-coin Dawid-Skene (Dawid and Skene 1979, Applied Statistics 28; one coin per worker as in Zhang et al. 2016,
JMLR 17): a sample of view v is right with probability a_v and otherwise in one of the wrong clusters, all equally likely. EM
finds the a_v. Letters: P problems, C clusters, V views, R = sum of C over the problems.

Own code because the kept libraries do not fit: crowd-kit 1.4 has this model but depends on transformers, scikit-learn, nltk and
pandas, takes one row per vote with text labels, and has no number of wrong answers that varies from problem to problem.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field

from harmonyray.errors import ConfigError
from harmonyray.selectors.base import Selector, SelectorOptions, weighted_sum
from harmonyray.selectors.deciding import check_many
from harmonyray.types import FloatArray, IntArray

BOUND = 1e-6  # accuracies stay in [BOUND, 1 - BOUND], so that no vote is proof


def posterior(counts: FloatArray, accuracies: FloatArray) -> FloatArray:
    """P(cluster c is the right one | votes), float[..., C], from counts float[..., C, V] and accuracies float[V].

    The prior over a problem's C clusters is uniform. A wrong vote of view v has probability (1 - a_v) / C: it may be in one of
    the C - 1 other clusters or in one that nobody happened to name, so that even a single cluster is not certain. Samples
    without an answer say nothing.
    """
    num_clusters = counts.shape[-2]
    # Dropping what all clusters share, the log-posterior is linear in the counts: each view votes with its log-odds.
    log_odds = np.log(accuracies) - np.log((1.0 - accuracies) / num_clusters)
    logits = weighted_sum(counts, log_odds)
    likelihood = np.exp(logits - logits.max(axis=-1, keepdims=True))
    out: FloatArray = likelihood / likelihood.sum(axis=-1, keepdims=True)
    return out


def estimate_accuracies(problems: Sequence[IntArray], num_views: int, num_steps: int, start: float) -> FloatArray:
    """The views' accuracies float[V] after `num_steps` EM steps from `start`, for counts [P] of int[B, C, V] (problems with
    equally many clusters stacked). A view without any answer keeps `start`. `posterior` is the E step; the M step is
    a_v = sum of the posteriors of v's votes / number of v's votes."""
    buckets = [counts.astype(np.float64) for counts in problems if counts.shape[1] > 0]
    votes = np.sum([counts.sum(axis=(0, 1)) for counts in buckets], axis=0) if buckets else np.zeros(num_views)
    accuracies = np.full(num_views, start)
    for _ in range(num_steps):
        right = np.zeros(num_views)
        for counts in buckets:
            right += (posterior(counts, accuracies)[..., None] * counts).sum(axis=(0, 1))
        estimate = right / np.where(votes > 0, votes, 1.0)
        accuracies = np.clip(np.where(votes > 0, estimate, start), BOUND, 1.0 - BOUND)
    return accuracies


class Reliability(Selector):
    """Score: the probability that the cluster is right under one-coin Dawid-Skene, in [0, 1]; the views' accuracies are
    fitted to the unlabeled votes of the step (of the file, offline).

    A view that contradicts the others loses weight, down to counting against an answer; a view that is confidently and
    systematically wrong gains it instead. Before any fit all views count alike: pooled majority, by another scale.
    """

    batched = True
    needs_all = True

    class Options(SelectorOptions):
        num_steps: int = Field(default=30, ge=1, description="EM steps")
        start: float = Field(default=0.7, gt=0.0, lt=1.0, description="every view's accuracy before the first EM step")
        window: int = Field(default=1, ge=1, description="training steps whose votes are fitted together, this one included")

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.accuracies: FloatArray | None = None
        self._window: deque[list[IntArray]] = deque(maxlen=options.window)

    def fit(self, counts: Sequence[Any], num_samples: Any, *, step: int = 0) -> None:
        """Estimates the accuracies from these problems and those of the last `window` - 1 calls; nothing is done without any.

        `counts` [P] of int[C_p, V], `num_samples` int[P, V]. EM starts anew at every call, so that the result depends on the
        votes alone. Raises ConfigError for arrays that do not fit.
        """
        buckets = check_many(counts, num_samples)
        if not buckets:
            return
        num_views = buckets[0].num_samples.shape[1]
        if self._window and self._window[0][0].shape[2] != num_views:
            raise ConfigError(f"selector reliability was fitted on {self._window[0][0].shape[2]} views, got {num_views}")
        self._window.append([bucket.counts for bucket in buckets])
        seen = [counts for step_counts in self._window for counts in step_counts]
        self.accuracies = estimate_accuracies(seen, num_views, self.options.num_steps, self.options.start)

    def scores(self, support: FloatArray, counts: FloatArray, num_samples: FloatArray) -> FloatArray:
        num_views = counts.shape[-1]
        accuracies = np.full(num_views, self.options.start) if self.accuracies is None else self.accuracies
        if len(accuracies) != num_views:
            raise ConfigError(f"selector reliability was fitted on {len(accuracies)} views, got {num_views}")
        return posterior(counts, accuracies)

    def state_dict(self) -> dict[str, Any]:
        """Accuracies and the votes in the window, as plain lists."""
        return {
            "accuracies": None if self.accuracies is None else self.accuracies.tolist(),
            "window": [[counts.tolist() for counts in step_counts] for step_counts in self._window],
            "num_views": None if self.accuracies is None else len(self.accuracies),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state_dict` gave; scores and later fits are then those of the selector that gave it."""
        accuracies, num_views = state["accuracies"], state["num_views"]
        self.accuracies = None if accuracies is None else np.array(accuracies)
        self._window.clear()
        for step_counts in state["window"]:
            # Problems without any cluster are an empty list, which has lost its number of views.
            arrays = [np.array(counts, dtype=np.int64) for counts in step_counts]
            self._window.append([a if a.ndim == 3 else np.zeros((len(a), 0, num_views), dtype=np.int64) for a in arrays])
