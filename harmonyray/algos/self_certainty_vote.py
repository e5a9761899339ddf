"""Voting weighted by self-certainty: Borda voting (arXiv 2502.18581) makes the pseudo-label, agreeing with it is the reward."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from harmonyray.algos.base import MethodBase, labelled, match_label
from harmonyray.registry import PluginOptions
from harmonyray.selectors.deciding import AbstainOptions, check_votes, decide
from harmonyray.types import AnswerGroup, Consensus, FloatArray, Judgement


class SelfCertaintyVote(MethodBase):
    """A view's N samples are ranked by self-certainty, the mean over their tokens of KL(U || p); the r-th votes with weight
    ((N - r + 1) / N)^power for its answer, and the votes of all views are added. Equal ones share the better rank."""

    token_statistics = ("self_certainty",)

    class Options(PluginOptions):
        power: float = Field(
            0.5, ge=0, description="how much the rank counts: 0 is majority voting, large values follow the most certain sample"
        )

    options: Options

    def judge(self, groups: Sequence[AnswerGroup], step: int) -> list[Judgement]:
        out = []
        for group in groups:
            consensus = self._vote(group)
            out.append(Judgement(group, consensus, match_label(group, consensus), labelled(consensus)))
        return out

    def _vote(self, group: AnswerGroup) -> Consensus:
        scores = np.zeros(len(group.representatives))
        for v, n in enumerate(group.num_samples):
            ids = group.cluster_ids[v, :n]
            weights = borda_weights(group.statistics["self_certainty"][v, :n], self.options.power)
            np.add.at(scores, ids[ids >= 0], weights[ids >= 0])
        return decide(scores, check_votes(group.counts(), group.num_samples), AbstainOptions())


def borda_weights(certainties: FloatArray, power: float) -> FloatArray:
    """((N - r + 1) / N)^power for ranks r from 1 by falling certainty, float[N] in (0, 1]."""
    more_certain = (certainties[None, :] > certainties[:, None]).sum(axis=1)
    out: FloatArray = (1.0 - more_certain / max(len(certainties), 1)) ** power
    return out
