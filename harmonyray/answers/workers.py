"""A killable child process around math-verify: pairs in, verdicts out, no pair costs more than its limit.

Which pairs need a solver, and caching, is `equivalence`; the process itself is `process`. No signals, so any thread may use it.
"""

from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from math import ceil
from types import TracebackType
from typing import Any

from harmonyray.answers.charges import SMALL, Charges, Text, by_weight, unremarkable_s
from harmonyray.answers.process import MAX_FAILED_STARTS, ChildProcess, Clock
from harmonyray.errors import GraderError

_MAX_BATCH = 64
_MAX_UNREADABLE = 4096
_TRIAL = 1 / 4  # of the limit: what a suspect gets
_BUSY_FACTOR = 3.0
_TICK_S = 0.02


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
    `seconds`: by the clock, from when the child was given the pair to the verdict (0 for one that was not tried).
    `final`: False for a pair given up before it had the whole limit, because a text of it had used up its own."""

    equal: bool
    status: str
    seconds: float = field(default=0.0, compare=False)
    final: bool = field(default=True, compare=False)


# what a suspect is tried against: nothing that takes an innocent more than milliseconds
_SIMPLE: tuple[Text, ...] = (
    ("latex", r"$\sqrt{2}+\sqrt{3}$"),
    ("latex", r"$\{\sqrt{2}+\sqrt{3},\sqrt{5}\}$"),
    ("latex", r"$(\sqrt{2}+\sqrt{3},\sqrt{5})$"),
)


@dataclass(frozen=True, slots=True)
class _Slow:
    """What a pair has taken: `parsing` seconds by text, `comparing` seconds; `stuck`: it was given up."""

    task: Task
    stuck: bool
    parsing: dict[Text, float]
    comparing: float


class MathVerifyWorker(ChildProcess):
    """One long-lived child. Use as a context manager or call `close()`; safe to share between threads.

    `limit_s`: processor seconds that a pair may take, both directions and parsing together, and that a text may use in all
    its pairs of one call; these are seconds by the clock unless the machine is busy, and then at most _BUSY_FACTOR times as
    many. `memory_mb`: the child's address space.
    """

    def __init__(self, limit_s: float = 1.5, memory_mb: int = 1024) -> None:
        super().__init__(memory_mb)
        self._limit_s = limit_s
        self._alarm_s = ceil(_BUSY_FACTOR * limit_s) + 2
        self._unreadable: OrderedDict[Text, None] = OrderedDict()
        self._lock = threading.Lock()

    def __enter__(self) -> MathVerifyWorker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def charges(self) -> Charges:
        """A book for several calls of `compare` that share one limit per text."""
        return Charges(self._limit_s)

    def compare(self, tasks: Sequence[Task], charges: Charges | None = None) -> list[Reply]:
        """A reply per task, in order. A stuck pair is a "timeout" and the tasks behind it still get their answers.

        A text has `limit_s` for all its pairs, first come, first served; pairs beyond that are a "timeout" without being
        tried, so that one bomb among N answers does not cost N limits. Parsing is charged to the text that is parsed, a
        comparison to the text that is also slow against something simple, so that a bomb's partners do not pay for it.
        A text whose parsing alone takes the limit is not tried again, in later calls neither.

        Raises GraderError when the child cannot be started, or when the worker is closed.
        """
        with self._lock:
            return self._compare(tasks, charges or self.charges())

    def _compare(self, tasks: Sequence[Task], charges: Charges) -> list[Reply]:
        replies: list[Reply] = []
        num_deaths = 0
        while len(replies) < len(tasks):
            rest = tasks[len(replies) : len(replies) + _MAX_BATCH]
            if self._is_bad(rest[0], charges):
                replies.append(Reply(False, "timeout", final=False))
                continue
            # a text with less than its limit is asked about alone: its pair ends sooner than others may
            batch = list(takewhile(lambda task: charges.full(task.left, task.right) and not self._is_bad(task, charges), rest))
            full = bool(batch)
            limit_s = self._limit_s if full else charges.left_s(rest[0].left, rest[0].right)
            new, slow = self._batch(batch or rest[:1], limit_s)
            num_deaths = 0 if new else num_deaths + 1
            if num_deaths == MAX_FAILED_STARTS:
                raise GraderError("the math-verify child dies as soon as it is asked; its stderr says why")
            if new and new[-1].status == "timeout":
                new[-1] = replace(new[-1], final=full)
            replies += new
            if slow is not None:
                self._settle(slow, charges)
        return replies

    def _is_bad(self, task: Task, charges: Charges) -> bool:
        known = task.left in self._unreadable or task.right in self._unreadable
        return known or charges.exhausted(task.left, task.right)

    def _settle(self, slow: _Slow, charges: Charges) -> None:
        """Charge each text its parsing, and the comparison to whom it is due: nobody if neither is slow by itself."""
        for text, seconds in slow.parsing.items():
            charges.charge(text, seconds)
            if seconds >= (1 - 2 * SMALL) * self._limit_s:
                self._unreadable[text] = None
                if len(self._unreadable) > _MAX_UNREADABLE:
                    self._unreadable.popitem(last=False)
        if slow.comparing <= unremarkable_s(self._limit_s):
            return
        light, heavy = by_weight(slow.task.left, slow.task.right)
        if not self._passes(light, charges):
            charges.charge(light, slow.comparing)
        elif slow.stuck or not self._passes(heavy, charges):
            charges.charge(heavy, slow.comparing)

    def _passes(self, text: Text, charges: Charges) -> bool:
        """Whether a suspect is quick against something simple; a trial that it fails is charged to it."""
        if text not in charges.trials:
            charges.trials[text] = True
            tasks = [Task(text, simple) for simple in _SIMPLE]
            while tasks and charges.trials[text]:
                new, slow = self._batch(tasks, max(_TRIAL * self._limit_s, 2 * unremarkable_s(self._limit_s)))
                tasks = tasks[len(new) :] if new else []
                if slow is not None and slow.comparing > unremarkable_s(self._limit_s):
                    charges.trials[text] = False
                    charges.charge(text, slow.comparing)
                elif slow is not None and slow.stuck:
                    break
        return charges.trials[text]

    def close(self) -> None:
        """End the child. Calling it twice is fine."""
        with self._lock:
            self._closed = True
            self._kill()

    def _batch(self, tasks: Sequence[Task], limit_s: float) -> tuple[list[Reply], _Slow | None]:
        """Replies to all of `tasks`, or to those up to the first one that took more than a small part of the limit, and
        what that one took; none if the child was dead to begin with."""
        texts = list(dict.fromkeys(text for task in tasks for text in (task.left, task.right)))
        index = {text: i for i, text in enumerate(texts)}
        pairs = [(index[task.left], index[task.right], task.places) for task in tasks]
        request = {"alarm_s": self._alarm_s, "slow_s": unremarkable_s(self._limit_s), "texts": texts, "pairs": pairs}
        self._ask(json.dumps(request).encode() + b"\n")
        replies: list[Reply] = []
        phases: list[tuple[Text | None, Clock]] = []  # what this pair's time goes into, and when that began
        start = self._clock()
        while len(replies) < len(tasks):
            message = self._read_within_limit(start, limit_s)
            if message is None:
                end = self._clock()
                died = self._process is not None and self._process.poll() is not None
                self._restart()
                if died and not phases:
                    return replies, None  # it was gone before it took the next pair: not its fault, so it is asked again
                slow = _Slow(tasks[len(replies)], stuck=True, **_spent(phases, end))
                return [*replies, Reply(False, "timeout", end.wall_s - start.wall_s)], slow
            if "done" not in message:  # the child takes up something that may take long
                phases.append((texts[message["parse"]] if "parse" in message else None, self._clock()))
                start = start if start.used_s is not None else phases[0][1]
                continue
            replies.append(Reply(message["equal"], message["status"], time.monotonic() - start.wall_s))
            if "slow" in message:
                return replies, _Slow(tasks[len(replies) - 1], False, *_read_slow(message["slow"], texts))
            phases = []
            start = Clock(time.monotonic(), None) if b"\n" in self._pending else self._clock()
        return replies, None

    def _read_within_limit(self, start: Clock, limit_s: float) -> dict[str, Any] | None:
        """The next message, or None when the pair begun at `start` is over its limit or the child has ended.

        On a busy machine the child gets less than its time: up to _BUSY_FACTOR limits are waited for what it is owed.
        """
        end = start.wall_s + _BUSY_FACTOR * limit_s
        deadline = start.wall_s + limit_s
        while True:
            message = self._read(deadline)
            if message is not None or (self._process is not None and self._process.poll() is not None):
                return message
            now = self._clock()
            if now.used_s is None or start.used_s is None:
                return None
            owed = limit_s - now.since(start)
            if owed < _TICK_S or now.wall_s >= end:
                return None
            deadline = min(now.wall_s + owed, end)


def _spent(phases: Sequence[tuple[Text | None, Clock]], end: Clock) -> dict[str, Any]:
    """The arguments of _Slow for a pair that was given up at `end`."""
    parsing: dict[Text, float] = {}
    comparing = 0.0
    ends = [*(began for _, began in phases[1:]), end]
    for (text, began), ended in zip(phases, ends, strict=False):  # no phase at all if the child hung before it began
        if text is None:
            comparing += ended.since(began)
        else:
            parsing[text] = parsing.get(text, 0.0) + ended.since(began)
    return {"parsing": parsing, "comparing": comparing}


def _read_slow(slow: dict[str, Any], texts: Sequence[Text]) -> tuple[dict[Text, float], float]:
    """What the child says about a pair that it took long over."""
    return {texts[i]: seconds for i, seconds in slow["parsing"]}, slow["comparing"]
