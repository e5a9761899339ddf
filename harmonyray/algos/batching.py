"""Judged rollouts to the rows of an update. A problem's rows stay together, in the order views × samples.

The drafts of a view that asks twice are trained too: a draft's reward is the mean reward of the responses that it led to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harmonyray.protocols import Advantage
from harmonyray.rollouts import Ask
from harmonyray.types import Batch, FloatArray, Judgement, ProblemRollouts, Rollout


@dataclass(frozen=True, slots=True)
class _Row:
    rollout: Rollout
    advantage: float
    part: int
    temperature: float


def make_batch(
    rollouts: Sequence[ProblemRollouts], judgements: Sequence[Judgement], advantage: Advantage, asks: Sequence[Ask]
) -> Batch | None:
    """The batch of the trained views of these problems, or None if there is no row to train on. `asks` [V].

    Part v of the loss are the responses of view v, part V + v its drafts.
    """
    rows: list[_Row] = []
    for problem, judged in zip(rollouts, judgements, strict=True):
        assert problem.problem.id == judged.group.problem_id, "labels must meet their own problem"
        used = judged.trained & np.array([ask.trained for ask in asks])
        rewards: FloatArray = np.where(used[:, None], judged.rewards, np.nan)
        values = advantage.advantages(rewards)
        for v in np.flatnonzero(used).tolist():
            samples, at = problem.rollouts[v], asks[v].sampling.temperature
            rows += [_Row(rollout, float(values[v, n]), v, at) for n, rollout in enumerate(samples)]
            drafts, draft_rewards = _drafts(samples, rewards[v])
            if drafts:
                draft_values = advantage.advantages(draft_rewards[None])[0]
                at = asks[v].draft_sampling.temperature
                rows += [_Row(d, float(x), len(asks) + v, at) for d, x in zip(drafts, draft_values, strict=True)]
    return _pad(rows) if rows else None


def _drafts(samples: Sequence[Rollout], rewards: FloatArray) -> tuple[list[Rollout], FloatArray]:
    """The distinct drafts that led to the samples, and the mean reward of each one's: R drafts, float[R]."""
    led_to: dict[int, tuple[Rollout, list[float]]] = {}
    for rollout, reward in zip(samples, rewards.tolist(), strict=False):  # rewards are padded to the view with most samples
        if rollout.draft is not None:
            led_to.setdefault(id(rollout.draft), (rollout.draft, []))[1].append(reward)
    return [draft for draft, _ in led_to.values()], np.array([np.mean(earned) for _, earned in led_to.values()])


def _pad(rows: Sequence[_Row]) -> Batch:
    lengths = np.array([len(r.rollout.prompt_ids) + len(r.rollout.token_ids) for r in rows])
    shape = (len(rows), int(lengths.max()))
    token_ids, mask = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=bool)
    old, advantages = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.float32)
    for b, row in enumerate(rows):
        start, end = len(row.rollout.prompt_ids), int(lengths[b])
        token_ids[b, :start], token_ids[b, start:end] = row.rollout.prompt_ids, row.rollout.token_ids
        mask[b, start:end] = True
        old[b, start:end] = row.rollout.logprobs
        advantages[b, start:end] = row.advantage
    parts, temperatures = np.array([r.part for r in rows]), np.array([r.temperature for r in rows], dtype=np.float32)
    return Batch(token_ids, lengths, mask, old, advantages, parts, temperatures)
