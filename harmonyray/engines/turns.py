"""Who may use an engine's model now."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType


class Turns:
    """A lock that threads get in the order in which they asked for it.

    Python's own lock goes to whoever is quickest, which is mostly the thread that has just let go of it: one that generates,
    step after step, would keep another that brings new weights waiting for ever.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._taken = False
        self._waiting: deque[threading.Lock] = deque()  # each is released when its turn has come

    def __enter__(self) -> None:
        with self._guard:
            if not self._taken:
                self._taken = True
                return
            turn = threading.Lock()
            turn.acquire()
            self._waiting.append(turn)
        try:
            turn.acquire()
        except BaseException:  # an interrupt: the turn may already be ours, and then it has to go on
            with self._guard:
                if turn in self._waiting:
                    self._waiting.remove(turn)
                else:
                    self._next()
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._guard:
            self._next()

    @contextmanager
    def if_free(self) -> Iterator[bool]:
        """Never waits: inside, true if the lock was free and is now held."""
        mine = self._guard.acquire(blocking=False)
        if mine:
            mine = not self._taken
            self._taken = True
            self._guard.release()
        try:
            yield mine
        finally:
            if mine:
                self.__exit__(None, None, None)

    def _next(self) -> None:
        if self._waiting:
            self._waiting.popleft().release()
        else:
            self._taken = False
