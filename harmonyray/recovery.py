"""Training through what goes wrong: the loop, begun again from a checkpoint when the guard says so or the learner is lost."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from typing import Any

from harmonyray.checkpoint import STATE_FILE
from harmonyray.console import Reporter
from harmonyray.errors import LearnerLostError
from harmonyray.guarding import TurnBack
from harmonyray.loop import train
from harmonyray.parts import Parts
from harmonyray.protocols import Stateful
from harmonyray.rundir import Start
from harmonyray.tracking import RunTracker


def train_through(
    p: Parts, start: Start, runtime: Any, tracker: RunTracker, reporter: Reporter, stop_asked: Callable[[], bool]
) -> int:
    """The loop, again from a checkpoint each time that the guard says to go back or the learner is lost; the last step
    finished. Raises RunError once the run's restarts are used up."""
    first_step, lost = start.first_step, False
    parts = {"method": p.method, "guard": p.guard}
    beginning = copy.deepcopy({name: part.state_dict() for name, part in parts.items() if isinstance(part, Stateful)})
    while True:
        try:
            if lost:
                step = _start_learner_again(p, start, runtime, tracker, beginning)
                reporter.started_again(step)
                first_step, lost = step + 1, False
            return train(p, first_step, stop_asked)
        except TurnBack as back:
            _go_back(back, p, start, runtime, tracker)
            first_step = back.step + 1
        except LearnerLostError as e:
            reporter.learner_lost(str(e))
            lost = True


def _start_learner_again(p: Parts, start: Start, runtime: Any, tracker: RunTracker, beginning: Mapping[str, Any]) -> int:
    """A new learner with everything else at the newest checkpoint, whose step is returned, or at the `beginning`."""
    runtime.restart_learner()
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
    rate and what the guard did, so that a resumed run does not go astray another time. Until it is loaded nothing is given up."""
    path = start.store.path(back.step)
    runtime.load(path)
    runtime.scale_rate(back.lr_scale)
    if isinstance(p.method, Stateful):
        p.method.load_state_dict(json.loads((path / STATE_FILE).read_text())["method"])
    start.store.drop_after(back.step)
    tracker.go_back(back.step)
    p.save(back.step)
    runtime.sync()
