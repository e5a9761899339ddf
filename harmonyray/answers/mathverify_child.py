"""The child process that runs math-verify: `python -m harmonyray.answers.mathverify_child MEMORY_MB PARENT_PID`.

One JSON line in: {"alarm_s": int, "slow_s": float, "texts": [[mode, text], ...], "pairs": [[i, j, places], ...]}. JSON lines out:
one {"parse": i} before a text is parsed and one {"pair": k} before a pair is compared, so that the parent knows what is stuck,
and {"done": k, "equal": bool, "status": str} after each; after one that took more than slow_s it says with "slow" what it
took, and leaves the rest to be asked again. The texts come from a model: they are parsed as LaTeX, never
evaluated as Python; an audit hook forbids this process to start programs, open sockets or change files.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, BinaryIO

from harmonyray.answers.solver import Solver

# Events that no comparison of two formulas needs. Opening a file for reading stays allowed (late imports).
_FORBIDDEN = (
    "os.", "subprocess.", "socket.", "shutil.", "ctypes.", "pty.", "urllib.", "http.", "ftplib.", "smtplib.", "webbrowser.",
    "mmap.", "sqlite3.", "tempfile.", "glob.", "fcntl.", "syslog.", "builtins.input", "builtins.breakpoint",
)  # fmt: skip
_READING = ("os.listdir", "os.scandir", "os.walk", "os.fwalk")
_IDLE_S = 5


def main() -> None:
    memory_mb, parent = int(sys.argv[1]), int(sys.argv[2])
    requests = os.fdopen(os.dup(0), "rb", buffering=0)
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)  # a library that prints must not break the protocol
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    sys.dont_write_bytecode = True
    solver = Solver()
    _limit(memory_mb)
    sys.addaudithook(_forbid)
    _send(replies, {"ready": True})
    _serve(solver, requests, replies, parent)


def _limit(memory_mb: int) -> None:
    wanted = memory_mb * 2**20
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_AS, (wanted, wanted))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # pipes are not files: replies still pass
    sys.setrecursionlimit(2000)


def _forbid(event: str, args: tuple[Any, ...]) -> None:
    if event == "open":
        flags = args[2] if isinstance(args[2], int) else 0
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise PermissionError("answers may not write files")
    elif event == "compile":
        # sympy's polynomials generate code of their own; only its parser would make code of a text
        if sys._getframe(1).f_code.co_filename.endswith("sympy_parser.py") and not _importing():
            raise PermissionError("answers may not be run as Python")
    elif event.startswith(_FORBIDDEN) and event not in _READING:
        raise PermissionError(f"answers may not use {event}")


def _importing() -> bool:
    """Whether a module is being loaded: some of sympy's modules parse strings of their own then."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _send(replies: BinaryIO, *messages: dict[str, Any]) -> None:
    data = memoryview(b"".join(json.dumps(message).encode() + b"\n" for message in messages))
    while data:
        data = data[replies.write(data) :]


def _serve(solver: Solver, requests: BinaryIO, replies: BinaryIO, parent: int) -> None:
    """Answer requests until the parent closes the pipe or is gone."""
    pending = b""
    while True:
        ready, _, _ = select.select([requests], [], [], _IDLE_S)
        if os.getppid() != parent:
            return
        if not ready:
            continue
        chunk = requests.read(1 << 16)
        if not chunk:
            return
        pending += chunk
        while b"\n" in pending:
            line, _, pending = pending.partition(b"\n")
            _answer(solver, json.loads(line), replies)


def _answer(solver: Solver, request: dict[str, Any], replies: BinaryIO) -> None:
    """Verdicts in order, up to the first that took long. Those that take no time are kept until there is something to wait
    for: a message costs more."""
    texts = [(mode, text) for mode, text in request["texts"]]
    kept: list[dict[str, Any]] = []
    for k, (i, j, places) in enumerate(request["pairs"]):
        known = [solver.parse(texts[index]) for index in (i, j) if solver.knows(texts[index])]
        unread = not all(parsed.found for parsed in known)
        if unread or (len(known) == 2 and solver.tells_apart(*known)):
            kept.append({"done": k, "equal": False, "status": "unparsable" if unread else "ok"})
            continue
        _send(replies, *kept)
        kept.clear()
        # the kernel ends this process even inside a long C call if the parent, gone or stopped, does not
        signal.alarm(request["alarm_s"])
        spent: list[tuple[int, float]] = []
        equal, status = _compare(solver, texts, (i, j), places, lambda message: _send(replies, message), spent)
        signal.alarm(0)
        kept.append({"done": k, "equal": equal, "status": status})
        if sum(seconds for _, seconds in spent) > request["slow_s"]:
            comparing = sum(seconds for index, seconds in spent if index < 0)
            kept[-1]["slow"] = {"parsing": [entry for entry in spent if entry[0] >= 0], "comparing": comparing}
            break
    _send(replies, *kept)


def _compare(
    solver: Solver,
    texts: list[tuple[str, str]],
    pair: tuple[int, int],
    places: int,
    tell: Callable[[dict[str, Any]], None],
    spent: list[tuple[int, float]],
) -> tuple[bool, str]:
    """(equal, status) of two texts by index, telling what is begun; `spent` gets (index, processor seconds), index -1 for
    the comparison itself."""
    try:
        for index in sorted(pair, key=lambda index: texts[index][0] != "prose"):  # prose often holds nothing to compare
            if not solver.knows(texts[index]):
                tell({"parse": index})
                began = time.process_time()
                solver.parse(texts[index])
                spent.append((index, time.process_time() - began))
                if not solver.parse(texts[index]).found:
                    return False, "unparsable"
        tell({"pair": 0})
        began = time.process_time()
        left, right = solver.parse(texts[pair[0]]), solver.parse(texts[pair[1]])
        equal = solver.equal(left, right, places)
        spent.append((-1, time.process_time() - began))
    except (MemoryError, RecursionError):
        solver.forget()
        return False, "unparsable"
    return bool(equal), "ok"


if __name__ == "__main__":
    main()
