"""THE loop. It knows no method, engine or view by name, nor whether its parts are actors or plain objects."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from harmonyray.clock import Clock
from harmonyray.errors import LearnerLostError, NotFiniteError, RolloutsLostError, RunError
from harmonyray.guarding import TurnBack
from harmonyray.judging import judged
from harmonyray.ledger import take_ledger
from harmonyray.parts import Parts, bookmark
from harmonyray.resampling import fill
from harmonyray.rollouts_ahead import Rollouts
from harmonyray.saving import Saving
from harmonyray.step_metrics import step_metrics
from harmonyray.types import Collected, GroupRows, UpdateReport


def train(p: Parts, first_step: int, stop_asked: Callable[[], bool] = lambda: False) -> int:
    """Runs steps `first_step`..`steps` (from 1) and returns the last one finished; ends early after a step if asked to.

    A step is: sample every view and group the answers, judge, update, broadcast, evaluate and save when due, which is done while
    the next rollouts are sampled. Raises RunError, with a checkpoint saved, for a step of which too little could be sampled, and
    CollapseError likewise if the guard says so; TurnBack if it says to go back; LearnerLostError, with nothing saved.
    """
    finished: int | None = first_step - 1  # None while the learner may be at neither of two steps
    put_back = bookmark(p.method)  # to what it was after the step that was finished last
    beside = ThreadPoolExecutor(2, thread_name_prefix="step")  # what goes on beside this thread: two things at most at once
    rollouts, saving = Rollouts(p, beside), Saving(p.save, first_step - 1, beside)
    try:
        for step in range(first_step, p.steps + 1):
            clock, row = Clock(), dict[str, Any]()
            with clock("step"):
                got = rollouts.take(step, clock)
                with clock("save"):
                    saving.finish()
                _check_enough(p, step, got)
                got = fill(p, step, got, clock, row)
                # What is saved or evaluated is the policy after this step, and a resumed run has nothing under way either.
                if p.lag and not (p.saves(step) or p.evaluates(step)):
                    rollouts.begin(step + 1)
                got, judgements, plan = judged(p, step, got, rollouts, clock, row)
                finished = None
                with clock("learn"):
                    learning = None if plan is None else beside.submit(_update, p, plan, step)
                    if not rollouts.begun and step < p.steps:
                        p.runtime.prepare(p.asks, p.schedule.draw(step + 1))
                    ledger = take_ledger(step, judgements, p.evaluator.mark(judgements))
                    row |= step_metrics(p.evaluator, p.asks, got, judgements, ledger)
                    report, learn_s = (None, 0.0) if learning is None else learning.result()
                    row |= {} if report is None else _named("train", report.metrics)
                clock.move("learn", "grade", clock.seconds["time/learn_s"] - learn_s)
                if learning is not None and (p.syncs_in_flight or not rollouts.begun):
                    _sync(p, clock, row)
                row |= {"policy_version": p.runtime.policy_version, "train/skipped": float(plan is None)}
                failure = _evaluate(p, step, clock, row) if p.evaluates(step) else None
            row = {"step": step, **row, "runtime/restarts": float(p.runtime.take_restarts())}
            row |= p.guard.look(row)
            p.tracker.log_step(step, row | clock.seconds, got, judgements, ledger)
            finished, put_back, stopping = step, bookmark(p.method), step < p.steps and stop_asked()
            p.guard.act(failure)
            if p.saves(step) or stopping or p.is_best(row):
                saving.begin(step)
            if failure is not None:
                raise failure
            if stopping:
                break
        saving.finish()
        return saving.step
    except (TurnBack, LearnerLostError):
        rollouts.settle()  # nobody samples any more when the weights are changed
        raise
    except RunError as e:
        saving.settle()
        put_back()
        # Of rollouts that are lost, and gradients that are not finite, the learner has learned nothing.
        unlearned = finished is None and isinstance(e, (RolloutsLostError, NotFiniteError))
        saving.finish_after(e, step - 1 if unlearned else finished)
        raise
    finally:
        saving.settle()  # before the learner goes back or is ended, and others may take up the run
        beside.shutdown(wait=False, cancel_futures=True)


def _update(p: Parts, plan: Sequence[GroupRows], step: int) -> tuple[UpdateReport, float]:
    """The report, and the seconds it took. A batch whose gradients are not finite once too often is kept."""
    begun = time.perf_counter()
    try:
        report = p.runtime.update(plan, step)
    except NotFiniteError as e:
        raise NotFiniteError(f"{e}. {p.keep_batch(plan, step)}") from e
    return report, time.perf_counter() - begun


def _evaluate(p: Parts, step: int, clock: Clock, row: dict[str, Any]) -> RunError | None:
    """Adds the evaluation to the step's row. A failure is returned: the step itself is recorded and saved first."""
    try:
        with clock("eval"):
            row |= p.evaluator.evaluate(p.runtime.policy_version)
    except RunError as e:
        return e
    return None


def _sync(p: Parts, clock: Clock, row: dict[str, Any]) -> None:
    with clock("sync"):
        row |= _named("sync", p.runtime.sync())


def _named(prefix: str, metrics: Mapping[str, float]) -> dict[str, float]:
    return {f"{prefix}/{key}": value for key, value in metrics.items()}


def _check_enough(p: Parts, step: int, got: Collected) -> None:
    """Raises RunError if too few of the step's problems could be sampled."""
    if len(got.groups) >= p.min_complete_share * p.schedule.per_step:
        return
    p.tracker.log_failed(step, got.failed)
    last = got.failed[-1]
    why = f"problem {last.problem_id!r}, view {last.view!r}, attempt {last.attempt}: {last.reason}"
    kept = f"Step {step - 1} is saved: mend the cause and go on with --resume" if step > 1 else "Nothing was learned yet"
    raise RunError(
        f"step {step}: only {len(got.groups)} of {p.schedule.per_step} problems could be sampled in every view, less than "
        f"rollout.min_complete_share = {p.min_complete_share:g}; the last failure: {why}. {kept}"
    )
