"""Training through what goes wrong: the loop, begun again from a checkpoint when the guard says so or the learner is lost, and
what comes before the loop, begun again."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from harmonyray.checkpoint import STATE_FILE, replace_directory
from harmonyray.console import Reporter
from harmonyray.errors import LearnerLostError
from harmonyray.guarding import TurnBack
from harmonyray.loop import train
from harmonyray.parts import Parts
from harmonyray.protocols import Stateful
from harmonyray.rundir import Start
from harmonyray.tracking import RunTracker

T = TypeVar("T")


def through_losses(runtime: Any, begin: Callable[[], None], reporter: Reporter, step: int, what: Callable[[], T]) -> T:
    """What `what` gives, asked for again each time that the learner is lost meanwhile, after `begin`: it brings a new one, and
    the engines, to where the run begins, after `step`. Raises RunError once the run's restarts are used up."""
    lost = False
    while True:
        try:
            if lost:
                runtime.restart_learner()
                begin()
                reporter.started_again(step)
                lost = False
            return what()
        except LearnerLostError as e:
            reporter.learner_lost(str(e))
            lost = True


def train_through(
    p: Parts, start: Start, runtime: Any, tracker: RunTracker, reporter: Reporter, stop_asked: Callable[[], bool]
) -> int:
    """The loop, again from a checkpoint each time that the guard says to go back or the learner is lost, and the model saved
    after the last step; the last step finished. A learner that is lost on the way back starts again and goes there. Raises
    RunError once the run's restarts are used up."""
    first_step, lost = start.first_step, False
    back: TurnBack | None = None
    parts = {"method": p.method, "guard": p.guard}
    beginning = copy.deepcopy({name: part.state_dict() for name, part in parts.items() if isinstance(part, Stateful)})
    while True:
        try:
            if lost:
                runtime.restart_learner()
                step = _to_the_newest(p, start, runtime, tracker, beginning) if back is None else back.step
                reporter.started_again(step)
                first_step, lost = step + 1, False
            if back is not None:
                _go_back(back, p, start, runtime, tracker)
                first_step, back = back.step + 1, None
            last = train(p, first_step, stop_asked)
            if last == p.steps:
                replace_directory(start.run_dir / "model", runtime.save_model)
            return last
        except TurnBack as turn:
            back = turn
        except LearnerLostError as e:
            reporter.learner_lost(str(e))
            lost = True


def _to_the_newest(p: Parts, start: Start, runtime: Any, tracker: RunTracker, beginning: Mapping[str, Any]) -> int:
    """Brings a new learner and everything else to the newest checkpoint, whose step is returned, or to the `beginning`."""
    found, refused = start.store.newest()
    start.store.set_aside(refused)
    if found is not None:
        runtime.load(found[0])
    state = beginning if found is None else found[1]
    step = 0 if found is None else int(found[1]["step"])
    if isinstance(p.method, Stateful):
        p.method.load_state_dict(state["method"])
    p.guard.load_state_dict(state["guard"])
    tracker.go_back(step)
    runtime.sync()
    return step


def _go_back(back: TurnBack, p: Parts, start: Start, runtime: Any, tracker: RunTracker) -> None:
    """Brings learner, engines, method and records to where the checkpoint was made. It is saved again, with the lower learning
    rate and what the guard did, so that a resumed run does not go astray another time. Until it is loaded nothing is given up;
    where the learner is lost meanwhile it is done again."""
    path = start.store.path(back.step)
    runtime.load(path)
    runtime.scale_rate(back.lr_scale)
    if isinstance(p.method, Stateful):
        p.method.load_state_dict(json.loads((path / STATE_FILE).read_text())["method"])
    start.store.drop_after(back.step)
    tracker.go_back(back.step)
    p.save(back.step)
    runtime.sync()
