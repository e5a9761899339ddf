"""Self-Harmony (arXiv 2511.01191): a selector's consensus over views is the pseudo-label; every view is rewarded by it.

Rewards: the first view gets R = 1[y = y*]; every further view R = (1 − w_f·F)(1 − w_d·D)·1[y' = y*] with F the share of
required sections that are missing and D = 1 − JS(p_first, p_view) / ln 2. D is one number per problem and view, so
advantages normalised within a view cancel it; `copy_penalty` is a per-sample form that acts (the share of the rewording's
5-grams that are copied), and `advantage.group: problem` makes the published form act.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field

from harmonyray.algos.base import MethodBase, MethodContext, labelled, match_label, require_views
from harmonyray.algos.rewards import diversity_penalty, gated
from harmonyray.registry import PluginOptions
from harmonyray.selectors.nested import SelectorSpec
from harmonyray.types import AnswerGroup, FloatArray, Judgement


class SelfHarmony(MethodBase):
    class Options(PluginOptions):
        selector: SelectorSpec = SelectorSpec(type="harmonic")
        format_penalty: float = Field(0.1, ge=0, le=1, description="w_f, on missing sections")
        diversity_penalty: float = Field(0.1, ge=-1, le=1, description="w_d, on views that agree; negative rewards agreement")
        copy_penalty: float = Field(0.0, ge=0, le=1, description="on rewordings that copy the question, per sample")

    options: Options

    def __init__(self, options: Any, context: MethodContext) -> None:
        super().__init__(options, context)
        self.selector = options.selector.build()

    @classmethod
    def check(cls, options: Any, views: tuple[str, ...]) -> None:
        require_views("self_harmony", views, 2)
        options.selector.build().select([[1] * len(views)], [1] * len(views))  # weights for another number of views, for one

    def judge(self, groups: Sequence[AnswerGroup], step: int) -> list[Judgement]:
        return [self._judge_one(group, step) for group in groups]

    def _judge_one(self, group: AnswerGroup, step: int) -> Judgement:
        # Selectors count steps from 0.
        consensus = self.selector.select(group.counts(), group.num_samples, step=step - 1, key=group.problem_id)
        rewards = match_label(group, consensus)
        metrics: dict[str, float] = {}
        for v in range(1, len(group.num_samples)):
            n = int(group.num_samples[v])
            missing = np.array([p.missing for p in group.parsed[v]])
            copied = np.array([p.copied for p in group.parsed[v]])
            agreement = diversity_penalty(consensus.support[:, 0], consensus.support[:, v])
            reward = gated(rewards[v, :n], missing, agreement, self.options.format_penalty, self.options.diversity_penalty)
            rewards[v, :n] = reward * (1 - self.options.copy_penalty * copied)
            metrics |= _view_metrics(self.context.views[v], missing, copied, agreement)
        return Judgement(group, consensus, rewards, labelled(consensus), metrics)


def _view_metrics(view: str, missing: FloatArray, copied: FloatArray, agreement: float) -> dict[str, float]:
    return {
        f"reward/{view}/format_compliance": float(1 - missing.mean()),
        f"reward/{view}/copied": float(copied.mean()),
        f"reward/{view}/agreement": agreement,
    }
