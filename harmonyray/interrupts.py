"""Ctrl-C, and SIGTERM, which is what batch systems, Kubernetes and `ray job stop` send before they kill."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def termination_interrupts() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt, as Ctrl-C does. Nothing changes outside the main thread."""

    def handle(signum: int, frame: Any) -> None:
        raise KeyboardInterrupt

    with _handled((signal.SIGTERM,), handle):
        yield


@contextmanager
def termination_kept() -> Iterator[None]:
    """What stands for SIGTERM stands there again afterwards: `ray.init` puts a handler of its own in its place."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if callable(before) and _in_main_thread():
        signal.signal(signal.SIGTERM, before)


@contextmanager
def graceful_interrupt(tell: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """Gives whether a step's end should be the last: the first Ctrl-C or SIGTERM asks for that, and tells so; the second
    raises KeyboardInterrupt. (Outside the main thread signals cannot reach us, and the answer is always no.)"""
    asked: list[int] = []

    def handle(signum: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(signum)
        tell()

    with _handled(SIGNALS, handle):
        yield lambda: bool(asked)


@contextmanager
def _handled(signals: tuple[signal.Signals, ...], handle: Callable[[int, Any], None]) -> Iterator[None]:
    if not _in_main_thread():
        yield
        return
    previous = [(number, signal.signal(number, handle)) for number in signals]
    try:
        yield
    finally:
        for number, handler in previous:
            if handler is not None:  # not Python's, so not ours to put back
                signal.signal(number, handler)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
