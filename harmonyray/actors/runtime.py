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

import ray
from ray.exceptions import GetTimeoutError, RayActorError
from ray.util.placement_group import PlacementGroup, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from harmonyray.actors.broadcast import GroupSpec
from harmonyray.actors.placement import Seat
from harmonyray.actors.workers import EngineWorker, GraderWorker, LearnerWorker, PartSpec
from harmonyray.config import RuntimeConfig, SyncConfig
from harmonyray.errors import RunError, WeightSyncError
from harmonyray.types import AnswerGroup, Batch, ProblemRollouts, Prompt, Rollout, SampleRequest, Sampling, UpdateReport


@dataclass(slots=True)
class Replica:
    """An engine actor and the seat it sits in."""

    view: str
    index: int
    bundle: int
    num_gpus: float
    handle: Any
    dead: bool = False


@dataclass(slots=True)
class Job:
    """Requests owed by one replica, and where their rollouts belong in the view's list."""

    replica: Replica
    requests: list[SampleRequest]
    places: list[int] = field(default_factory=list)


class RayRuntime:
    """Sampler, learner and broadcast over Ray actors. `learner` None makes a runtime that only samples."""

    def __init__(
        self,
        seats: Sequence[Seat],
        group: PlacementGroup,
        engine: PartSpec,
        learner: PartSpec | None,
        loss: PartSpec,
        grader: PartSpec,
        runtime: RuntimeConfig,
        sync: SyncConfig,
    ) -> None:
        self.placement, self.engine_spec, self.runtime, self.sync_config = group, engine, runtime, sync
        self.replicas: list[Replica] = []
        self.learner: Any = None
        self.restarts = self.restarts_taken = 0
        self._group_name = 0
        self._joined = False
        self.policy_version = 0
        for bundle, seat in enumerate(seats):
            if seat.group == "grader":
                self.grader = RayGrader(self, bundle, seat, grader)
            elif seat.group == "learner":
                self._learner_has_gpu = seat.num_gpus > 0
                if learner is not None:
                    self.learner = self.start_actor(LearnerWorker, bundle, seat.num_gpus, learner, loss, sync.timeout_s)
            else:
                view = seat.group.removeprefix("view ")
                self.replicas.append(
                    Replica(
                        view, seat.replica, bundle, seat.num_gpus, self.start_actor(EngineWorker, bundle, seat.num_gpus, engine)
                    )
                )
        self._get([r.handle.pid.remote() for r in self.replicas])
        if self.learner is not None:
            self._weight_specs = self._learn("weight_specs")
            self._host, self._port = self._learn("address")

    def start_actor(self, cls: type[Any], bundle: int, num_gpus: float, *args: Any) -> Any:
        """An actor of `cls` in a reserved seat, one thread pool of the configured size."""
        env = {
            "OMP_NUM_THREADS": str(self.runtime.threads_per_actor),
            "OMP_WAIT_POLICY": "PASSIVE",
            "TOKENIZERS_PARALLELISM": "false",
            "TRANSFORMERS_VERBOSITY": "error",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }
        if num_gpus == 0:
            env["CUDA_VISIBLE_DEVICES"] = ""
        seat = PlacementGroupSchedulingStrategy(self.placement, placement_group_bundle_index=bundle)
        # The seat's CPUs are reserved by the bundle; the actor itself asks for none, so fractions never add up wrongly.
        options = {"num_cpus": 0, "num_gpus": num_gpus, "scheduling_strategy": seat, "runtime_env": {"env_vars": env}}
        return ray.remote(cls).options(**options).remote(*args)

    def count_tokens(self, prompts: Mapping[str, Sequence[Prompt]]) -> dict[str, list[int]]:
        refs = {view: self._of(view)[0].handle.count_tokens.remote(list(asked)) for view, asked in prompts.items()}
        return {view: self._get(ref) for view, ref in refs.items()}

    def sample(
        self, requests: Mapping[str, Sequence[SampleRequest]], sampling: Sampling, policy_version: int
    ) -> dict[str, list[tuple[Rollout, ...]]]:
        """All views at once, each view's requests dealt to its replicas in whole groups, results in the requests' order."""
        out: dict[str, list[tuple[Rollout, ...]]] = {view: [()] * len(asked) for view, asked in requests.items()}
        jobs = [job for view, asked in requests.items() for job in self._deal(view, asked)]
        while jobs:
            refs = [job.replica.handle.sample.remote(job.requests, sampling, policy_version) for job in jobs]
            lost = []
            for job, ref in zip(jobs, refs, strict=True):
                try:
                    groups = self._get(ref)
                except RayActorError:
                    job.replica.dead = True
                    lost.append(job)
                    continue
                for place, group in zip(job.places, groups, strict=True):
                    out[job.replica.view][place] = group
            if lost:
                self.sync()
            jobs = lost
        return out

    def update(self, batch: Batch, step: int) -> UpdateReport:
        report: UpdateReport = self._learn("update", batch, step)
        self.policy_version = report.policy_version
        return report

    def sync(self) -> dict[str, float]:
        """Restarts dead engines and broadcasts the learner's weights until every engine has acknowledged them.

        Raises RunError when more than `max_restarts` restarts would be needed, WeightSyncError for an altered broadcast.
        """
        start = time.perf_counter()
        while True:
            self._revive()
            try:
                if self.learner is None:
                    return {"seconds": time.perf_counter() - start}
                num_bytes = self._broadcast()
                return {"seconds": time.perf_counter() - start, "bytes": float(num_bytes)}
            except (RayActorError, WeightSyncError) as e:
                self._joined = False
                if not self._find_dead():
                    self._learn("policy_version")
                    raise RunError(f"the weight broadcast failed with learner and engines alive: {e}") from e

    def take_restarts(self) -> int:
        taken, self.restarts_taken = self.restarts - self.restarts_taken, self.restarts
        return taken

    def save(self, directory: Path) -> None:
        self._learn("save", directory)

    def save_model(self, directory: Path) -> None:
        self._learn("save_model", directory)

    def load(self, directory: Path) -> None:
        self.policy_version = self._learn("load", directory)

    def close(self) -> None:
        """Ends every actor and frees the seats."""
        for handle in [self.learner, self.grader.handle, *(r.handle for r in self.replicas)]:
            if handle is not None:
                ray.kill(handle)
        remove_placement_group(self.placement)

    def count_restart(self, what: str) -> None:
        """Raises RunError once the run's restarts are used up."""
        if self.restarts >= self.runtime.max_restarts:
            raise RunError(
                f"{what} died and all {self.runtime.max_restarts} restarts (runtime.max_restarts) are used: look at its log "
                "under the Ray session's logs, check memory with `harmonyray doctor`, then continue with --resume"
            )
        self.restarts += 1

    def _of(self, view: str) -> list[Replica]:
        return [r for r in self.replicas if r.view == view]

    def _deal(self, view: str, requests: Sequence[SampleRequest]) -> list[Job]:
        replicas = self._of(view)
        jobs = [Job(replica, []) for replica in replicas]
        for i, request in enumerate(requests):
            job = jobs[i * len(replicas) // len(requests)]
            job.requests.append(request)
            job.places.append(i)
        return [job for job in jobs if job.requests]

    def _broadcast(self) -> int:
        engines = [r.handle for r in self.replicas]
        bucket_bytes = int(self.sync_config.bucket_mb * 1024 * 1024)
        if not self._joined:
            self._group_name += 1
            spec = GroupSpec(
                self._host,
                self._port,
                f"weights-{self._group_name}",
                1 + len(engines),
                self._backend(),
                self.sync_config.timeout_s,
            )
            joins = [self.learner.join.remote(spec)] + [e.join.remote(spec, i + 1) for i, e in enumerate(engines)]
            self._get(joins)
            self._joined = True
        acks = [e.receive.remote(self._weight_specs, bucket_bytes, self.policy_version) for e in engines]
        num_bytes, expected = self._get(self.learner.send.remote(self._weight_specs, bucket_bytes))
        for replica, held in zip(self.replicas, self._get(acks), strict=True):
            if held != expected:
                raise RunError(
                    f"view {replica.view} replica {replica.index} acknowledged policy version {self.policy_version} "
                    f"with checksum {held}, the learner sent {expected}: the engine does not hold the broadcast weights"
                )
        return int(num_bytes)

    def _backend(self) -> str:
        if self.sync_config.backend != "auto":
            return self.sync_config.backend
        return "nccl" if all(r.num_gpus > 0 for r in self.replicas) and self._learner_has_gpu else "gloo"

    def _revive(self) -> None:
        for replica in self.replicas:
            if replica.dead:
                self.count_restart(f"an engine of view {replica.view!r}")
                ray.kill(replica.handle)
                replica.handle = self.start_actor(EngineWorker, replica.bundle, replica.num_gpus, self.engine_spec)
                replica.dead = False
                self._joined = False

    def _find_dead(self) -> bool:
        """Marks the replicas that do not answer; true if there are any."""
        for replica in self.replicas:
            try:
                self._get(replica.handle.pid.remote())
            except RayActorError:
                replica.dead = True
        return any(r.dead for r in self.replicas)

    def _learn(self, method: str, *args: Any) -> Any:
        """A call to the learner. Its state cannot be restarted, so its death is a RunError."""
        try:
            return self._get(getattr(self.learner, method).remote(*args))
        except RayActorError as e:
            raise RunError(
                f"the learner died during {method!r}: look at memory (`harmonyray doctor`), then continue with --resume"
            ) from e

    def _get(self, refs: Any) -> Any:
        return get(refs, self.runtime.call_timeout_s)


class RayGrader:
    """The grader actor; it holds no state, so a dead one is replaced and asked again."""

    def __init__(self, runtime: RayRuntime, bundle: int, seat: Seat, spec: PartSpec) -> None:
        self.runtime = runtime
        self._start: Callable[[], Any] = lambda: runtime.start_actor(GraderWorker, bundle, seat.num_gpus, spec)
        self.handle = self._start()

    def group(self, rollouts: Sequence[ProblemRollouts]) -> list[AnswerGroup]:
        groups: list[AnswerGroup] = self._call("group", list(rollouts))
        return groups

    def equal(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        equal: list[bool] = self._call("equal", list(pairs))
        return equal

    def _call(self, method: str, argument: Any) -> Any:
        while True:
            try:
                return self.runtime._get(getattr(self.handle, method).remote(argument))
            except RayActorError:
                self.runtime.count_restart("the grader")
                self.handle = self._start()


def get(refs: Any, timeout_s: float) -> Any:
    """`ray.get` with a limit. Raises RunError that says so when it passes."""
    try:
        return ray.get(refs, timeout=timeout_s)
    except GetTimeoutError as e:
        raise RunError(
            f"an actor did not answer within runtime.call_timeout_s = {timeout_s:g} s; raise the limit or look at its log"
        ) from e
