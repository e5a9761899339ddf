"""Majority voting (TTRL, arXiv 2504.16084): the most common answer is the pseudo-label, agreeing with it the reward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field, PositiveInt

from harmonyray.algos.base import MethodBase, MethodContext, labelled, match_label
from harmonyray.errors import ConfigError
from harmonyray.registry import PluginOptions
from harmonyray.selectors.votes import Majority
from harmonyray.types import AnswerGroup, Judgement


class MajorityVote(MethodBase):
    """The vote is pooled over all samples of all views; with a solver view alone this is TTRL."""

    class Options(PluginOptions):
        num_trained: PositiveInt | None = Field(
            None, description="samples of each view that are trained on, the first ones (TTRL: 32 of 64); null: all that vote"
        )

    options: Options

    def __init__(self, options: Any, context: MethodContext) -> None:
        super().__init__(options, context)
        self.selector = Majority(Majority.Options())

    @classmethod
    def check(cls, options: Any, views: Mapping[str, int]) -> None:
        for name, num_samples in views.items():
            if options.num_trained is not None and num_samples < options.num_trained:
                raise ConfigError(
                    f"'method.num_trained' is {options.num_trained}, but view {name!r} has {num_samples} samples that vote: "
                    f"raise views.{name}.num_samples, or lower it"
                )

    def judge(self, groups: Sequence[AnswerGroup], step: int) -> list[Judgement]:
        out = []
        for group in groups:
            consensus = self.selector.select(group.counts(), group.num_samples)
            rewards = match_label(group, consensus)
            if self.options.num_trained is not None:
                rewards[:, self.options.num_trained :] = np.nan
            out.append(Judgement(group, consensus, rewards, labelled(consensus)))
        return out
