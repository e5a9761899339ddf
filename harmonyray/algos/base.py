"""What every method shares: the context it is built with, the base class, and rewards by label."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harmonyray.errors import ConfigError
from harmonyray.protocols import Grader
from harmonyray.registry import PluginOptions
from harmonyray.types import AnswerGroup, Consensus, FloatArray, GoldAnswer, Judgement


@dataclass(frozen=True, slots=True)
class MethodContext:
    """What a method is built with. `gold` is empty unless the method declares `needs_gold`."""

    views: tuple[str, ...]
    grader: Grader
    gold: Mapping[str, GoldAnswer] = field(default_factory=dict)


class MethodBase(ABC):
    """A method judges each problem's answers: `judge` returns rewards for every sample of every view."""

    needs_gold = False
    token_statistics: tuple[str, ...] = ()
    """Names from `protocols.TOKEN_STATISTICS` that `judge` finds in the groups."""

    class Options(PluginOptions):
        pass

    def __init__(self, options: Any, context: MethodContext) -> None:
        self.options = options
        self.context = context

    @classmethod  # noqa: B027 - most methods work with any views
    def check(cls, options: Any, views: Mapping[str, int]) -> None:
        """Raises ConfigError where the options cannot work with these views and their numbers of samples."""

    @abstractmethod
    def judge(self, groups: Sequence[AnswerGroup], step: int) -> list[Judgement]:
        """One judgement per group, in order. `step` counts from 1."""

    def state_dict(self) -> dict[str, Any]:
        """What the method has learned beside the weights, JSON-ready for a checkpoint."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - most methods learn nothing beside
        """Puts back what `state_dict` gave."""


def blank_rewards(group: AnswerGroup) -> FloatArray:
    """Zeros for every sample, nan past a view's own number of samples: float[V, N]."""
    rewards = np.zeros(group.cluster_ids.shape)
    for v, count in enumerate(group.num_samples):
        rewards[v, count:] = np.nan
    return rewards


def match_label(group: AnswerGroup, consensus: Consensus) -> FloatArray:
    """1 where a sample's answer is its view's pseudo-label, else 0 (all 0 for a view without label): float[V, N]."""
    rewards = blank_rewards(group)
    for v, label in enumerate(consensus.label):
        if label is not None:
            rewards[v, : group.num_samples[v]] = group.cluster_ids[v, : group.num_samples[v]] == label
    return rewards


def labelled(consensus: Consensus) -> np.ndarray:
    """bool[V], true for the views that have a pseudo-label."""
    return np.array([label is not None for label in consensus.label])


def no_label(group: AnswerGroup) -> Consensus:
    """The consensus of a method that goes by no pseudo-label."""
    num_views = len(group.num_samples)
    return Consensus((None,) * num_views, np.zeros(len(group.representatives)), group.counts() / group.num_samples, margin=0.0)


def require_views(method: str, views: Mapping[str, int], least: int) -> None:
    """Raises ConfigError if there are fewer than `least` views."""
    if len(views) < least:
        raise ConfigError(
            f"'method.type' {method} compares views and needs at least {least}, got {len(views)}: {list(views)}; "
            "add one under 'views'"
        )
