"""Judged rollouts to the rows of an update. A problem's rows stay together, in the order views × samples.

The drafts of a view that asks twice are trained too: a draft's reward is the mean reward of the responses that it led to.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harmonyray.protocols import Advantage, Ask
from harmonyray.rollouts import distinct_drafts
from harmonyray.types import Batch, FloatArray, GroupFigures, GroupRows, Judgement, ProblemRollouts, Rollout

_NO_ADVANTAGE = 1e-8  # a mean of equal rewards is off by rounding, which a small standard deviation then magnifies


@dataclass(frozen=True, slots=True)
class _Row:
    rollout: Rollout
    advantage: float
    num_tokens: int  # of the response, that count
    part: int
    temperature: float
    problem: int


def plan_batch(
    rollouts: Sequence[ProblemRollouts], judgements: Sequence[Judgement], advantage: Advantage, asks: Sequence[Ask]
) -> list[GroupRows] | None:
    """The rows of the trained views of these problems, or None if there is none to train on. `asks` [V].

    Part v of the loss are the responses of view v, part V + v its drafts. The rollouts stay where they are kept.
    """
    plan: list[GroupRows] = []
    for p, (problem, judged) in enumerate(zip(rollouts, judgements, strict=True)):
        assert problem.problem.id == judged.group.problem_id, "labels must meet their own problem"
        used = judged.trained & np.array([ask.trained for ask in asks])
        rewards: FloatArray = np.where(used[:, None], judged.rewards, np.nan)
        values = advantage.advantages(rewards)
        for v in np.flatnonzero(used).tolist():
            group, ask = problem.groups[v], asks[v]
            num_samples = len(group.figures.lengths)
            limits = problem.groups[0].figures.lengths if ask.first_view_mask else None
            plan.append(GroupRows(group.kept, False, values[v, :num_samples], v, ask.sampling.temperature, p, limits))
            if len(group.figures.draft_lengths):
                earned = advantage.advantages(_draft_rewards(group.figures, rewards[v, :num_samples])[None])[0]
                plan.append(GroupRows(group.kept, True, earned, len(asks) + v, ask.draft_sampling.temperature, p))
    return plan or None


def plan_metrics(plan: Sequence[GroupRows] | None) -> dict[str, float]:
    """`train/zero_variance_groups`: the share of the plan's groups in which everybody earned the same, so that every advantage is
    zero and nothing is learned from them. Nothing where there is no plan."""
    if not plan:
        return {}
    return {"train/zero_variance_groups": 1 - len(teaching(plan) or ()) / len(plan)}


def teaching(plan: Sequence[GroupRows] | None) -> list[GroupRows] | None:
    """The groups of a plan from which something is learned: not everybody earned the same. None if there are none."""
    return [group for group in plan or () if np.any(np.abs(group.advantages) >= _NO_ADVANTAGE)] or None  # nan is nobody's


def fill_batch(plan: Sequence[GroupRows]) -> Batch:
    """The batch of a plan: fetches the rollouts. Raises RolloutsLostError."""
    rows: list[_Row] = []
    for part in plan:
        content = part.kept.get()
        samples = distinct_drafts(content) if part.of_drafts else content
        limits = [len(r.token_ids) for r in samples] if part.num_tokens is None else part.num_tokens.tolist()
        rows += [
            _Row(rollout, x, min(limit, len(rollout.token_ids)), part.part, part.temperature, part.problem)
            for rollout, x, limit in zip(samples, part.advantages.tolist(), limits, strict=True)
            if not math.isnan(x)
        ]
    return _pad(rows)


def _draft_rewards(figures: GroupFigures, rewards: FloatArray) -> FloatArray:
    """The mean reward of the responses that each draft led to, float[D]; nan where all of them only voted."""
    led_to = [rewards[(figures.draft_of == d) & ~np.isnan(rewards)] for d in range(len(figures.draft_lengths))]
    return np.array([earned.mean() if len(earned) else np.nan for earned in led_to])


def _pad(rows: Sequence[_Row]) -> Batch:
    lengths = np.array([len(r.rollout.prompt_ids) + len(r.rollout.token_ids) for r in rows])
    shape = (len(rows), int(lengths.max()))
    token_ids, mask = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=bool)
    old, advantages = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.float32)
    for b, row in enumerate(rows):
        start, end = len(row.rollout.prompt_ids), int(lengths[b])
        token_ids[b, :start], token_ids[b, start:end] = row.rollout.prompt_ids, row.rollout.token_ids
        counted = slice(start, start + row.num_tokens)
        mask[b, counted] = True
        old[b, counted] = row.rollout.logprobs[: row.num_tokens]
        advantages[b, counted] = row.advantage
    parts, temperatures = np.array([r.part for r in rows]), np.array([r.temperature for r in rows], dtype=np.float32)
    return Batch(token_ids, lengths, mask, old, advantages, parts, temperatures, np.array([r.problem for r in rows]))
