"""Ctrl-C, and SIGTERM, which is what batch systems, Kubernetes and `ray job stop` send before they kill."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# prctl(2) with PR_SET_PDEATHSIG, which outlives the exec. A parent that is gone by then sends nothing any more. Whoever was
# started in the background of a shell script ignores SIGINT, and its children would.
_WITH_PARENT = """
import ctypes, os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
ctypes.CDLL(None).prctl(1, signal.SIGINT)
if os.getppid() != int(sys.argv[1]):
    sys.exit("whoever started this has ended")
os.execv(sys.argv[2], sys.argv[2:])
"""


def ends_with_us(command: Sequence[str]) -> list[str]:
    """A command, its program as a whole path, that gets SIGINT when the thread that starts it ends, however that comes about.
    Unchanged where the system has nothing of the kind (it is Linux that has).

    The child asks for that itself, in an interpreter before its own program: code between fork and exec (`preexec_fn`) can hang
    in a process with threads.
    """
    if sys.platform != "linux":
        return list(command)
    return [sys.executable, "-c", _WITH_PARENT, str(os.getpid()), *command]


@contextmanager
def termination_interrupts() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt, as Ctrl-C does. Nothing changes outside the main thread."""

    def handle(signum: int, frame: Any) -> None:
        raise KeyboardInterrupt

    with _handled((signal.SIGTERM,), handle):
        yield


@contextmanager
def termination_kept() -> Iterator[None]:
    """What stands for SIGTERM stands there again afterwards: `ray.init` puts a handler of its own in its place. Until then a
    SIGTERM, which ends in SystemExit there, raises KeyboardInterrupt all the same."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as e:
        if e.code != signal.SIGTERM:
            raise
        raise KeyboardInterrupt from e
    finally:
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
