"""What of a step is learned from, and dynamic sampling (DAPO, arXiv 2503.14476, section 3.2): further problems are drawn in place
of those that teach nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harmonyray.algos.batching import plan_batch, plan_metrics, teaching
from harmonyray.clock import Clock
from harmonyray.collect import collect
from harmonyray.parts import Parts, bookmark
from harmonyray.types import Collected, GroupRows, Judgement


def fill(p: Parts, step: int, got: Collected, clock: Clock, row: dict[str, Any]) -> Collected:
    """What the step has sampled so far, with that of further problems until as many teach something as a step draws, there are no
    others, or it was tried `dynamic_sampling` times. Each time as many problems are drawn as are lacking. Adds the counts to the
    step's row.

    The method judges all of them together afterwards, as if they had been drawn at once. Raises RolloutsLostError.
    """
    if not p.dynamic_sampling:
        return got
    waiting = p.schedule.further(step)
    rounds, num_asked = 1, p.schedule.per_step
    got = _scored(p, got, clock)
    while True:
        with clock("grade"):
            taught = _num_teaching(p, step, got)
        lacking = p.schedule.per_step - taught
        if lacking <= 0 or not waiting or rounds > p.dynamic_sampling:
            row |= {"rollout/num_rounds": float(rounds), "rollout/num_problems": float(num_asked)}
            return got
        drawn, waiting = waiting[:lacking], waiting[lacking:]
        with clock("generate"):
            more = collect(p.runtime, p.grader, p.asks, drawn, p.runtime.engine_version, (p.seed, "train", step))
        clock.move("generate", "grade", more.grade_s)
        rounds, num_asked, got = rounds + 1, num_asked + len(drawn), _both(got, _scored(p, more, clock))


def planned(p: Parts, got: Collected, judgements: Sequence[Judgement]) -> tuple[Sequence[GroupRows] | None, dict[str, float]]:
    """The rows of the update, None if there is nothing to train on, and figures of them. With dynamic sampling groups that teach
    nothing are left out."""
    plan = plan_batch(got.rollouts, judgements, p.advantage, p.asks)
    metrics = plan_metrics(plan)
    if not p.dynamic_sampling:
        return plan, metrics
    taught = teaching(plan)
    return taught, metrics | {"train/num_problems": float(_num_problems(taught))}


def _scored(p: Parts, got: Collected, clock: Clock) -> Collected:
    if p.score is None:
        return got
    with clock("score"):
        return p.score(got)


def _num_teaching(p: Parts, step: int, got: Collected) -> int:
    """How many of these problems would be learned from. The method forgets that it was asked."""
    put_back = bookmark(p.method)
    p.audit(got.groups)  # it sets what the views count
    plan = teaching(plan_batch(got.rollouts, p.method.judge(got.groups, step), p.advantage, p.asks))
    put_back()
    return _num_problems(plan)


def _num_problems(plan: Sequence[GroupRows] | None) -> int:
    return len({group.problem for group in plan or ()})


def _both(first: Collected, more: Collected) -> Collected:
    return Collected(
        [*first.rollouts, *more.rollouts],
        [*first.groups, *more.groups],
        [*first.failed, *more.failed],
        first.generate_s + more.generate_s,
        first.grade_s + more.grade_s,
    )
