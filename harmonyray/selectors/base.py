"""What every scoring selector shares: options, smoothing, weights, one problem and many at once.

Numpy only, integers in: a selector never sees an answer's text. Letters: P problems, B problems with equally many clusters,
C clusters, V views. How scores become labels stands in `deciding`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, field_validator

from harmonyray.errors import ConfigError
from harmonyray.selectors.deciding import AbstainOptions, check_many, check_votes, decide, decide_many, frequencies
from harmonyray.types import Consensus, FloatArray


class SelectorOptions(AbstainOptions):
    """What every scoring selector can be told. `smoothing` is added to each view's count of each cluster (Laplace: 1)
    before scoring; a view's number of samples grows by the same total, so its frequencies still sum to at most 1."""

    smoothing: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)


class WeightedOptions(SelectorOptions):
    """`weights` [V], one per view in the run's order; only their proportions matter. None weighs all views alike."""

    weights: tuple[float, ...] | None = None

    @field_validator("weights", mode="before")
    @classmethod
    def _a_list(cls, value: Any) -> Any:
        if value is not None and (isinstance(value, str) or not isinstance(value, Sequence | np.ndarray)):
            raise ValueError("expected a list, one number per view in the order of the views: weights=[0.3,0.7] for two views")
        return value

    @field_validator("weights")
    @classmethod
    def _usable(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if value is not None:
            check_proportions(value, "weights")
        return value


def check_proportions(values: tuple[float, ...], what: str) -> None:
    """Raises ValueError unless `values` are finite, none negative, with a positive sum."""
    if not all(np.isfinite(x) and x >= 0 for x in values) or not any(x > 0 for x in values):
        raise ValueError(f"{what} must be finite numbers, none negative and not all zero")


def proportions(values: Sequence[float]) -> FloatArray:
    """Values that `check_proportions` takes, scaled to sum to 1; however large or small they are, nothing overflows."""
    out = np.asarray(values, dtype=np.float64)
    out = out / out.max()
    return out / out.sum()


def view_weights(weights: tuple[float, ...] | None, num_views: int) -> FloatArray:
    """Weights float[V] that sum to 1. Raises ConfigError when there is not one per view."""
    if weights is None:
        return np.full(num_views, 1.0 / num_views)
    if len(weights) != num_views:
        raise ConfigError(
            f"option 'weights' has {len(weights)} entries but there are {num_views} views: give one weight per view"
        )
    return proportions(weights)


def weighted_sum(values: FloatArray, weights: FloatArray) -> FloatArray:
    """sum_v w_v x_v over the last axis: values float[..., V], weights float[V] or of a shape that broadcasts -> float[...].

    View by view, so that a problem's sum has the same last bit whether it is computed alone or among many (a matrix product
    does not promise that).
    """
    total: FloatArray = values[..., 0] * weights[..., 0]
    for v in range(1, values.shape[-1]):
        total = total + values[..., v] * weights[..., v]
    return total


class Selector(ABC):
    """A scoring selector. A subclass gives `scores`; smoothing, ties, margin and abstention are done here.

    A selector of your own may also subclass this: nest an `Options` that extends `SelectorOptions`, and find them in
    `self.options`. Set `batched` if `scores` also takes arrays with a leading axis of problems; without it `select_many` scores
    them one by one. Scores of a wrong shape, or that are not finite, are refused with a ConfigError.
    """

    Options: type[SelectorOptions] = SelectorOptions
    batched: ClassVar[bool] = False

    def __init__(self, options: SelectorOptions) -> None:
        self.options: Any = options
        self.smoothing = options.smoothing
        self.abstain: AbstainOptions = options

    @abstractmethod
    def scores(self, support: FloatArray, counts: FloatArray, num_samples: FloatArray) -> FloatArray:
        """Score per cluster, float[C], or float[C, V] where views are judged apart; higher is better, 0 is no label.

        `support` float[C, V] frequencies, `counts` float[C, V] and `num_samples` float[V], all after smoothing, C >= 1.
        With `batched` all of them, and the result, may have a leading axis [B] of problems.
        """

    def select(self, counts: Any, num_samples: Any, *, step: int = 0, key: str = "") -> Consensus:
        """The consensus of one problem from counts int[C, V] and num_samples int[V].

        `support` of the result holds the frequencies as sampled, without smoothing. `step` and `key` (the problem's id)
        matter to schedules and to seeded selectors only. Raises ConfigError for arrays that do not fit.
        """
        votes = check_votes(counts, num_samples)
        if len(votes.counts) == 0:
            return decide(np.zeros(0), votes, self.abstain)
        smoothed = votes.counts.astype(np.float64) + self.smoothing
        enlarged = votes.num_samples.astype(np.float64) + self.smoothing * len(votes.counts)
        return decide(self._checked_scores(frequencies(smoothed, enlarged), smoothed, enlarged), votes, self.abstain)

    def select_many(
        self, counts: Sequence[Any], num_samples: Any, *, step: int = 0, keys: Sequence[str] | None = None
    ) -> list[Consensus]:
        """The consensus of every problem, [P], equal to `select` one by one: counts [P] of int[C_p, V], num_samples int[P, V].

        Problems with equally many clusters are scored in one go. `step` and `keys` are as in `select`. Raises ConfigError for
        arrays that do not fit, naming the problem.
        """
        out: list[Any] = [None] * len(counts)
        for bucket in check_many(counts, num_samples):
            smoothed = bucket.counts.astype(np.float64) + self.smoothing
            enlarged = bucket.num_samples.astype(np.float64) + self.smoothing * smoothed.shape[1]
            support = frequencies(smoothed, enlarged[:, None, :])
            if smoothed.shape[1] == 0:
                scores = np.zeros((len(smoothed), 0))
            elif self.batched:
                scores = self._checked_scores(support, smoothed, enlarged)
            else:
                singly = [self._checked_scores(*one) for one in zip(support, smoothed, enlarged, strict=True)]
                if len({one.ndim for one in singly}) > 1:
                    raise ConfigError(f"selector {type(self).__name__}: scores() must judge views apart always or never")
                scores = np.stack(singly)
            for place, consensus in zip(bucket.places, decide_many(scores, bucket, self.abstain), strict=True):
                out[place] = consensus
        return out

    def _checked_scores(self, support: FloatArray, counts: FloatArray, num_samples: FloatArray) -> FloatArray:
        """What `scores` gives, float[..., C] or float[..., C, V]. Raises ConfigError for anything else."""
        name, given = type(self).__name__, self.scores(support, counts, num_samples)
        try:
            scores = np.asarray(given, dtype=np.float64)
        except (TypeError, ValueError) as e:
            raise ConfigError(f"selector {name}: scores() must give numbers, got {type(given).__name__} ({e})") from e
        if scores.shape not in (support.shape[:-1], support.shape):
            raise ConfigError(
                f"selector {name}: scores() must give one number per cluster, shape {support.shape[:-1]}, or per cluster and "
                f"view, {support.shape}; got shape {scores.shape}"
            )
        wrong = np.argwhere(~np.isfinite(scores))
        if len(wrong):
            problem = counts[wrong[0][0]] if counts.ndim == 3 else counts
            raise ConfigError(
                f"selector {name}: scores() must be finite, got {scores[tuple(wrong[0])]} for counts {problem.tolist()} "
                "[clusters, views]; clusters without votes and views without samples are given too: guard divisions"
            )
        return scores


class WeightedSelector(Selector):
    """A scoring selector whose views have weights."""

    Options: type[WeightedOptions] = WeightedOptions

    def __init__(self, options: WeightedOptions) -> None:
        super().__init__(options)
        self.weights = options.weights
        self.factors: FloatArray | None = None

    def weigh_views(self, factors: FloatArray) -> None:
        """From now on view v's weight is multiplied by `factors[v]`, float[V], none negative and not all zero."""
        self.factors = factors

    def weights_for(self, support: FloatArray) -> FloatArray:
        """Weights float[V], summing to 1, for the views of support float[..., C, V]; raises ConfigError on a wrong number."""
        weights = view_weights(self.weights, support.shape[-1])
        if self.factors is None:
            return weights
        lowered: FloatArray = weights * self.factors
        return lowered / lowered.sum() if lowered.any() else weights  # a vote knows proportions only
