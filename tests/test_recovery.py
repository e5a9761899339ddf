"""A learner that is lost outside the loop: on the way back of a rollback, and when the model is saved."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harmonyray import recovery
from harmonyray.checkpoint import CheckpointStore
from harmonyray.config_sections import GuardConfig
from harmonyray.console import Reporter
from harmonyray.errors import LearnerLostError
from harmonyray.guard import Alarm, Guard
from harmonyray.guarding import Watch
from harmonyray.parts import Parts
from harmonyray.recovery import train_through
from harmonyray.rundir import Start


class Learner:
    """A runtime whose learner is a number of steps and a learning rate. It dies once, in the call `deadly`, before doing it."""

    def __init__(self, deadly: str) -> None:
        self.deadly, self.alive, self.restarts = deadly, True, 0
        self.steps_learned, self.scale = 0, 1.0

    def _called(self, name: str) -> None:
        if name == self.deadly:
            self.deadly, self.alive = "", False
        if not self.alive:
            raise LearnerLostError(f"lost during {name}")

    def restart_learner(self) -> None:
        self.alive, self.steps_learned, self.scale = True, 0, 1.0
        self.restarts += 1

    def load(self, path: Path) -> None:
        self._called("load")
        self.steps_learned, self.scale = json.loads((path / "learner.json").read_text())

    def scale_rate(self, scale: float) -> None:
        self._called("scale_rate")
        self.scale = scale

    def save(self, path: Path) -> None:
        self._called("save")
        (path / "learner.json").write_text(json.dumps([self.steps_learned, self.scale]))

    def save_model(self, path: Path) -> None:
        self._called("save_model")
        (path / "model.json").write_text(json.dumps([self.steps_learned, self.scale]))

    def sync(self) -> None:
        self._called("sync")


class Run:
    """Three steps with a checkpoint after each, except that the guard sees an alarm in the third at first: back to step 1."""

    def __init__(self, tmp_path: Path, deadly: str) -> None:
        self.deadly, self.learner, self.first_steps = deadly, Learner(""), list[int]()
        self.store = CheckpointStore(tmp_path / "checkpoints", keep=4)
        limits = GuardConfig(action="rollback", lr_factor=0.5)
        self.guard = Watch(Guard(limits, ["a"], voted=False), limits, self.store, lambda event: None)
        self.start = Start(tmp_path, self.store, None, {})
        self.parts: Any = SimpleNamespace(method=None, guard=self.guard, save=self.save, steps=3)

    def save(self, step: int) -> None:
        self.store.save(step, step, self.learner.save, {"guard": self.guard.state_dict(), "eval": {}})

    def train(self, p: Parts, first_step: int, stop_asked: Callable[[], bool]) -> int:
        self.first_steps.append(first_step)
        for step in range(first_step, 4):
            self.learner.steps_learned = step
            if step == 3 and not self.guard.events:
                self.learner.deadly = self.deadly
                self.guard.alarm = Alarm(3, 2, {"kl": "too far"})
                self.guard.act()
            self.save(step)
        return 3

    def through(self, monkeypatch: pytest.MonkeyPatch) -> int:
        monkeypatch.setattr(recovery, "train", self.train)
        tracker: Any = SimpleNamespace(go_back=lambda step: None)
        return train_through(self.parts, self.start, self.learner, tracker, Reporter(quiet=True), lambda: False)


@pytest.mark.parametrize("deadly", ["", "load", "scale_rate", "save", "sync"])
def test_a_learner_that_is_lost_on_the_way_back_goes_there_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deadly: str
) -> None:
    """With the lower rate, and the guard knows what it did."""
    run = Run(tmp_path, deadly)
    assert run.through(monkeypatch) == 3
    assert run.learner.restarts == bool(deadly)
    assert run.first_steps == [1, 2]
    assert json.loads((tmp_path / "model" / "model.json").read_text()) == [3, 0.5]
    state = json.loads((run.store.path(1) / "state.json").read_text())
    assert [(event["to"], event["lr_scale"]) for event in state["guard"]["events"]] == [(1, 0.5)]
    assert json.loads((run.store.path(1) / "learner.json").read_text()) == [1, 0.5]


def test_a_learner_that_is_lost_when_the_model_is_saved_saves_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes from the last step's checkpoint."""
    run = Run(tmp_path, "save_model")
    assert run.through(monkeypatch) == 3
    assert (run.learner.restarts, run.first_steps) == (1, [1, 2, 4])
    assert json.loads((tmp_path / "model" / "model.json").read_text()) == [3, 0.5]
