"""Ground truth: the upper bound. The reward is equality with the gold answer; the only method that may see one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harmonyray.algos.base import MethodBase, blank_rewards, labelled
from harmonyray.errors import ConfigError
from harmonyray.types import AnswerGroup, Consensus, Judgement


class GroundTruth(MethodBase):
    """A sample earns 1 if its answer equals the gold answer. The label is the first such cluster (different clusters may
    equal one gold answer); with none every reward is 0 and the problem is left out of the update."""

    needs_gold = True

    def judge(self, groups: Sequence[AnswerGroup], step: int) -> list[Judgement]:
        missing = [g.problem_id for g in groups if g.problem_id not in self.context.gold]
        if missing:
            raise ConfigError(
                f"'method.type' ground_truth needs a gold answer for every problem; {len(missing)} have none, "
                f"{missing[0]!r} for one: "
                "add the answers to the problem source, or use a label-free method"
            )
        pairs = [(self.context.gold[g.problem_id].text, answer) for g in groups for answer in g.representatives]
        equal = iter(self.context.grader.equal(pairs))
        return [self._judge_one(group, [next(equal) for _ in group.representatives]) for group in groups]

    def _judge_one(self, group: AnswerGroup, right: list[bool]) -> Judgement:
        label = right.index(True) if True in right else None
        support = group.counts() / group.num_samples
        consensus = Consensus(
            label=(label,) * len(group.num_samples),
            scores=np.array(right, dtype=float),
            support=support,
            margin=float(label is not None),
        )
        rewards = blank_rewards(group)
        for v, n in enumerate(group.num_samples):
            rewards[v, :n] = np.append(right, False)[group.cluster_ids[v, :n]]  # the last entry answers for index -1
        return Judgement(group, consensus, rewards, labelled(consensus))
