"""Judged rollouts to the rows of an update. A problem's rows stay together, in the order views × samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harmonyray.protocols import Advantage
from harmonyray.types import Batch, FloatArray, Judgement, ProblemRollouts, Rollout


def make_batch(
    rollouts: Sequence[ProblemRollouts], judgements: Sequence[Judgement], advantage: Advantage, temperature: float
) -> Batch | None:
    """The batch of the trained views of these problems, or None if there is no row to train on."""
    rows: list[tuple[Rollout, float, int]] = []
    for problem, judged in zip(rollouts, judgements, strict=True):
        assert problem.problem.id == judged.group.problem_id, "labels must meet their own problem"
        rewards: FloatArray = np.where(judged.trained[:, None], judged.rewards, np.nan)
        values = advantage.advantages(rewards)
        for v, samples in enumerate(problem.rollouts):
            if judged.trained[v]:
                rows += [(rollout, float(values[v, n]), v) for n, rollout in enumerate(samples)]
    return _pad(rows, temperature) if rows else None


def _pad(rows: list[tuple[Rollout, float, int]], temperature: float) -> Batch:
    lengths = np.array([len(r.prompt_ids) + len(r.token_ids) for r, _, _ in rows])
    shape = (len(rows), int(lengths.max()))
    token_ids, mask = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=bool)
    old, advantages = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.float32)
    for b, (rollout, value, _) in enumerate(rows):
        start, end = len(rollout.prompt_ids), int(lengths[b])
        token_ids[b, :start], token_ids[b, start:end] = rollout.prompt_ids, rollout.token_ids
        mask[b, start:end] = True
        old[b, start:end] = rollout.logprobs
        advantages[b, start:end] = value
    return Batch(token_ids, lengths, mask, old, advantages, np.array([v for _, _, v in rows]), temperature)
