"""The learner's weights to engine actors: who joins which broadcast group, and whether everybody holds what was sent."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray

from harmonyray.actors.learner_group import Asked, LearnerGroup
from harmonyray.actors.pool import DEATHS, ActorPool
from harmonyray.actors.replicas import Replica
from harmonyray.actors.transports import WeightEnd, plan_groups
from harmonyray.config_sections import SyncConfig
from harmonyray.engines.roll_call import GroupSpec
from harmonyray.errors import AlteredWeightsError, WeightSyncError

HUNG_S = 2.0  # beyond the limits of a broadcast, which everybody keeps that is not stuck


@dataclass(frozen=True, slots=True)
class _Checksums:
    """A broadcast whose checksums are still computed: the learner's by group, and each engine's name, group and own."""

    version: int
    sent: Asked
    held: list[tuple[str, int, Any]]


class WeightSync:
    """Broadcasts from the learner's rank 0 to engine actors; the learner has started."""

    def __init__(self, pool: ActorPool, learner: LearnerGroup, sync_config: SyncConfig) -> None:
        self.pool, self.learner, self.sync_config = pool, learner, sync_config
        self.weight_specs = learner.handles[0].weight_specs.remote()
        self.host, self.port = learner.call("address")
        self._end: WeightEnd = learner.call("weight_end")
        self._group_number = 0
        self._joined: list[Any] = []  # the handles that are in the present groups
        self._asked: dict[str, Any] = {}  # the latest call to each engine, by the replica's name
        self._group_of: dict[str, int] = {}  # the present groups' numbers in their order
        self._unverified: _Checksums | None = None
        self._verifying = threading.RLock()
        self._changes_at_once: set[str] = set()  # the replicas whose transport loads while it receives

    def hung(self) -> set[str]:
        """After a failure: the replicas that did not come back from what they were last asked, though their time is over, and
        those that may hold some old and some new weights."""
        refs = list(self._asked.values())
        done, _ = ray.wait(refs, num_returns=len(refs), timeout=HUNG_S, fetch_local=False) if refs else ([], [])
        return {name for name, ref in self._asked.items() if ref not in done} | (self._changes_at_once & set(self._asked))

    def broadcast(self, replicas: Sequence[Replica], policy_version: int) -> int:
        """Sends the weights to these engines, all or some of the run's; returns the bytes sent to each. Other engines are not
        involved and may be busy.

        Checksums are computed while the engines go on; `verify` compares them. Raises WeightSyncError, naming who did not join or
        did not take what within sync.timeout_s, or did not load it within that time again; AlteredWeightsError if one
        acknowledges another policy version than what was sent, or for the broadcast before if its checksums differ.
        """
        with self._verifying:  # who wants to know meanwhile hears of this broadcast, not of the one before
            self.verify()
            return self._send(replicas, policy_version)

    def _send(self, replicas: Sequence[Replica], policy_version: int) -> int:
        engines = [r.handle for r in replicas]
        joined, self._joined, self._asked = self._joined, [], {}  # unless it ends well, the next one makes new groups
        if joined != engines:
            self._join(replicas)
        acks = [e.receive.remote(self.weight_specs, self._bucket_bytes, policy_version) for e in engines]
        self._asked = {r.name: ack for r, ack in zip(replicas, acks, strict=True)}
        version, num_bytes = self.learner.call("send", self.weight_specs, self._bucket_bytes)
        self._check_in_time(list(self._asked), acks, "load them")
        self._joined = engines
        for replica, held in zip(replicas, self.pool.get(acks), strict=True):
            if held != version:
                raise AlteredWeightsError(
                    f"{replica.name} acknowledged policy version {held}, the learner sent version {version}: the engine does not "
                    "hold the broadcast weights"
                )
        held = [(r.name, self._group_of[r.name], r.handle.held_checksum.remote()) for r in replicas]
        self._asked = {name: ref for name, _, ref in held}
        self._unverified = _Checksums(version, self.learner.ask("sent_checksums"), held)
        return int(num_bytes)

    def verify(self) -> None:
        """Waits until both ends of the last broadcast have said their checksums; whoever calls first waits for all. One that has
        died is left out: it is sent the weights again before it is asked for anything.

        Raises AlteredWeightsError if an engine holds other weights than were sent, WeightSyncError if one does not say so within
        sync.timeout_s.
        """
        with self._verifying:
            due, self._unverified = self._unverified, None
            if due is None:
                return
            sent = self.learner.result(due.sent)
            self._check_in_time([name for name, _, _ in due.held], [ref for _, _, ref in due.held], "say their checksum")
            for name, group, ref in due.held:
                try:
                    held = self.pool.get(ref, name)
                except DEATHS:
                    continue
                if held != sent[group]:
                    raise AlteredWeightsError(
                        f"{name} acknowledged policy version {due.version} with checksum {held}, the learner sent checksum "
                        f"{sent[group]}: the engine does not hold the broadcast weights"
                    )

    @property
    def _bucket_bytes(self) -> int:
        return int(self.sync_config.bucket_mb * 1024 * 1024)

    def _join(self, replicas: Sequence[Replica]) -> None:
        """Learner and engines leave their groups and meet in new ones."""
        ends = self.pool.get([r.handle.weight_end.remote() for r in replicas])
        by_name = {r.name: r.handle for r in replicas}
        specs = []
        self._group_of, self._changes_at_once = {}, set()
        for group in plan_groups(self.sync_config.backend, self._end, dict(zip(by_name, ends, strict=True))):
            self._group_number += 1
            name = f"weights-{self._group_number}"
            specs.append(GroupSpec(self.host, self.port, name, group.members, group.transport, self.sync_config.timeout_s))
            self._group_of |= dict.fromkeys(group.first_ranks, len(specs) - 1)
            self._changes_at_once |= set(group.first_ranks) if group.transport in ("vllm_nccl", "ipc") else set()
            self._asked |= {engine: by_name[engine].join.remote(specs[-1], rank) for engine, rank in group.first_ranks.items()}
        self.pool.get([self.learner.handles[0].join.remote(specs), *self._asked.values()])

    def _check_in_time(self, names: Sequence[str], refs: Sequence[Any], what: str) -> None:
        """Every engine has every byte: now each does something with them. Raises WeightSyncError for those that do not."""
        done, _ = ray.wait(list(refs), num_returns=len(refs), timeout=self.sync_config.timeout_s, fetch_local=False)
        late = [name for name, ref in zip(names, refs, strict=True) if ref not in done]
        if late:
            raise WeightSyncError(
                f"{', '.join(late)} took all buckets but did not {what} within sync.timeout_s = "
                f"{self.sync_config.timeout_s:g} s: raise it, or look at the engine's log"
            )
