"""THE loop. It knows no method, engine or view by name, nor whether its parts are actors or plain objects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from harmonyray.algos.batching import plan_batch
from harmonyray.collect import collect
from harmonyray.errors import RunError
from harmonyray.evaluate import Evaluator
from harmonyray.ledger import take_ledger
from harmonyray.problems.schedule import ProblemSchedule
from harmonyray.protocols import Advantage, Ask, Grader, Method, Runtime, Tracker
from harmonyray.step_metrics import Clock, collected_metrics, step_metrics
from harmonyray.types import AnswerGroup, Collected


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything the loop turns. A view of `asks` [V] that is not trained votes only. `audit` looks at a step's views before the
    method judges, and returns metrics. With `lag` 1 a step's rollouts are sampled while the step before it is learned from;
    `syncs_in_flight`: whether weights may be broadcast meanwhile. Of fewer than `min_complete_share` of a step's problems
    nothing is learned."""

    schedule: ProblemSchedule
    asks: Sequence[Ask]
    runtime: Runtime
    grader: Grader
    audit: Callable[[Sequence[AnswerGroup]], dict[str, float]]
    method: Method
    advantage: Advantage
    evaluator: Evaluator
    tracker: Tracker
    save: Callable[[int], None]
    seed: int
    steps: int
    eval_every: int
    checkpoint_every: int
    lag: int
    syncs_in_flight: bool
    min_complete_share: float

    def evaluates(self, step: int) -> bool:
        return step == self.steps or bool(self.eval_every and step % self.eval_every == 0)

    def saves(self, step: int) -> bool:
        return step == self.steps or step % self.checkpoint_every == 0


def train(p: Parts, first_step: int, stop_asked: Callable[[], bool] = lambda: False) -> int:
    """Runs steps `first_step`..`steps` (from 1) and returns the last one finished; ends early after a step if asked to.

    A step is: sample every view and group the answers, judge, update, broadcast, evaluate and save when due. Raises RunError,
    with a checkpoint saved, for a step of which too little could be sampled.
    """
    saved = first_step - 1
    beside = ThreadPoolExecutor(2, thread_name_prefix="step")  # for the next rollouts, and for learning
    coming: Future[Collected] | None = None
    try:
        for step in range(first_step, p.steps + 1):
            clock, row = Clock(), dict[str, Any]()
            with clock("step"):
                with clock("generate"):
                    got = coming.result() if coming is not None else collect_step(p, step, p.runtime.engine_version)
                if coming is None:
                    clock.move("generate", "grade", got.grade_s)
                coming = None
                if len(got.groups) < p.min_complete_share * p.schedule.per_step:
                    if saved < step - 1:
                        p.save(step - 1)
                    raise _too_little(p, step, got)
                # What is saved or evaluated is the policy after this step, and a resumed run has nothing under way either.
                if p.lag and not (p.saves(step) or p.evaluates(step)):
                    with clock("sync"):
                        row |= _named("sync", p.runtime.sync())
                    coming = beside.submit(collect_step, p, step + 1, None if p.syncs_in_flight else p.runtime.engine_version)
                with clock("grade"):
                    row |= p.audit(got.groups)
                    judgements = p.method.judge(got.groups, step)
                    plan = plan_batch(got.rollouts, judgements, p.advantage, p.asks)
                with clock("learn"):
                    learning = None if plan is None else beside.submit(p.runtime.update, plan, step)
                    if coming is None and step < p.steps:
                        p.runtime.prepare(p.asks, p.schedule.draw(step + 1))
                    ledger = take_ledger(step, judgements)
                    row |= step_metrics(p.evaluator, p.asks, got.rollouts, judgements, ledger)
                    row |= collected_metrics(got, p.asks, p.schedule.per_step)
                    row |= {} if learning is None else _named("train", learning.result().metrics)
                if learning is not None and (coming is None or p.syncs_in_flight):
                    with clock("sync"):
                        row |= _named("sync", p.runtime.sync())
                row |= {"policy_version": p.runtime.policy_version, "train/skipped": float(plan is None)}
                if p.evaluates(step):
                    with clock("eval"):
                        row |= p.evaluator.evaluate(p.runtime.policy_version)
            row["runtime/restarts"] = float(p.runtime.take_restarts())
            p.tracker.log_step(step, {"step": step, **row, **clock.seconds}, got, judgements, ledger)
            stopping = step < p.steps and stop_asked()
            if p.saves(step) or stopping:
                p.save(step)
                saved = step
            if stopping:
                return step
        return p.steps
    finally:
        beside.shutdown(wait=False, cancel_futures=True)


def collect_step(p: Parts, step: int, version: int | None) -> Collected:
    """A step's rollouts and their answers, sampled under that policy version (None: whichever the engines come to hold)."""
    return collect(p.runtime, p.grader, p.asks, p.schedule.draw(step), version, (p.seed, "train", step))


def _named(prefix: str, metrics: Any) -> dict[str, float]:
    return {f"{prefix}/{key}": value for key, value in metrics.items()}


def _too_little(p: Parts, step: int, got: Collected) -> RunError:
    last = got.failed[-1]
    why = f"problem {last.problem_id!r}, view {last.view!r}, attempt {last.attempt}: {last.reason}"
    kept = f"Step {step - 1} is saved: mend the cause and go on with --resume" if step > 1 else "Nothing was learned yet"
    return RunError(
        f"step {step}: only {len(got.groups)} of {p.schedule.per_step} problems could be sampled in every view, less than "
        f"rollout.min_complete_share = {p.min_complete_share:g}; the last failure: {why}. {kept}"
    )
