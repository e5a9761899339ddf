"""RENT (arXiv 2505.22660): a response earns the negative entropy of the model at its own tokens; answers play no part."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from harmonyray.algos.base import MethodBase, no_label
from harmonyray.registry import PluginOptions
from harmonyray.types import AnswerGroup, Judgement


class Rent(MethodBase):
    """R = -(mean over the response's tokens of the entropy of the learner's next-token distribution), nats, up to 0."""

    token_statistics = ("entropy",)

    class Options(PluginOptions):
        unanswered_reward: float | None = Field(
            None,
            description="what a response without an answer earns instead (RENT with its format option: -7); null: -entropy",
        )

    options: Options

    def judge(self, groups: Sequence[AnswerGroup], step: int) -> list[Judgement]:
        return [self._judge_one(group) for group in groups]

    def _judge_one(self, group: AnswerGroup) -> Judgement:
        rewards = -group.statistics["entropy"]
        if self.options.unanswered_reward is not None:
            present = ~np.isnan(rewards)
            rewards[present & (group.cluster_ids < 0)] = self.options.unanswered_reward
        return Judgement(group, no_label(group), rewards, np.ones(len(group.num_samples), dtype=bool))
