"""The actor groups behind one object: sampling over every view's replicas, training, and weight broadcast.

An engine that dies is replaced in its seat, brought to the current weights, and only then asked again for the whole groups
that it owed; nothing is trained on half a vote.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harmonyray.actors.grader import RayGrader
from harmonyray.actors.learner_group import LearnerGroup
from harmonyray.actors.placement import Seat, bundle_numbers
from harmonyray.actors.pool import DEATHS, ActorPool, why_dead
from harmonyray.actors.replicas import CALLS, Replica, find_dead, start_again
from harmonyray.actors.reservation import Reservation
from harmonyray.actors.sampling import Sampling, dealt
from harmonyray.actors.specs import RunSpec
from harmonyray.actors.sync import WeightSync
from harmonyray.actors.workers import EngineWorker
from harmonyray.config import Config
from harmonyray.errors import LearnerLostError, RunError, WeightSyncError, first_line
from harmonyray.protocols import UNTRAINED, Ask, Seeds, View
from harmonyray.rollouts import Tally
from harmonyray.types import FailedAttempt, FloatArray, GroupRows, Problem, ProblemRollouts, UpdateReport

CLOSE_S = 5.0  # longest wait for a thread that samples


class RayRuntime:
    """Sampler, learner and broadcast over Ray actors. Call `start` before anything else, and `close` in any case."""

    def __init__(self, seats: Sequence[Seat], placement: Reservation, spec: RunSpec, config: Config) -> None:
        """Asks for every actor without waiting, so that they come up side by side."""
        self.pool = ActorPool(placement, config.runtime)
        self.engine_specs, self.rollout, self.sync_config = spec.engines, config.rollout, config.sync
        self._changing = threading.RLock()  # held by whoever replaces engines or changes weights
        self._idle = threading.Event()  # whether no call of `sample` is under way
        self._idle.set()
        self.replicas: list[Replica] = []
        self.learners: LearnerGroup | None = None
        self.restarts_taken = 0
        self.policy_version = 0
        placed = list(zip(bundle_numbers(seats), seats, strict=True))
        ranks = [(bundle, seat) for bundle, seat in placed if seat.group == "learner"]
        if spec.learner is not None:
            self.learners = LearnerGroup(self.pool, ranks, spec.learner, spec.loss, config.sync.timeout_s)
        for bundle, seat in placed:
            if seat.group == "grader":
                self.grader = RayGrader(self.pool, bundle, seat, spec.grader)
            elif seat.engines is not None:
                handle = self.pool.start(EngineWorker, bundle, seat.num_gpus, spec.engines[seat.engines.name], calls=CALLS)
                # An engine looks at what the GPU has left when it starts: one that shares it waits for the learner.
                started = None if seat.engines.colocated and spec.learner else handle.start.remote()
                self.replicas.append(Replica(seat.name, seat.engines, bundle, seat.num_gpus, handle, started))

    def start(self) -> None:
        """Waits until every part is built. Raises what a part's constructor raised, RunError for an actor that died."""
        if self.learners is not None:
            self.learners.wait()
        for replica in self.replicas:
            replica.started = replica.started or replica.handle.start.remote()
        for replica in self.replicas:
            self._wait_for(replica.name, replica.started)
        self._wait_for("the grader", self.grader.started)
        if self.learners is not None:
            self.weight_sync = WeightSync(self.pool, self.learners, self.sync_config)

    def _wait_for(self, name: str, started: Any) -> None:
        try:
            self.pool.get(started)
        except DEATHS as e:
            look = f"{first_line(e)}; check memory with `harmonyray doctor`"
            raise RunError(f"{name} died while it was starting: {why_dead(e, look)}") from e

    @property
    def learner(self) -> Any:
        """The actor of the learner's rank 0, None where nothing is trained."""
        return None if self.learners is None else self.learners.handles[0]

    @property
    def engine_version(self) -> int:
        """The lowest of the trained engines'."""
        return min((r.version or 0 for r in self.replicas if r.trained), default=UNTRAINED)

    def count_tokens(self, views: Sequence[View], problems: Sequence[Problem]) -> dict[str, list[int]]:
        """Each view's prompts are counted by the first replica of its group."""
        first = {replica.group.name: replica for replica in reversed(self.replicas)}.values()
        own = {r.name: [view for view in views if view.name in r.group.views] for r in first}
        asked = [(r, r.handle, r.handle.count_tokens.remote(own[r.name], problems)) for r in first if own[r.name]]
        out: dict[str, list[int]] = {}
        while asked:
            replica, handle, ref = asked.pop()
            try:
                out |= self.pool.get(ref, name=replica.name)
            except DEATHS:
                self._revive_one(replica, handle)
                asked.append((replica, replica.handle, replica.handle.count_tokens.remote(own[replica.name], problems)))
        return out

    def sample(
        self, asks: Sequence[Ask], problems: Sequence[Problem], policy_version: int | None, seed_parts: Seeds
    ) -> Iterator[ProblemRollouts | FailedAttempt]:
        """All views at once, each view's problems dealt to its replicas in whole groups. Ends when it is known that the engines
        hold what the learner sent; raises AlteredWeightsError if not."""
        tally = Tally(asks, problems, seed_parts, self.rollout.max_attempts)
        timeout_s = self.rollout.request_timeout_s
        self._idle.clear()
        try:
            sampling = Sampling(self.pool, self.replicas, tally, policy_version, timeout_s, self._revive_one, self._may_be_asked)
            yield from sampling.run()
            self._verify()
        finally:
            self._idle.set()

    def prepare(self, asks: Sequence[Ask], problems: Sequence[Problem]) -> None:
        """The engines encode these prompts when they have time. Does not wait."""
        tally = Tally(asks, problems, (), self.rollout.max_attempts)
        for replica, own in dealt(tally, tally.places(), self.replicas):
            replica.handle.prepare.remote([tally.want(place) for place in own])

    def score(self, plan: Sequence[GroupRows], statistics: Sequence[str]) -> Mapping[str, FloatArray]:
        with self._learner_alone():
            scored: Mapping[str, FloatArray] = self._learn("score", plan, statistics)
        return scored

    def update(self, plan: Sequence[GroupRows], step: int) -> UpdateReport:
        """An engine that dies meanwhile gets the new weights, not the old."""
        with self._learner_alone():
            report: UpdateReport = self._learn("update", plan, step)
            self.policy_version = report.policy_version
        return report

    @contextmanager
    def _learner_alone(self) -> Iterator[None]:
        """While the learner computes: engines that sit with it sleep, and none is replaced."""
        with self._changing:
            beside = [r for r in self.replicas if r.group.colocated and not r.dead]
            self._tell(beside, "sleep")
            try:
                yield
                if beside:
                    self._learn("free_cache")
            finally:  # also for a learner that takes the place of one that was lost
                self._tell(beside, "wake")

    def sync(self, given: Callable[[Mapping[str, float]], object] | None = None) -> Mapping[str, float]:
        """Replaces dead engines, and broadcasts the learner's weights until every engine has acknowledged them; those that
        already have are left in peace. If one dies while it loads them, all get the newest: the learner may have learned since.

        Raises RunError when more than `max_restarts` restarts would be needed, WeightSyncError for a broadcast that fails
        with everybody alive.
        """
        start = time.perf_counter()
        with self._changing:
            self._find_dead()
            num_bytes = self._give()
        metrics = {"seconds": time.perf_counter() - start, "bytes": float(num_bytes)}
        if given is not None:
            given(metrics)
        while not self._all_loaded():
            with self._changing:
                self._give()
        return metrics

    def _give(self) -> int:
        """Replaces dead engines until all that live have been sent the learner's weights; returns the bytes sent to each."""
        num_bytes = 0
        while True:
            self._start_again()
            if self.learner is None or not self._stale():
                return num_bytes
            num_bytes = self._broadcast(self._stale())

    def _all_loaded(self) -> bool:
        """Waits until the engines have loaded what they were sent. False if any is dead, by then or before."""
        if self.learners is not None:
            self.weight_sync.loaded()
        return not any(replica.dead for replica in self.replicas)

    def take_restarts(self) -> int:
        taken, self.restarts_taken = self.pool.restarts - self.restarts_taken, self.pool.restarts
        return taken

    # The learner's process may have another working directory (on a cluster it has), so paths go there whole.

    def save(self, directory: Path) -> None:
        """May run in a thread while engines sample; one that is lost meanwhile is replaced after it."""
        with self._changing:
            self._learn("save", directory.resolve())

    def save_model(self, directory: Path) -> None:
        self._learn("save_model", directory.resolve())

    def load(self, directory: Path) -> None:
        self.policy_version = self._learn("load", directory.resolve())
        for replica in self.replicas:
            replica.version = None

    def restart_learner(self) -> None:
        """After a LearnerLostError: a learner as at the start of the run, which the engines know nothing of yet. Raises RunError
        once the run's restarts are used up."""
        assert self.learners is not None
        with self._changing:
            self.learners.restart()
            self.weight_sync = WeightSync(self.pool, self.learners, self.sync_config)
            self.policy_version = self._learn("policy_version")
            for replica in self.replicas:
                replica.version = None

    def scale_rate(self, scale: float) -> None:
        self._learn("scale_rate", scale)

    def close(self) -> None:
        """Ends every actor and frees the seats. Whoever still samples in another thread gets an error; waits for it at most
        CLOSE_S."""
        self.pool.close()
        self._idle.wait(CLOSE_S)

    def _tell(self, replicas: Sequence[Replica], what: str) -> None:
        """Asks engines for something and waits for all of them; one that is dead or dies of it is replaced by the next sync."""
        for replica, ref in [(r, getattr(r.handle, what).remote()) for r in replicas if not r.dead]:
            try:
                self.pool.get(ref, name=replica.name)
            except DEATHS:
                replica.dead = True

    def _stale(self) -> list[Replica]:
        return [r for r in self.replicas if r.trained and not r.dead and r.version != self.policy_version]

    def _broadcast(self, replicas: Sequence[Replica]) -> int:
        """Sends the learner's weights to these engines; marks who died of it or is stuck. WeightSyncError if nobody did."""
        try:
            try:
                num_bytes = self.weight_sync.send(replicas, self.policy_version)
            except (*DEATHS, WeightSyncError):
                self._learn("policy_version")  # if it is the learner that is gone, nobody else is to blame
                raise
        except LearnerLostError:
            for replica in self._mark_hung(replicas):
                replica.cut_off = True
            raise
        except (*DEATHS, WeightSyncError) as e:
            self._mark_hung(replicas)
            if not self._find_dead():
                raise WeightSyncError(f"the weight broadcast failed with learner and engines alive: {first_line(e)}") from e
            return 0
        return num_bytes

    def _mark_hung(self, replicas: Sequence[Replica]) -> list[Replica]:
        """After a broadcast that failed: who is stuck in it is as good as dead."""
        names = self.weight_sync.hung()
        hung = [replica for replica in replicas if replica.name in names]
        for replica in hung:
            replica.dead = True
        return hung

    def _verify(self) -> None:
        """See `WeightSync.verify`."""
        if self.learners is not None:
            self.weight_sync.verify()

    def _may_be_asked(self, replica: Replica) -> bool:
        """Not one that is being replaced, nor one without the learner's weights."""
        return not replica.dead and not replica.behind

    def _revive_one(self, replica: Replica, handle: Any) -> None:
        """Replaces the replica whose actor `handle` is dead or hangs (None: if it is known to be), and brings it to the learner's
        version; the others go on with what they are doing."""
        with self._changing:
            if replica.handle is handle:  # else a broadcast has met and replaced it already
                replica.dead = True
            self._all_loaded()
            while replica.dead or replica.behind:
                self._start_again()
                if replica.behind:
                    self._broadcast([replica])
                    self._all_loaded()

    def _start_again(self) -> None:
        start_again(self.replicas, self.pool, self.engine_specs, self.learner is not None)

    def _find_dead(self) -> bool:
        """One that hangs in a broadcast may answer only after the broadcast's own limit has passed."""
        return find_dead(self.replicas, self.pool, 2 * self.sync_config.timeout_s)

    def _learn(self, method: str, *args: Any) -> Any:
        """A call to the learner. Its death is a LearnerLostError: what it had learned cannot be restarted."""
        assert self.learners is not None
        return self.learners.call(method, *args)
