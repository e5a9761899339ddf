"""Everything that the loop turns, and when it evaluates and saves."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from harmonyray.evaluate import Evaluator
from harmonyray.guarding import Watch
from harmonyray.problems.schedule import ProblemSchedule
from harmonyray.protocols import Advantage, Ask, Grader, Method, Runtime, Stateful, Tracker
from harmonyray.types import AnswerGroup, Collected, GroupRows


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything the loop turns. A view of `asks` [V] that is not trained votes only. `score` adds to a step's groups what the
    method asks the learner for, None if that is nothing; `audit` looks at its views before the method judges, and returns
    metrics. With `lag` 1 a step's rollouts are sampled while the step before it is learned from; `syncs_in_flight`: whether
    weights may be broadcast meanwhile. Of fewer than `min_complete_share` of a step's problems nothing is learned. `keep_batch`
    writes the batch of a step's plan to a file for inspection, and says where it is or why not. `is_best`: whether a step with
    these metrics is to be saved although no checkpoint is due. `dynamic_sampling`: how often a step may draw further problems
    (`resampling.py`)."""

    schedule: ProblemSchedule
    asks: Sequence[Ask]
    runtime: Runtime
    grader: Grader
    audit: Callable[[Sequence[AnswerGroup]], dict[str, float]]
    method: Method
    advantage: Advantage
    evaluator: Evaluator
    tracker: Tracker
    guard: Watch
    save: Callable[[int], None]
    keep_batch: Callable[[Sequence[GroupRows], int], str]
    seed: int
    steps: int
    eval_every: int
    checkpoint_every: int
    lag: int
    syncs_in_flight: bool
    min_complete_share: float
    score: Callable[[Collected], Collected] | None = None
    is_best: Callable[[Mapping[str, float]], bool] = lambda row: False
    dynamic_sampling: int = 0

    def evaluates(self, step: int) -> bool:
        return step == self.steps or bool(self.eval_every and step % self.eval_every == 0)

    def saves(self, step: int) -> bool:
        return step == self.steps or step % self.checkpoint_every == 0


def bookmark(method: Method) -> Callable[[], None]:
    """What puts a method back to what it has learned until now, as often as it is called."""
    if not isinstance(method, Stateful):
        return lambda: None
    stateful, state = method, copy.deepcopy(method.state_dict())
    return lambda: stateful.load_state_dict(copy.deepcopy(state))
