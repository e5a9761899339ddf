"""What a run does about the collapse guard's alarms: warn, pause, or go back to a checkpoint from before them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from harmonyray.checkpoint import CheckpointStore
from harmonyray.config_sections import GuardConfig
from harmonyray.errors import CollapseError
from harmonyray.guard import SIGNS, Alarm, Guard

Event = Mapping[str, Any]
"""What was done about an alarm, JSON-ready: `step`, `onset`, `signs` (name to what was seen), `action`; of a rollback also `to`,
the checkpoint's step, and `lr_scale`."""


class TurnBack(Exception):
    """No error: the run is to go on from the checkpoint of `step`, at `lr_scale` of its learning rate."""

    def __init__(self, step: int, lr_scale: float) -> None:
        super().__init__(f"back to step {step}")
        self.step, self.lr_scale = step, lr_scale


class Watch:
    """The guard of a run, and what it has done so far. `tell` is given every event."""

    def __init__(self, guard: Guard, limits: GuardConfig, store: CheckpointStore, tell: Callable[[Event], None]) -> None:
        self.guard, self.limits, self.store, self.tell = guard, limits, store, tell
        self.events: list[Event] = []
        self.alarm: Alarm | None = None

    def look(self, row: Mapping[str, float]) -> dict[str, float]:
        """Takes in a step's metrics; returns `guard/fired`, `guard/{sign}`, each 1 or 0, and `guard/rollbacks` so far.

        With action "none" it only remembers, so that a resumed run with another action knows how the run began.
        """
        alarm = self.guard.look(row)
        if self.limits.action == "none":
            return {}
        self.alarm = alarm
        signs = {} if self.alarm is None else self.alarm.signs
        metrics = {"guard/fired": float(bool(signs)), "guard/rollbacks": float(self.rollbacks)}
        return metrics | {f"guard/{sign}": float(sign in signs) for sign in SIGNS}

    def act(self, failure: Exception | None = None) -> None:
        """Does what the configuration says about the step's alarm, if there is one; nothing after a `failure`, which ends the
        run. Raises CollapseError to pause, TurnBack to go back."""
        if self.alarm is None or failure is not None:
            return
        if self.limits.action == "warn":
            told = {sign for event in self.events if event["action"] == "warn" for sign in event["signs"]}
            if set(self.alarm.signs) - told:
                self._record("warn")
            return
        goes_back = self.limits.action == "rollback" and self.rollbacks < self.limits.max_rollbacks
        good = self.store.sound_before(self.alarm.onset) if goes_back else None
        if good is not None:
            scale = self.limits.lr_factor ** (self.rollbacks + 1)
            self._record("rollback", to=good, lr_scale=scale)
            self.guard.go_back(good)
            raise TurnBack(good, scale)
        self._record("pause")
        raise CollapseError(self._paused(self.alarm))

    @property
    def rollbacks(self) -> int:
        return sum(event["action"] == "rollback" for event in self.events)

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.guard.state_dict(), "events": self.events}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.guard.load_state_dict(state["seen"])
        self.events = list(state["events"])

    def _record(self, action: str, **more: Any) -> None:
        assert self.alarm is not None
        alarm = self.alarm
        event = {"step": alarm.step, "onset": alarm.onset, "signs": dict(alarm.signs), "action": action, **more}
        self.events.append(event)
        self.tell(event)

    def _paused(self, alarm: Alarm) -> str:
        """The message of a pause. The step is saved next, which may push out the oldest checkpoint."""
        good = [step for step in [*self.store.steps(), alarm.step][-self.store.keep :] if step < alarm.onset]
        again = f", or delete the checkpoints after step {good[-1]}, the last good one" if good else ""
        tried = f" after {self.rollbacks} rollback(s)" if self.rollbacks else ""
        return (
            f"step {alarm.step}: paused by the collapse guard{tried}: {alarm.text}; since step {alarm.onset}. Step "
            f"{alarm.step} is saved: go on with --resume and guard.action=warn or wider limits (docs/guard.md){again}"
        )


def described(event: Event) -> str:
    """An event in one line."""
    signs = "; ".join(f"{sign}: {seen}" for sign, seen in event["signs"].items())
    done = {"warn": "", "pause": "; paused"}
    back = f"; back to step {event['to']}, {event['lr_scale']:g} of the learning rate" if event["action"] == "rollback" else ""
    return f"step {event['step']}: collapse guard: {signs}; since step {event['onset']}{done.get(event['action'], back)}"
