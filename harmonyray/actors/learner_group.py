"""The learner as Ray actors, one for each rank. Whatever is asked of it is asked of all ranks at once: they go through an update
together, and one that is gone or hangs ends the group, never the others' patience."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayTaskError

from harmonyray.actors.placement import Seat
from harmonyray.actors.pool import DEATHS, LOOK_S, ActorPool, why_dead
from harmonyray.actors.specs import PartSpec
from harmonyray.actors.workers import LearnerWorker
from harmonyray.errors import LearnerLostError, RankLostError, first_line

LOOK = "look at memory with `harmonyray doctor`"
GRACE_S = 5.0  # after one rank's failure, for the others to say what they know


@dataclass(frozen=True, slots=True)
class Asked:
    """A call to all ranks that is under way."""

    method: str
    refs: Sequence[Any]


class LearnerGroup:
    """The ranks in their seats; `handles` are their actors, by rank. Rank 0 has what is only there once."""

    def __init__(
        self, pool: ActorPool, seats: Sequence[tuple[int, Seat]], spec: PartSpec, loss: PartSpec, timeout_s: float
    ) -> None:
        """Asks for every actor without waiting. `seats`: the ranks', each with its bundle; `timeout_s`: of a broadcast."""
        self.pool, self.seats, self._about = pool, seats, (spec, loss, timeout_s)
        self._lost: LearnerLostError | None = None
        self.handles = [pool.start(LearnerWorker, bundle, seat.num_gpus, *self._about) for bundle, seat in seats]
        self._begin()

    def wait(self) -> None:
        """Until all ranks are built. Raises what the learner's constructor raised, LearnerLostError if one died."""
        self._wait_for(self._started, "start")

    def call(self, method: str, *args: Any) -> Any:
        """What rank 0 returns, once all have done it. Raises what a rank's method raised; LearnerLostError if one died, or hung,
        be it for runtime.call_timeout_s, and then all of them are ended."""
        return self.result(self.ask(method, *args))

    def ask(self, method: str, *args: Any) -> Asked:
        """`call` in two parts: does not wait. Raises LearnerLostError if the group has ended."""
        if self._lost is not None:
            raise self._lost
        return Asked(method, [getattr(handle, method).remote(*args) for handle in self.handles])

    def result(self, asked: Asked) -> Any:
        """See `call`."""
        self._wait_for(asked.refs, asked.method)
        return ray.get(asked.refs[0])

    def restart(self) -> None:
        """New actors in all seats, as they were at the start of the run. Raises RunError once the run's restarts are used up, or
        if a seat is gone."""
        while self._lost is not None:
            self.pool.count_restart("the learner")
            for rank, (bundle, seat) in enumerate(self.seats):
                handle = self.handles[rank]
                self.handles[rank] = self.pool.seat_again(
                    "the learner", handle, LearnerWorker, bundle, seat.num_gpus, *self._about
                )
            self._lost = None
            self._begin()
            try:
                self.wait()
            except LearnerLostError:
                continue

    def _begin(self) -> None:
        meeting = self.handles[0].open_meeting.remote() if len(self.handles) > 1 else None
        self._started = [handle.start.remote(rank, meeting) for rank, handle in enumerate(self.handles)]

    def _wait_for(self, refs: Sequence[Any], method: str) -> None:
        """Until all ranks are done with it. Raises as `call` does."""
        pending, failed = list(refs), dict[int, BaseException]()
        limit = self.pool.config.call_timeout_s
        deadline = time.monotonic() + limit
        while pending:
            left = max(0.0, min(LOOK_S, deadline - time.monotonic()))
            done, pending = ray.wait(pending, timeout=left, fetch_local=False)
            if not done:
                if time.monotonic() >= deadline:
                    break
                self.pool.give_up_lost()
            for ref in done:
                error = failure(ref)
                if error is not None:
                    failed[refs.index(ref)] = error
                    deadline = min(deadline, time.monotonic() + GRACE_S)
        if failed:
            self._raise(failed, method, whole=not pending)
        if pending:
            raise self._end(
                f"the learner did not finish {method!r} within runtime.call_timeout_s = {limit:g} s",
                "raise the limit or look at its log",
            )

    def _raise(self, failed: Mapping[int, BaseException], method: str, whole: bool) -> None:
        """Raises what failed: that one died, before a rank's own error, before that it waited in vain: each may come of the one
        before. Unless all have come back, and with an error of their own, the group is ended."""
        rank = min(failed, key=lambda r: (not isinstance(failed[r], DEATHS), isinstance(failed[r], RankLostError), r))
        error, name = failed[rank], f"rank {rank} of the learner" if len(self.handles) > 1 else "the learner"
        if isinstance(error, RankLostError):
            look = f"raise learner.collective_timeout_s{self._now()} if the ranks are only slow, or {LOOK}"
            raise self._end(f"{name} lost the others during {method!r} ({first_line(error)})", look) from error
        if isinstance(error, DEATHS):
            raise self._end(f"{name} died during {method!r} ({first_line(error)})", why_dead(error, LOOK)) from error
        if not whole:
            self._end(f"{name} failed during {method!r} while others went on")
        raise error

    def _now(self) -> str:
        """How long a rank waits for the others, where the learner has the option."""
        patience = getattr(self._about[0].options, "collective_timeout_s", None)
        return "" if patience is None else f" (now {patience:g} s)"

    def _end(self, why: str, look: str = LOOK) -> LearnerLostError:
        """Ends all ranks; the error for whoever asks the group for anything from here on."""
        for handle in self.handles:
            ray.kill(handle)
        self._lost = LearnerLostError(f"{why}; {look}")
        return self._lost


def failure(ref: Any) -> BaseException | None:
    """What a finished call raised, as it was raised there; None if it returned."""
    try:
        ray.get(ref)
    except RayTaskError as e:
        cause: BaseException = e.cause
        cause.__cause__ = e
        return cause
    except DEATHS as e:
        return e
    return None
