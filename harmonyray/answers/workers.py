"""A killable child process around math-verify: pairs in, verdicts out, no pair costs more than its limit.

Only processes live here: which pairs need a solver, and caching, is `equivalence`. No signals, so any thread may use it.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from math import ceil
from types import TracebackType
from typing import Any

from harmonyray.errors import GraderError

_STARTUP_S = 120.0
_MAX_BATCH = 64
_MAX_FAILED_STARTS = 3
_MAX_STRIKES = 2
_BUSY_FACTOR = 3.0
_TICK_S = 0.02

Text = tuple[str, str]  # (mode, text)


@dataclass(frozen=True, slots=True)
class Task:
    """A pair for math-verify. `mode` is "latex" (the text is one formula in `$..$`) or "prose" (find it in there);
    floats count as equal when they agree to `places` decimals."""

    left: Text
    right: Text
    places: int = 6


@dataclass(frozen=True, slots=True)
class Reply:
    """`status`: "ok", "timeout" (given up: out of time, or of memory so badly that the child died) or "unparsable".
    `seconds`: by the clock, from when the child was given the pair to the verdict (0 for one that was not tried)."""

    equal: bool
    status: str
    seconds: float = field(default=0.0, compare=False)


class MathVerifyWorker:
    """One long-lived child. Use as a context manager or call `close()`; safe to share between threads.

    `limit_s`: processor seconds a pair may take, both directions and parsing together; these are seconds by the clock
    unless the machine is busy, and then at most _BUSY_FACTOR times as many. `memory_mb`: the child's address space.
    """

    def __init__(self, limit_s: float = 1.5, memory_mb: int = 1024) -> None:
        self._limit_s = limit_s
        self._memory_mb = memory_mb
        self._alarm_s = ceil(_BUSY_FACTOR * limit_s) + 2
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = False
        self._closed = False
        self._pending = b""
        self._unreadable: dict[Text, None] = {}
        self._lock = threading.Lock()
        self.num_restarts = 0

    def __enter__(self) -> MathVerifyWorker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The child's process id, or None when none runs."""
        return self._process.pid if self._process is not None else None

    def compare(self, tasks: Sequence[Task]) -> list[Reply]:
        """A reply per task, in order. A stuck pair is a "timeout" and the tasks behind it still get their answers.

        A text that cannot be parsed in time is not tried again; one that gets stuck in _MAX_STRIKES comparisons of this
        call is left out of the rest of it, so that one bomb among N answers does not cost N limits.

        Raises GraderError when the child cannot be started, or when the worker is closed.
        """
        replies: list[Reply] = []
        strikes: dict[Text, int] = {}
        num_deaths = 0
        with self._lock:
            while len(replies) < len(tasks):
                if self._is_bad(tasks[len(replies)], strikes):
                    replies.append(Reply(False, "timeout"))
                    continue
                rest = tasks[len(replies) : len(replies) + _MAX_BATCH]
                new = self._batch(list(takewhile(lambda task: not self._is_bad(task, strikes), rest)), strikes)
                num_deaths = 0 if new else num_deaths + 1
                if num_deaths == _MAX_FAILED_STARTS:
                    raise GraderError("the math-verify child dies as soon as it is asked; its stderr says why")
                replies += new
        return replies

    def _is_bad(self, task: Task, strikes: dict[Text, int]) -> bool:
        return any(text in self._unreadable or strikes.get(text, 0) >= _MAX_STRIKES for text in (task.left, task.right))

    def _blame(self, task: Task, parsing: Text | None, strikes: dict[Text, int]) -> None:
        """Note who got stuck: the text being parsed, else the one of the two with more strikes, else both."""
        if parsing is not None:
            self._unreadable[parsing] = None
            return
        left, right = strikes.get(task.left, 0), strikes.get(task.right, 0)
        if left >= right:
            strikes[task.left] = left + 1
        if right >= left:
            strikes[task.right] = right + 1

    def close(self) -> None:
        """End the child. Calling it twice is fine."""
        with self._lock:
            self._closed = True
            self._kill()

    def _batch(self, tasks: Sequence[Task], strikes: dict[Text, int]) -> list[Reply]:
        """Replies to all of `tasks`, or to those up to the one that got stuck; none if the child was dead to begin with."""
        texts = list(dict.fromkeys(text for task in tasks for text in (task.left, task.right)))
        index = {text: i for i, text in enumerate(texts)}
        pairs = [(index[task.left], index[task.right], task.places) for task in tasks]
        request = json.dumps({"alarm_s": self._alarm_s, "texts": texts, "pairs": pairs}).encode() + b"\n"
        self._ask(request)
        replies: list[Reply] = []
        parsing: Text | None = None
        heard = False
        start = self._clock()
        while len(replies) < len(tasks):
            message = self._read_within_limit(start)
            if message is None:
                took = time.monotonic() - start[0]
                died = self._process is not None and self._process.poll() is not None
                self._restart()
                if died and not heard:
                    return replies  # it was gone before it took the next pair: not that pair's fault, so it is asked again
                self._blame(tasks[len(replies)], parsing, strikes)
                return [*replies, Reply(False, "timeout", took)]
            heard = True
            if "parse" in message:
                parsing = texts[message["parse"]]
            elif "pair" in message:
                parsing = None
            else:
                replies.append(Reply(message["equal"], message["status"], time.monotonic() - start[0]))
                heard, start = False, self._clock()
        return replies

    def _clock(self) -> tuple[float, float | None]:
        """Now, and the processor seconds that the child has used (None on a system without /proc)."""
        assert self._process is not None
        try:
            with open(f"/proc/{self._process.pid}/stat", encoding="ascii", errors="replace") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            return time.monotonic(), None
        return time.monotonic(), (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _read_within_limit(self, start: tuple[float, float | None]) -> dict[str, Any] | None:
        """The next message, or None when the pair begun at `start` is over its limit or the child has ended.

        On a busy machine the child gets less than its time: up to _BUSY_FACTOR limits are waited for what it is owed.
        """
        began, used_before = start
        end = began + _BUSY_FACTOR * self._limit_s
        deadline = began + self._limit_s
        while True:
            message = self._read(deadline)
            if message is not None or (self._process is not None and self._process.poll() is not None):
                return message
            now, used = self._clock()
            if used is None or used_before is None:
                return None
            owed = self._limit_s - (used - used_before)
            if owed < _TICK_S or now >= end:
                return None
            deadline = min(now + owed, end)

    def _ask(self, request: bytes) -> None:
        """Write one request to a child that is ready; a child that died in the meantime is replaced once."""
        for attempt in (1, 2):
            self._await_ready()
            assert self._process is not None and self._process.stdin is not None
            try:
                self._process.stdin.write(request)
                self._process.stdin.flush()
                return
            except OSError as e:
                self._restart()
                if attempt == 2:
                    raise GraderError("the math-verify child dies before it takes a request; see its stderr above") from e

    def _await_ready(self) -> None:
        for _ in range(_MAX_FAILED_STARTS):
            self._spawn()
            if self._ready or self._read(time.monotonic() + _STARTUP_S) is not None:
                self._ready = True
                return
            self._kill()
        raise GraderError(
            f"the math-verify child does not start ({_MAX_FAILED_STARTS} attempts, memory_mb={self._memory_mb}); "
            f"expected `{sys.executable} -m harmonyray.answers.mathverify_child` to run: "
            "is math-verify installed, is memory_mb at least 512?"
        )

    def _spawn(self) -> None:
        if self._closed:
            raise GraderError("the answer worker is closed; make a new one")
        if self._process is not None:
            return
        command = [sys.executable, "-m", "harmonyray.answers.mathverify_child", str(self._memory_mb), str(os.getpid())]
        package_root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        path = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")]))
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)
        self._ready = False
        self._pending = b""

    def _restart(self) -> None:
        self._kill()
        self.num_restarts += 1
        self._spawn()

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except OSError:  # bytes that the dead child never took
                    continue

    def _read(self, deadline: float) -> dict[str, Any] | None:
        """The child's next message, or None when the deadline passes or the child ends."""
        assert self._process is not None and self._process.stdout is not None
        stream = self._process.stdout.fileno()
        poller = select.poll()  # select() cannot take the large file descriptors of a busy actor
        poller.register(stream, select.POLLIN)
        while b"\n" not in self._pending:
            left_ms = (deadline - time.monotonic()) * 1000
            if left_ms <= 0 or not poller.poll(left_ms):
                return None
            chunk = os.read(stream, 1 << 16)
            if not chunk:
                self._process.wait()
                return None
            self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message
