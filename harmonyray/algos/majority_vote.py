"""Majority voting (TTRL, arXiv 2504.16084): the most common answer is the pseudo-label, agreeing with it the reward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harmonyray.algos.base import MethodBase, MethodContext, labelled, match_label
from harmonyray.registry import PluginOptions
from harmonyray.selectors.votes import Majority
from harmonyray.types import AnswerGroup, Judgement


class MajorityVote(MethodBase):
    """The vote is pooled over all samples of all views; with a solver view alone this is TTRL."""

    class Options(PluginOptions):
        pass

    def __init__(self, options: Any, context: MethodContext) -> None:
        super().__init__(options, context)
        self.selector = Majority(Majority.Options())

    def judge(self, groups: Sequence[AnswerGroup], step: int) -> list[Judgement]:
        out = []
        for group in groups:
            consensus = self.selector.select(group.counts(), group.num_samples)
            out.append(Judgement(group, consensus, match_label(group, consensus), labelled(consensus)))
        return out
