"""Sampling over engine actors: whole groups are dealt out, stream back as they finish, and are dealt again when an engine dies.

The rollouts stay in the object store; the driver sees their figures. Driver only.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import ray

from harmonyray.actors.kept import Stored
from harmonyray.actors.pool import DEATHS, ActorPool
from harmonyray.actors.replicas import Replica
from harmonyray.protocols import UNTRAINED
from harmonyray.rollouts import Place, Tally
from harmonyray.types import FailedAttempt, Failure, GroupFigures, ProblemRollouts, RolloutGroup

HANG_GRACE_S = 30.0  # beyond a request's own limit, which an engine that works keeps by itself


@dataclass(slots=True)
class Stream:
    """What one replica was asked for in one call, and what has come of it. `content`: the rollouts' reference, whose figures
    are the next to come."""

    replica: Replica
    handle: Any
    number: int
    generator: Any
    places: list[Place]
    open: set[int]
    content: Any = None


def dealt(tally: Tally, places: Iterable[Place], replicas: Sequence[Replica]) -> list[tuple[Replica, list[Place]]]:
    """Who is asked for what: the replicas of each place's view, equally many consecutive problems of each."""
    owed: dict[int, list[Place]] = {}
    by_view: dict[int, list[Place]] = {}
    for place in places:
        by_view.setdefault(place[0], []).append(place)
    for v, own in by_view.items():
        name = tally.asks[v].view.name
        able = [r for r, replica in enumerate(replicas) if name in replica.group.views]
        for k, place in enumerate(own):
            owed.setdefault(able[k * len(able) // len(own)], []).append(place)
    return [(replicas[r], own) for r, own in owed.items()]


class Sampling:
    """One call of `Sampler.sample`. `revive` brings the replica of a dead actor back, with the weights it should have, and may
    take long: it runs beside. `ready` says whether a replica may be asked; what is for one that may not waits."""

    numbers = itertools.count()

    def __init__(
        self,
        pool: ActorPool,
        replicas: Sequence[Replica],
        tally: Tally,
        policy_version: int | None,
        timeout_s: float,
        revive: Callable[[Replica, Any | None], None],
        ready: Callable[[Replica], bool],
    ) -> None:
        self.pool, self.replicas, self.tally, self.timeout_s = pool, replicas, tally, timeout_s
        self.revive, self.ready = revive, ready
        self.policy_version = policy_version
        self.streams: list[Stream] = []
        self.heard: dict[Any, float] = {}  # when each actor last sent something, in whichever of its streams
        self.reviving: dict[Future[None], tuple[Replica, list[Place]]] = {}  # who is brought back, and what it owed

    def run(self) -> Iterator[ProblemRollouts | FailedAttempt]:
        """Asks for everything at once, and yields whole problems and failed attempts as they come.

        Raises RunError once the run's restarts are used up; what an engine raised is raised here.
        """
        beside = ThreadPoolExecutor(max(1, len(self.replicas)), thread_name_prefix="revive")
        try:
            yield from self._run(beside)
        finally:
            for stream in self.streams:  # left behind by an error: its engine need not go on
                stream.handle.stop.remote(stream.number)
            beside.shutdown(wait=False, cancel_futures=True)

    def _run(self, beside: ThreadPoolExecutor) -> Iterator[ProblemRollouts | FailedAttempt]:
        tick_s = max(0.05, min(1.0, self.timeout_s / 10))
        waiting = self._deal(self.tally.places(), self.policy_version, beside)
        while self.streams or self.reviving or waiting:
            self.pool.check_open()
            lost: list[Stream] = []
            for stream in self._arrived(tick_s):
                yield from self._take(stream, lost, waiting)
            lost += [s for s in self._silent() if s not in lost]
            for stream in lost:
                self.streams.remove(stream)
                owed = [stream.places[w] for w in sorted(stream.open)]
                self.reviving[beside.submit(self.revive, stream.replica, stream.handle)] = stream.replica, owed
            for done in [future for future in self.reviving if future.done()]:
                done.result()
                waiting += self.reviving.pop(done)[1]
            # Whoever is asked again has the weights that there are now; what it owes belongs to no version in particular.
            waiting = self._deal([place for place in waiting if not self.tally.left_out(place)], None, beside)

    def _arrived(self, tick_s: float) -> list[Stream]:
        """The streams that have an item; waits a little for one."""
        if not self.streams:
            time.sleep(tick_s)
            return []
        ready, _ = ray.wait([s.generator for s in self.streams], num_returns=1, timeout=tick_s, fetch_local=False)
        return [s for s in self.streams if s.generator in ready]

    def _silent(self) -> list[Stream]:
        """The streams of actors that have said nothing for too long, and say nothing now: what has come while nobody took it is
        not held against them."""
        limit = time.monotonic() - self.timeout_s - HANG_GRACE_S
        silent = [s for s in self.streams if self.heard[s.handle] < limit]
        if not silent:
            return []
        ready, _ = ray.wait([s.generator for s in silent], num_returns=len(silent), timeout=0, fetch_local=False)
        speaking = {s.handle for s in silent if s.generator in ready}
        return [s for s in silent if s.handle not in speaking]

    def _deal(self, places: Iterable[Place], policy_version: int | None, beside: ThreadPoolExecutor) -> list[Place]:
        """Asks the replicas for these places; returns those whose replica cannot be asked now, and has it brought back."""
        waiting = []
        for replica, own in dealt(self.tally, places, self.replicas):
            handle = replica.handle
            if not self.ready(replica):
                waiting += own
                if all(replica is not other for other, _ in self.reviving.values()):
                    self.reviving[beside.submit(self.revive, replica, None)] = replica, []
                continue
            version = policy_version if replica.trained else UNTRAINED
            wants, number = [self.tally.want(place) for place in own], next(self.numbers)
            generator = handle.sample.options(num_returns="streaming").remote(number, wants, version, self.timeout_s)
            self.heard[handle] = time.monotonic()
            self.streams.append(Stream(replica, handle, number, generator, own, set(range(len(own)))))
        return waiting

    def _take(self, stream: Stream, lost: list[Stream], again: list[Place]) -> Iterator[ProblemRollouts | FailedAttempt]:
        """The next item of a stream that has one. Adds the stream to `lost` if it broke off, and to `again` the place of a
        failure that is not the last."""
        self.heard[stream.handle] = time.monotonic()
        try:
            ref = next(stream.generator)
            if stream.content is None:
                stream.content = ref
                return
            w, result = self.pool.get(ref, name=stream.replica.name)
        except StopIteration:
            self._end(stream, lost)
            return
        except DEATHS:
            lost.append(stream)
            return
        content, stream.content = stream.content, None
        stream.open.discard(w)
        place = stream.places[w]
        if isinstance(result, Failure):
            attempt = self.tally.fail(place, result.reason)
            again += [] if attempt.last else [place]
            yield attempt
        else:
            assert isinstance(result, GroupFigures)
            whole = self.tally.put(place, RolloutGroup(result, Stored(content)))
            if whole is not None:
                yield whole

    def _end(self, stream: Stream, lost: list[Stream]) -> None:
        """A stream that has ended: with everything, with an error, or with its engine."""
        if stream.content is not None:
            try:
                self.pool.get(stream.content, name=stream.replica.name)
            except DEATHS:
                lost.append(stream)
                return
        assert not stream.open, f"{stream.replica.name} left out {len(stream.open)} of {len(stream.places)} groups"
        self.streams.remove(stream)
