"""Co-Reward (arXiv 2508.00410): a view's samples are rewarded by the majority of the other views' samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harmonyray.algos.base import MethodBase, MethodContext, labelled, match_label, require_views
from harmonyray.selectors.votes import Cross
from harmonyray.types import AnswerGroup, Judgement


class CoReward(MethodBase):
    """With two views, each is rewarded by the other's most common answer; with more, by the pooled vote of all others. A view
    whose others gave no answer is left out of the update."""

    def __init__(self, options: Any, context: MethodContext) -> None:
        super().__init__(options, context)
        self.selector = Cross(Cross.Options())

    @classmethod
    def check(cls, options: Any, views: Mapping[str, int]) -> None:
        require_views("co_reward", views, 2)

    def judge(self, groups: Sequence[AnswerGroup], step: int) -> list[Judgement]:
        out = []
        for group in groups:
            consensus = self.selector.select(group.counts(), group.num_samples)
            out.append(Judgement(group, consensus, match_label(group, consensus), labelled(consensus)))
        return out
