"""What an engine is doing, and what it may do next."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from harmonyray.errors import RunError

SERVING, PAUSED, UPDATING, ASLEEP, CLOSED = "serving", "paused", "updating", "asleep", "closed"

NEXT = {
    SERVING: (PAUSED, UPDATING, ASLEEP, CLOSED),
    PAUSED: (SERVING, UPDATING, ASLEEP, CLOSED),
    UPDATING: (SERVING, PAUSED, CLOSED),
    ASLEEP: (SERVING, CLOSED),
    CLOSED: (),
}


class EngineStateError(RunError):
    """An engine was asked for something that its state does not allow."""


class EngineState:
    """One engine's state; it starts out serving. `name` is one of `NEXT`."""

    def __init__(self) -> None:
        self.name = SERVING

    def move(self, to: str) -> None:
        """Raises EngineStateError, naming both states, if `to` does not follow from the present one."""
        self.check(to)
        self.name = to

    def check(self, to: str) -> None:
        """Raises what `move` would raise, and moves nowhere."""
        if to not in NEXT[self.name]:
            allowed = " or ".join(NEXT[self.name]) or "nothing"
            raise EngineStateError(f"an engine that is {self.name} cannot become {to}: expected {allowed}")

    def require(self, wanted: str, action: str) -> None:
        """Raises EngineStateError, naming both states, unless the engine is `wanted`."""
        if self.name != wanted:
            raise EngineStateError(f"cannot {action}: the engine is {self.name}, and has to be {wanted}")

    @contextmanager
    def updating(self) -> Iterator[None]:
        """Updating inside, then what it was before. After an error the weights are neither old nor new: it stays updating, and
        nothing but closing is possible."""
        before = self.name
        self.move(UPDATING)
        yield
        self.move(before)
