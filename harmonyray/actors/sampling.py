"""Sampling over engine actors: whole groups are dealt out, stream back as they finish, and are dealt again when an engine dies.

The rollouts stay in the object store; the driver sees their figures. Driver only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
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
    """One call of `Sampler.sample`. `revive` brings a dead replica back, with the weights it should have."""

    def __init__(
        self,
        pool: ActorPool,
        replicas: Sequence[Replica],
        tally: Tally,
        policy_version: int | None,
        timeout_s: float,
        revive: Callable[[Replica, Any], None],
    ) -> None:
        self.pool, self.replicas, self.tally, self.timeout_s, self.revive = pool, replicas, tally, timeout_s, revive
        self.policy_version = policy_version
        self.streams: list[Stream] = []
        self.heard: dict[Any, float] = {}  # when each actor last sent something, in whichever of its streams

    def run(self) -> Iterator[ProblemRollouts | FailedAttempt]:
        """Asks for everything at once, and yields whole problems and failed attempts as they come.

        Raises RunError once the run's restarts are used up; what an engine raised is raised here.
        """
        self._deal(self.tally.places(), self.policy_version)
        tick_s = max(0.05, min(1.0, self.timeout_s / 10))
        while self.streams:
            self.pool.check_open()
            ready, _ = ray.wait([s.generator for s in self.streams], num_returns=1, timeout=tick_s, fetch_local=False)
            again: list[Place] = []
            for stream in [s for s in self.streams if s.generator in ready]:
                yield from self._take(stream, again)
            limit = time.monotonic() - self.timeout_s - HANG_GRACE_S
            for stream in [s for s in self.streams if self.heard[s.handle] < limit]:
                again += self._lose(stream)
            # Whoever is asked again gets the weights that there are now; what it owes belongs to no version in particular.
            self._deal([place for place in again if not self.tally.left_out(place)], None)

    def _deal(self, places: Iterable[Place], policy_version: int | None) -> None:
        for replica, own in dealt(self.tally, places, self.replicas):
            version = policy_version if replica.trained else UNTRAINED
            wants = [self.tally.want(place) for place in own]
            generator = replica.handle.sample.options(num_returns="streaming").remote(wants, version, self.timeout_s)
            self.heard[replica.handle] = time.monotonic()
            self.streams.append(Stream(replica, replica.handle, generator, own, set(range(len(own)))))

    def _take(self, stream: Stream, again: list[Place]) -> Iterator[ProblemRollouts | FailedAttempt]:
        """The next item of a stream that has one. Adds to `again` what is to be asked for once more."""
        self.heard[stream.handle] = time.monotonic()
        try:
            ref = next(stream.generator)
            if stream.content is None:
                stream.content = ref
                return
            w, result = self.pool.get(ref, name=stream.replica.name)
        except StopIteration:
            again += self._end(stream)
            return
        except DEATHS:
            again += self._lose(stream)
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

    def _end(self, stream: Stream) -> list[Place]:
        """A stream that has ended: with everything, with an error, or with its engine."""
        if stream.content is not None:
            try:
                self.pool.get(stream.content, name=stream.replica.name)
            except DEATHS:
                return self._lose(stream)
        assert not stream.open, f"{stream.replica.name} left out {len(stream.open)} of {len(stream.places)} groups"
        self.streams.remove(stream)
        return []

    def _lose(self, stream: Stream) -> list[Place]:
        """Brings the replica of a stream that broke off or fell silent back; what it still owed."""
        self.streams.remove(stream)
        self.revive(stream.replica, stream.handle)
        return [stream.places[w] for w in sorted(stream.open)]
