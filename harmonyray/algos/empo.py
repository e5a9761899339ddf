"""EMPO (arXiv 2504.05812): a sample earns the frequency of its answer, which lowers the entropy of the answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harmonyray.algos.base import MethodBase, blank_rewards
from harmonyray.selectors.votes import Majority
from harmonyray.types import AnswerGroup, Judgement


class Empo(MethodBase):
    """R = p(answer), the share of all samples of all views that gave the same answer, in [0, 1]; 0 without an answer. There is no
    label: the one that is shown is the answer that earns most. A problem that nobody answered is left out of the update."""

    def judge(self, groups: Sequence[AnswerGroup], step: int) -> list[Judgement]:
        return [self._judge_one(group) for group in groups]

    def _judge_one(self, group: AnswerGroup) -> Judgement:
        counts = group.counts()
        shares = np.append(counts.sum(axis=1) / group.num_samples.sum(), 0.0)  # the last entry answers for index -1
        rewards = blank_rewards(group)
        for v, n in enumerate(group.num_samples):
            rewards[v, :n] = shares[group.cluster_ids[v, :n]]
        consensus = Majority(Majority.Options()).select(counts, group.num_samples)
        return Judgement(group, consensus, rewards, np.full(len(group.num_samples), len(counts) > 0))
