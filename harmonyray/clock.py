"""Where a step's time went."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

PHASES = ("generate", "score", "grade", "learn", "sync", "eval", "save")
"""Of a step, by the names of `time/{phase}_s`; `save` is the wait for the checkpoint of the step before."""


class Clock:
    """Seconds spent in named phases: `with clock("learn"): ...` adds to `seconds["time/learn_s"]`."""

    def __init__(self) -> None:
        self.seconds = {f"time/{name}_s": 0.0 for name in ("step", *PHASES)}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[f"time/{name}_s"] += time.perf_counter() - start

    def move(self, source: str, target: str, seconds: float) -> None:
        """Counts seconds that were spent in phase `source` as phase `target`'s."""
        self.seconds[f"time/{source}_s"] -= seconds
        self.seconds[f"time/{target}_s"] += seconds
