"""Engine actors, the seats they sit in, and who takes the place of a dead one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harmonyray.actors.placement import EngineGroup
from harmonyray.actors.pool import DEATHS, ActorPool
from harmonyray.actors.specs import PartSpec
from harmonyray.actors.workers import EngineWorker

CALLS = 4  # that an engine actor serves side by side: sampling, weights, and whether it lives


@dataclass(slots=True)
class Replica:
    """An engine actor, the seat it sits in, and its answer to `start` (None: not asked yet). Runtime and weight sync note here
    what becomes of it."""

    name: str
    group: EngineGroup
    bundle: int
    num_gpus: float
    handle: Any
    started: Any
    dead: bool = False
    cut_off: bool = False  # dead for no fault of its own: it waited for a learner that was lost, which is the restart that counts
    version: int | None = None  # the policy version that it was sent last
    behind: bool = False  # started again, and has not yet loaded the learner's weights

    @property
    def trained(self) -> bool:
        return self.group.model is None


def find_dead(replicas: Sequence[Replica], pool: ActorPool, limit_s: float) -> bool:
    """Marks the replicas that do not answer within that time; true if any is dead."""
    asked = [(r, r.handle.pid.remote()) for r in replicas if not r.dead]
    for replica, ref in asked:
        if not pool.answers(ref, limit_s, replica.name):
            replica.dead = True
    return any(r.dead for r in replicas)


def start_again(replicas: Sequence[Replica], pool: ActorPool, specs: Mapping[str, PartSpec], follows: bool) -> None:
    """New actors in the seats of the dead, all at once, until every seat has one that is built. `specs`: by group; `follows`:
    whether there is a learner whose weights they need. Raises RunError once the run's restarts are used up."""
    while dead := [r for r in replicas if r.dead]:
        for r in dead:
            again = pool.seat_again if r.cut_off else pool.replace
            r.handle = again(r.name, r.handle, EngineWorker, r.bundle, r.num_gpus, specs[r.group.name], calls=CALLS)
            r.started, r.version, r.cut_off = r.handle.start.remote(), None, False
            r.behind = r.trained and follows
        for r in dead:
            try:
                pool.get(r.started, name=r.name)
                r.dead = False
            except DEATHS:
                continue
