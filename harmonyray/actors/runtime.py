"""The actor groups behind one object: sampling over every view's replicas, training, and weight broadcast.

An engine that dies is replaced in its seat, brought to the current weights, and only then asked again for the whole groups
that it owed; nothing is trained on half a vote.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harmonyray.actors.grader import RayGrader
from harmonyray.actors.placement import Seat, bundle_numbers
from harmonyray.actors.pool import DEATHS, ActorPool
from harmonyray.actors.replicas import Replica
from harmonyray.actors.reservation import Reservation
from harmonyray.actors.specs import PartSpec
from harmonyray.actors.sync import WeightSync
from harmonyray.actors.workers import EngineWorker, LearnerWorker
from harmonyray.config import RuntimeConfig, SyncConfig
from harmonyray.errors import RunError, WeightSyncError
from harmonyray.protocols import UNTRAINED
from harmonyray.types import Batch, Prompt, Rollout, SampleRequest, Sampling, UpdateReport


@dataclass(frozen=True, slots=True)
class RunSpec:
    """The parts that the actors of a run are built from. `learner` None makes a runtime that only samples."""

    engines: Mapping[str, PartSpec]  # by the name of the engine group
    learner: PartSpec | None
    loss: PartSpec
    grader: PartSpec


@dataclass(slots=True)
class Job:
    """What one replica owes a view: the items it was given, and their places in the view's list."""

    view: str
    replica: Replica
    items: list[Any] = field(default_factory=list)
    places: list[int] = field(default_factory=list)


class RayRuntime:
    """Sampler, learner and broadcast over Ray actors. Call `start` before anything else, and `close` in any case."""

    def __init__(
        self, seats: Sequence[Seat], placement: Reservation, spec: RunSpec, runtime: RuntimeConfig, sync: SyncConfig
    ) -> None:
        """Asks for every actor without waiting, so that they come up side by side."""
        self.pool = ActorPool(placement, runtime)
        self.engine_specs, self.runtime, self.sync_config = spec.engines, runtime, sync
        self.replicas: list[Replica] = []
        self.learner: Any = None
        self.restarts_taken = 0
        self.policy_version = 0
        for bundle, seat in zip(bundle_numbers(seats), seats, strict=True):
            if seat.group == "grader":
                self.grader = RayGrader(self.pool, bundle, seat, spec.grader)
            elif seat.group == "learner":
                assert spec.learner is not None, "a seat for a learner that there is not"
                self._learner_gpus = seat.num_gpus
                self.learner = self.pool.start(LearnerWorker, bundle, seat.num_gpus, spec.learner, spec.loss, sync.timeout_s)
                self._learner_started = self.learner.start.remote()
            else:
                assert seat.engines is not None
                handle = self.pool.start(EngineWorker, bundle, seat.num_gpus, spec.engines[seat.engines.name])
                self.replicas.append(Replica(seat.name, seat.engines, bundle, seat.num_gpus, handle, handle.start.remote()))

    def start(self) -> None:
        """Waits until every part is built. Raises what a part's constructor raised, RunError for an actor that died."""
        starting = [(r.name, r.started) for r in self.replicas] + [("the grader", self.grader.started)]
        if self.learner is not None:
            starting.append(("the learner", self._learner_started))
        for name, ref in starting:
            try:
                self.pool.get(ref)
            except DEATHS as e:
                raise RunError(f"{name} died while it was starting: {_short(e)}; check memory with `harmonyray doctor`") from e
        if self.learner is not None:
            self.weight_sync = WeightSync(self.pool, self.learner, self._learner_gpus, self.sync_config)

    def count_tokens(self, prompts: Mapping[str, Sequence[Prompt]]) -> dict[str, list[int]]:
        return self._ask_engines(prompts, lambda job: job.replica.handle.count_tokens.remote(job.items))

    def sample(
        self, requests: Mapping[str, Sequence[SampleRequest]], sampling: Mapping[str, Sampling], policy_version: int
    ) -> dict[str, list[tuple[Rollout, ...]]]:
        """All views at once, each view's requests dealt to its replicas in whole groups, results in the requests' order."""

        def ask(job: Job) -> Any:
            version = policy_version if job.replica.trained else UNTRAINED
            return job.replica.handle.sample.remote(job.items, sampling[job.view], version)

        return self._ask_engines(requests, ask)

    def update(self, batch: Batch, step: int) -> UpdateReport:
        report: UpdateReport = self._learn("update", batch, step)
        self.policy_version = report.policy_version
        return report

    def sync(self) -> dict[str, float]:
        """Replaces dead engines and broadcasts the learner's weights until every engine has acknowledged them.

        Raises RunError when more than `max_restarts` restarts would be needed, WeightSyncError for a broadcast that fails
        with everybody alive.
        """
        start = time.perf_counter()
        while True:
            self._find_dead()
            self._revive()
            if self.learner is None:
                return {"seconds": time.perf_counter() - start}
            try:
                num_bytes = self.weight_sync.broadcast([r for r in self.replicas if r.trained], self.policy_version)
                return {"seconds": time.perf_counter() - start, "bytes": float(num_bytes)}
            except (*DEATHS, WeightSyncError) as e:
                self.weight_sync.forget()
                if not self._find_dead():
                    self._learn("policy_version")
                    raise WeightSyncError(f"the weight broadcast failed with learner and engines alive: {_short(e)}") from e

    def take_restarts(self) -> int:
        taken, self.restarts_taken = self.pool.restarts - self.restarts_taken, self.pool.restarts
        return taken

    # The learner's process may have another working directory (on a cluster it has), so paths go there whole.

    def save(self, directory: Path) -> None:
        self._learn("save", directory.resolve())

    def save_model(self, directory: Path) -> None:
        self._learn("save_model", directory.resolve())

    def load(self, directory: Path) -> None:
        self.policy_version = self._learn("load", directory.resolve())

    def close(self) -> None:
        """Ends every actor and frees the seats."""
        self.pool.close()

    def _ask_engines(self, asked: Mapping[str, Sequence[Any]], call: Callable[[Job], Any]) -> dict[str, list[Any]]:
        """An answer per item of every view, from all replicas at once; a dead replica's share is asked of its successor."""
        out: dict[str, list[Any]] = {view: [None] * len(items) for view, items in asked.items()}
        jobs = [job for view, items in asked.items() for job in self._deal(view, items)]
        while jobs:
            refs = [call(job) for job in jobs]
            lost = []
            for job, ref in zip(jobs, refs, strict=True):
                try:
                    answers = self.pool.get(ref, name=job.replica.name)
                except DEATHS:
                    job.replica.dead = True
                    lost.append(job)
                    continue
                for place, answer in zip(job.places, answers, strict=True):
                    out[job.view][place] = answer
            if lost:
                self.sync()
            jobs = lost
        return out

    def _deal(self, view: str, items: Sequence[Any]) -> list[Job]:
        jobs = [Job(view, replica) for replica in self.replicas if view in replica.group.views]
        for i, item in enumerate(items):
            job = jobs[i * len(jobs) // len(items)]
            job.items.append(item)
            job.places.append(i)
        return [job for job in jobs if job.items]

    def _revive(self) -> None:
        """New actors in the seats of the dead, all at once, until every seat has one that is built."""
        while dead := [r for r in self.replicas if r.dead]:
            for r in dead:
                spec = self.engine_specs[r.group.name]
                r.handle = self.pool.replace(r.name, r.handle, EngineWorker, r.bundle, r.num_gpus, spec)
                r.started = r.handle.start.remote()
            for r in dead:
                try:
                    self.pool.get(r.started)
                    r.dead = False
                except DEATHS:
                    continue

    def _find_dead(self) -> bool:
        """Marks the replicas that do not answer; true if there are any. One that hangs in a broadcast may answer only after
        the broadcast's own limit has passed."""
        asked = [(r, r.handle.pid.remote()) for r in self.replicas if not r.dead]
        for replica, ref in asked:
            replica.dead = not self.pool.answers(ref, 2 * self.sync_config.timeout_s)
        return any(r.dead for r in self.replicas)

    def _learn(self, method: str, *args: Any) -> Any:
        """A call to the learner. Its state cannot be restarted, so its death is a RunError."""
        try:
            return self.pool.get(getattr(self.learner, method).remote(*args))
        except DEATHS as e:
            raise RunError(
                f"the learner died during {method!r}: look at memory (`harmonyray doctor`), then continue with --resume"
            ) from e


def _short(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]
