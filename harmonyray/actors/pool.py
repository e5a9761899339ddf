"""Actors in reserved seats: starting, calling and ending them, and the run's allowance of restarts."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, NodeDiedError, ObjectLostError, OutOfMemoryError, RayActorError, RayTaskError

from harmonyray.actors.reservation import Reservation
from harmonyray.actors.specs import SAMPLING
from harmonyray.config_sections import RuntimeConfig
from harmonyray.errors import RunError

DEATHS = (RayActorError, ObjectLostError, NodeDiedError, OutOfMemoryError)  # the actor, or what it returned, is gone
LOOK_S = 15.0  # between two looks, in a long call, at whether the nodes are still there

MAX_DIRECT_BYTES = 1024
SHORT_OF_MEMORY = (
    "Ray ended it because its node was short of memory (RAY_memory_usage_threshold, by default 0.95 of it): hold less at once "
    "(rollout.problems_per_step, views.*.num_samples, the batch sizes of engine and learner), have fewer engines "
    "(placement.view.replicas, placement.share), or take nodes with more memory"
)


def why_dead(error: BaseException, otherwise: str) -> str:
    """Why an actor is dead and what to do, if one of the DEATHS says that memory was short; else `otherwise`."""
    return SHORT_OF_MEMORY if isinstance(error, OutOfMemoryError) else otherwise


class ActorPool:
    """The actors of one run. `restarts` counts the replacements of dead ones."""

    def __init__(self, placement: Reservation, config: RuntimeConfig) -> None:
        self.placement, self.config = placement, config
        self.restarts = 0
        self.short_of_memory: set[str] = set()  # actors that Ray has ended for it
        self._closed = False
        self._ending = threading.Lock()  # no actor is started while they are ended, nor after
        self._handles: list[tuple[int, Any]] = []  # each with its bundle

    def start(self, cls: type[Any], bundle: int, num_gpus: float, *args: Any, calls: int = 1) -> Any:
        """An actor of `cls` in a reserved seat, one thread pool of the configured size, which serves that many calls side by
        side. Does not wait for it. Raises RunError if the run has ended."""
        env = {
            "OMP_NUM_THREADS": str(self.config.threads_per_actor),
            "OMP_WAIT_POLICY": "PASSIVE",
            "TOKENIZERS_PARALLELISM": "false",
            "TRANSFORMERS_VERBOSITY": "error",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            # What is larger than this stays in the object store; by default rollouts of up to 100 kB would go to the driver.
            "RAY_max_direct_call_object_size": str(MAX_DIRECT_BYTES),
        }
        if num_gpus == 0:
            env["CUDA_VISIBLE_DEVICES"] = ""
        # The seat's CPUs are reserved by the bundle; the actor itself asks for none, so fractions never add up wrongly.
        options: dict[str, Any] = {
            "num_cpus": 0,
            "num_gpus": num_gpus,
            "runtime_env": {"env_vars": env},
            "max_concurrency": calls,
        }
        if calls > 1:
            options["concurrency_groups"] = {SAMPLING: calls}
        remote: Any = ray.remote  # its own types do not know concurrency groups
        with self._ending:
            self.check_open()
            handle = remote(**options, scheduling_strategy=self.placement.seat(bundle))(cls).remote(*args)
            self._handles.append((bundle, handle))
        return handle

    def replace(self, name: str, handle: Any, cls: type[Any], bundle: int, num_gpus: float, *args: Any, calls: int = 1) -> Any:
        """A new actor in a dead one's seat. Raises RunError once the run's restarts are used up, or if the seat is gone."""
        self.count_restart(name)
        return self.seat_again(name, handle, cls, bundle, num_gpus, *args, calls=calls)

    def count_restart(self, name: str) -> None:
        """Raises RunError if `name` would be restarted once too often."""
        self.check_open()
        if self.restarts >= self.config.max_restarts:
            look = "look at its log under the Ray session's logs, check memory with `harmonyray doctor`"
            raise RunError(
                f"{name} died and all {self.config.max_restarts} restarts (runtime.max_restarts) are used: "
                f"{SHORT_OF_MEMORY if name in self.short_of_memory else look}, then continue with --resume"
            )
        self.restarts += 1

    def seat_again(self, name: str, handle: Any, cls: type[Any], bundle: int, num_gpus: float, *args: Any, calls: int = 1) -> Any:
        """Ends the actor `handle` and starts a new one in its seat. Raises RunError if the seat is gone."""
        self.check_open()
        ray.kill(handle)
        self._handles = [pair for pair in self._handles if pair[1] is not handle]
        if not self.placement.restore(bundle, self.config.start_timeout_s):
            self.check_open()
            raise RunError(
                f"{name} died with its node, and no other node had room within runtime.start_timeout_s = "
                f"{self.config.start_timeout_s:g} s: add a node or lower `placement`, then continue with --resume"
            )
        return self.start(cls, bundle, num_gpus, *args, calls=calls)

    def get(self, refs: Any, name: str | None = None) -> Any:
        """What the calls to `name` return. Raises RunError when runtime.call_timeout_s passes; what an actor's method raised
        is raised here as it was there. Says at once if a named actor, which can be replaced, is gone for want of memory."""
        limit = self.config.call_timeout_s
        deadline = time.monotonic() + limit
        while True:
            try:
                return ray.get(refs, timeout=max(0.0, min(LOOK_S, deadline - time.monotonic())))
            except GetTimeoutError as e:
                if time.monotonic() >= deadline:
                    raise RunError(
                        f"{name or 'an actor'} did not answer within runtime.call_timeout_s = {limit:g} s; raise the limit or "
                        "look at its log"
                    ) from e
                self.give_up_lost()
            except RayTaskError as e:
                raise e.cause from e
            except OutOfMemoryError:
                self._short_of_memory(name)
                raise

    def give_up_lost(self) -> None:
        """Ends the actors whose nodes are gone. Ray would start one that was not up yet as soon as the node came back."""
        lost = self.placement.drop_lost()
        for bundle, handle in self._handles:
            if bundle in lost:
                ray.kill(handle)

    def answers(self, ref: Any, timeout_s: float, name: str) -> bool:
        """Whether a call to `name` comes back in time; one that does not is as good as dead."""
        try:
            ray.get(ref, timeout=timeout_s)
        except OutOfMemoryError:
            self._short_of_memory(name)
            return False
        except (*DEATHS, GetTimeoutError):
            return False
        return True

    def _short_of_memory(self, name: str | None) -> None:
        """Remembers it, and says it once: it will happen again if nothing is done about it."""
        if name is not None and name not in self.short_of_memory:
            self.short_of_memory.add(name)
            print(f"{name} died: {SHORT_OF_MEMORY}", file=sys.stderr, flush=True)

    def check_open(self) -> None:
        """Raises RunError if the run has ended."""
        if self._closed:
            raise RunError("the run has ended, and its actors with it")

    def close(self) -> None:
        """Ends every actor and frees the seats. Calling it twice is fine."""
        with self._ending:
            self._closed = True
            handles, self._handles = self._handles, []
        if ray.is_initialized():
            for _, handle in handles:
                ray.kill(handle)
            self.placement.remove()
