"""THE loop. It knows no method, engine or view by name, nor whether its parts are actors or plain objects."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from harmonyray.algos.batching import make_batch
from harmonyray.algos.diagnostics import consensus_metrics
from harmonyray.evaluate import Evaluator
from harmonyray.ledger import StepLedger, take_ledger
from harmonyray.problems.schedule import ProblemSchedule
from harmonyray.protocols import Advantage, Grader, Learner, Method, Sampler, Tracker
from harmonyray.rollouts import Ask, sample_problems
from harmonyray.types import AnswerGroup, Judgement, ProblemRollouts


class Runtime(Sampler, Learner, Protocol):
    """Engines and learner behind one object, and the broadcast between them."""

    def sync(self) -> dict[str, float]:
        """Brings every engine to the learner's policy version; returns metrics."""
        ...

    def take_restarts(self) -> int:
        """Actors restarted since the last call."""
        ...


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything the loop turns. A view of `asks` [V] that is not trained votes only. `audit` looks at a step's views before the
    method judges, and returns metrics."""

    schedule: ProblemSchedule
    asks: Sequence[Ask]
    runtime: Runtime
    grader: Grader
    audit: Callable[[Sequence[ProblemRollouts], Sequence[AnswerGroup]], Mapping[str, float]]
    method: Method
    advantage: Advantage
    evaluator: Evaluator
    tracker: Tracker
    save: Callable[[int], None]
    seed: int
    steps: int
    eval_every: int
    checkpoint_every: int


def train(p: Parts, first_step: int, stop_asked: Callable[[], bool] = lambda: False) -> int:
    """Runs steps `first_step`..`steps` (from 1) and returns the last one finished; ends early after a step if asked to.

    A step is: sample every view, group the answers, judge, update, broadcast, evaluate and save when due.
    """
    for step in range(first_step, p.steps + 1):
        clock = Clock()
        with clock("step"):
            with clock("generate"):
                problems, seeds = p.schedule.draw(step), (p.seed, "train", step)
                rollouts = sample_problems(p.runtime, p.asks, problems, p.runtime.policy_version, seeds)
            with clock("grade"):
                groups = p.grader.group(rollouts)
                audit = p.audit(rollouts, groups)
                judgements = p.method.judge(groups, step)
            ledger = take_ledger(step, judgements)
            row = {**step_metrics(p, rollouts, judgements, ledger), **audit}
            batch = make_batch(rollouts, judgements, p.advantage, p.asks)
            if batch is not None:
                with clock("learn"):
                    report = p.runtime.update(batch, step)
                    row |= {f"train/{key}": value for key, value in report.metrics.items()}
                with clock("sync"):
                    row |= {f"sync/{key}": value for key, value in p.runtime.sync().items()}
            row |= {"policy_version": p.runtime.policy_version, "train/skipped": float(batch is None)}
            if step == p.steps or (p.eval_every and step % p.eval_every == 0):
                with clock("eval"):
                    row |= p.evaluator.evaluate(p.runtime.policy_version)
        row["runtime/restarts"] = float(p.runtime.take_restarts())
        p.tracker.log_step(step, {"step": step, **row, **clock.seconds}, rollouts, judgements, ledger)
        stopping = step < p.steps and stop_asked()
        if step == p.steps or step % p.checkpoint_every == 0 or stopping:
            p.save(step)
        if stopping:
            return step
    return p.steps


def step_metrics(
    p: Parts, rollouts: Sequence[ProblemRollouts], judgements: Sequence[Judgement], ledger: StepLedger
) -> dict[str, float]:
    """What a step's rollouts and judgements were like: `consensus/*`, `selectors/*`, `reward/{view}/*`, `rollout/{view}/*`."""
    groups = [j.group for j in judgements]
    row = consensus_metrics([j.consensus for j in judgements], groups) | ledger.metrics()
    row |= p.evaluator.label_metrics(judgements, ledger.verdicts)
    row["consensus/timeouts"] = float(sum(g.num_timeouts for g in groups))
    for key in sorted({key for j in judgements for key in j.metrics}):
        row[key] = float(np.mean([j.metrics[key] for j in judgements if key in j.metrics]))
    for v, view in enumerate(ask.view for ask in p.asks):
        samples = [s for problem in rollouts for s in problem.rollouts[v]]
        row[f"reward/{view.name}/mean"] = float(np.nanmean([j.rewards[v] for j in judgements]))
        row[f"rollout/{view.name}/length"] = float(np.mean([len(s.token_ids) for s in samples]))
        row[f"rollout/{view.name}/truncated"] = float(np.mean([s.finish_reason == "length" for s in samples]))
        drafts = {id(s.draft): len(s.draft.token_ids) for s in samples if s.draft is not None}
        if drafts:
            row[f"rollout/{view.name}/draft_length"] = float(np.mean(list(drafts.values())))
        row[f"rollout/{view.name}/answered"] = float(np.mean([g.cluster_ids[v, : g.num_samples[v]] >= 0 for g in groups]))
    return row


class Clock:
    """Seconds spent in named phases: `with clock("learn"): ...` adds to `seconds["time/learn_s"]`."""

    def __init__(self) -> None:
        self.seconds = {f"time/{name}_s": 0.0 for name in ("step", "generate", "grade", "learn", "sync", "eval")}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[f"time/{name}_s"] += time.perf_counter() - start
