"""The child process itself: started when needed, replaced when killed, spoken to in JSON lines.

What is asked, and when it has taken too long, is `workers`. No signals, so any thread may use it.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

from harmonyray.errors import GraderError

MAX_FAILED_STARTS = 3
_STARTUP_S = 120.0


@dataclass(slots=True)
class Clock:
    """`wall_s` by the clock, `used_s` of the child's processor (None where that is not known)."""

    wall_s: float
    used_s: float | None

    def since(self, before: Clock) -> float:
        """Processor seconds from `before` to now, or seconds by the clock."""
        if self.used_s is None or before.used_s is None:
            return self.wall_s - before.wall_s
        return self.used_s - before.used_s


class ChildProcess:
    """One long-lived `mathverify_child`; not safe to share between threads by itself. `memory_mb`: its address space."""

    def __init__(self, memory_mb: int) -> None:
        self._memory_mb = memory_mb
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = False
        self._closed = False
        self._pending = b""
        self.num_restarts = 0

    @property
    def pid(self) -> int | None:
        """The child's process id, or None when none runs."""
        return self._process.pid if self._process is not None else None

    def _clock(self) -> Clock:
        """Now, and the processor seconds that the child has used (None on a system without /proc)."""
        assert self._process is not None
        try:
            with open(f"/proc/{self._process.pid}/stat", encoding="ascii", errors="replace") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            return Clock(time.monotonic(), None)
        return Clock(time.monotonic(), (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"))

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
        for _ in range(MAX_FAILED_STARTS):
            self._spawn()
            if self._ready or self._read(time.monotonic() + _STARTUP_S) is not None:
                self._ready = True
                return
            self._kill()
        raise GraderError(
            f"the math-verify child does not start ({MAX_FAILED_STARTS} attempts, memory_mb={self._memory_mb}); "
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
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0", "PYTHONPATH": path}
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
