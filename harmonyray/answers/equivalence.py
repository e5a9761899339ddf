"""Whether two answers are the same: exact keys and numbers first, math-verify only for what they leave open.

The relation is symmetric and cached; making it transitive is `cluster`'s part.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType

from harmonyray.answers.charges import Charges
from harmonyray.answers.compare import decide
from harmonyray.answers.reading import Reading, read, rounding_places
from harmonyray.answers.workers import MathVerifyWorker, Task

DEFAULT_LIMIT_S = 1.5
DEFAULT_MEMORY_MB = 1024
DEFAULT_MAX_CHARS = 2000
_CACHE_SIZE = 100_000

Source = tuple[str, str]
Key = tuple[Source, Source]
Pair = tuple[Reading, Reading]


@dataclass(frozen=True, slots=True)
class Verdict:
    """`status`: "ok" (decided), "timeout" (given up, out of time or memory) or "unparsable" (not read as mathematics); only
    an "ok" can be equal. `seconds`: by the clock, what the pair took (less if its verdict was known)."""

    equal: bool
    status: str
    seconds: float = field(default=0.0, compare=False)


@dataclass(slots=True)
class Statistics:
    """Counts since construction. Every pair is exactly one of exact, cached, solved, timeouts, unparsable."""

    num_pairs: int = 0
    num_exact: int = 0
    num_cached: int = 0
    num_solved: int = 0
    num_timeouts: int = 0
    num_unparsable: int = 0


class Equivalence:
    """Compares answers. Use as a context manager or call `close()`; the child process starts when first needed.

    `limit_s`: seconds for one pair in the solver (see `workers`). `memory_mb`: the solver's address space. `max_chars`: longer
    answers are compared by their text only. Raises GraderError if the solver cannot be kept alive.
    """

    def __init__(
        self, limit_s: float = DEFAULT_LIMIT_S, memory_mb: int = DEFAULT_MEMORY_MB, max_chars: int = DEFAULT_MAX_CHARS
    ) -> None:
        self._worker = MathVerifyWorker(limit_s, memory_mb)
        self._max_chars = max_chars
        self._cache: OrderedDict[Key, Verdict] = OrderedDict()
        self.statistics = Statistics()

    def __enter__(self) -> Equivalence:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the solver's process. Calling it twice is fine."""
        self._worker.close()

    def equal(self, a: str, b: str) -> bool:
        """Whether two answers are the same. Given up or unreadable is False."""
        return self.check([(a, b)])[0].equal

    def decide(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict | None]:
        """The verdicts that exact reading alone gives, None where a solver is needed. Counts nothing, starts nothing."""
        return [_decide(read(a), read(b)) for a, b in pairs]

    def charges(self) -> Charges:
        """A book for several calls of `check` in which a text has `limit_s` of the solver's time all in all."""
        return self._worker.charges()

    def check(self, pairs: Sequence[tuple[str, str]], charges: Charges | None = None) -> list[Verdict]:
        """A verdict per pair, in order; one round trip to the solver for all that need it.

        A text that has used up `limit_s` in this call (or in all that share `charges`) is not compared any further: its
        remaining pairs are a "timeout", and, unlike one that had its whole limit, asked again next time.
        """
        found: list[Verdict | None] = []
        keys: list[Key] = []
        seconds: list[float] = []
        waiting: dict[Key, Pair] = {}
        for a, b in pairs:
            begun = time.perf_counter()
            left, right = sorted((read(a), read(b)), key=lambda reading: reading.source)
            key = (left.source, right.source)
            keys.append(key)
            verdict = self._known(left, right) if key not in waiting else None
            seconds.append(time.perf_counter() - begun)
            found.append(verdict)
            if verdict is None:
                self.statistics.num_cached += key in waiting
                waiting[key] = (left, right)
        self.statistics.num_pairs += len(pairs)
        solved = self._solve(waiting, charges)
        verdicts = zip(found, keys, seconds, strict=True)
        return [_timed(verdict, s) if verdict else _timed(solved[key], solved[key].seconds + s) for verdict, key, s in verdicts]

    def _known(self, left: Reading, right: Reading) -> Verdict | None:
        """The verdict that needs no solver, or None."""
        decided = _decide(left, right)
        if decided is not None:
            self.statistics.num_exact += decided.status == "ok"
            self.statistics.num_unparsable += decided.status == "unparsable"
            return decided
        if any(reading.answer.hazard or len(reading.text) > self._max_chars for reading in (left, right)):
            self.statistics.num_unparsable += 1
            return Verdict(False, "unparsable")
        verdict = self._cache.get((left.source, right.source))
        if verdict is not None:
            self.statistics.num_cached += 1
            self._cache.move_to_end((left.source, right.source))
        return verdict

    def _solve(self, waiting: dict[Key, Pair], charges: Charges | None) -> dict[Key, Verdict]:
        """Verdicts from math-verify for pairs that nothing else decides."""
        replies = self._worker.compare([_task(left, right) for left, right in waiting.values()], charges)
        solved: dict[Key, Verdict] = {}
        for key, reply in zip(waiting, replies, strict=True):
            solved[key] = Verdict(reply.equal, reply.status, reply.seconds)
            self._count(solved[key])
            if reply.final:
                self._cache[key] = solved[key]
                if len(self._cache) > _CACHE_SIZE:
                    self._cache.popitem(last=False)
        return solved

    def _count(self, verdict: Verdict) -> None:
        statistics = self.statistics
        statistics.num_timeouts += verdict.status == "timeout"
        statistics.num_unparsable += verdict.status == "unparsable"
        statistics.num_solved += verdict.status == "ok"


def _timed(verdict: Verdict, seconds: float) -> Verdict:
    return Verdict(verdict.equal, verdict.status, seconds)


def _decide(left: Reading, right: Reading) -> Verdict | None:
    if not left.answer.key or not right.answer.key:
        return Verdict(False, "unparsable")
    if left.answer.key != right.answer.key and "prose" in (left.mode, right.mode):
        return None
    equal = decide(left.answer, right.answer)
    return None if equal is None else Verdict(equal, "ok")


def _task(left: Reading, right: Reading) -> Task:
    return Task(left.source, right.source, rounding_places(left.text, right.text))
