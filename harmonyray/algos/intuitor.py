"""Intuitor (arXiv 2505.19590): a response earns the model's certainty of its own tokens; answers play no part."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harmonyray.algos.base import MethodBase, no_label
from harmonyray.types import AnswerGroup, Judgement


class Intuitor(MethodBase):
    """R = mean over the response's tokens of KL(U || p), U uniform over the vocabulary, p the learner's next-token distribution:
    logsumexp(z) - mean(z) less the log of the vocabulary's size, which advantages cancel. In nats, from 0."""

    token_statistics = ("self_certainty",)

    def judge(self, groups: Sequence[AnswerGroup], step: int) -> list[Judgement]:
        return [
            Judgement(g, no_label(g), g.statistics["self_certainty"].copy(), np.ones(len(g.num_samples), dtype=bool))
            for g in groups
        ]
