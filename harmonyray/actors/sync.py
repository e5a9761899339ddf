"""The learner's weights to engine actors: who joins which broadcast group, and whether everybody holds what was sent."""

from __future__ import annotations

import sys
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
from harmonyray.errors import AlteredWeightsError, RunError, WeightSyncError, first_line

HUNG_S = 2.0  # beyond the limits of a broadcast, which everybody keeps that is not stuck


@dataclass(frozen=True, slots=True)
class _Told:
    """What an engine was asked after it had all bytes: whether it has loaded them, or their checksum."""

    replica: Replica
    handle: Any  # the replica's when it was asked; it may have another by now
    group: int
    answer: Any


@dataclass(frozen=True, slots=True)
class _Sent:
    """A broadcast that every engine has all bytes of, and the learner's checksums by group."""

    version: int
    checksums: Asked
    engines: list[_Told]


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
        self._loading: _Sent | None = None  # not acknowledged yet
        self._unverified: _Sent | None = None  # acknowledged, and its checksums not compared yet
        self._verifying = threading.RLock()
        self._changes_at_once: set[str] = set()  # the replicas whose transport loads while it receives

    def hung(self) -> set[str]:
        """After a failure: the replicas that did not come back from what they were last asked, though their time is over, and
        those that may hold some old and some new weights."""
        refs = list(self._asked.values())
        done, _ = ray.wait(refs, num_returns=len(refs), timeout=HUNG_S, fetch_local=False) if refs else ([], [])
        return {name for name, ref in self._asked.items() if ref not in done} | (self._changes_at_once & set(self._asked))

    def send(self, replicas: Sequence[Replica], policy_version: int) -> int:
        """Sends the weights to these engines, all or some of the run's; returns the bytes sent to each, 0 if one turns out to be
        dead. Other engines are not involved and may be busy.

        The engines load them after that, see `loaded`; what the learner gave does not change when it learns. Raises
        WeightSyncError, naming who did not join or did not take what within sync.timeout_s, and what `verify` does of the
        broadcast before.
        """
        with self._verifying:  # who wants to know meanwhile hears of this broadcast, not of the one before
            self.verify()
            return 0 if any(r.dead for r in replicas) else self._send(replicas, policy_version)

    def _send(self, replicas: Sequence[Replica], policy_version: int) -> int:
        engines = [r.handle for r in replicas]
        joined, self._joined, self._asked = self._joined, [], {}  # unless it ends well, the next one makes new groups
        if joined != engines:
            self._join(replicas)
        acks = [e.receive.remote(self.weight_specs, self._bucket_bytes, policy_version) for e in engines]
        self._asked = {r.name: ack for r, ack in zip(replicas, acks, strict=True)}
        version, num_bytes = self.learner.call("send", self.weight_specs, self._bucket_bytes)
        self._joined = engines
        sums = self.learner.ask("sent_checksums")  # of what was sent: the learner does one thing after the other
        told = [_Told(r, r.handle, self._group_of[r.name], ack) for r, ack in zip(replicas, acks, strict=True)]
        self._loading = _Sent(version, sums, told)
        for replica in replicas:
            replica.version = policy_version
        return int(num_bytes)

    def loaded(self) -> None:
        """Waits until the engines of the last broadcast have loaded what they were sent. One that has died of it is marked as
        dead, and so is one that has not done it within sync.timeout_s, which is ended. Checksums are computed while the engines
        go on.

        Raises WeightSyncError if one says that it cannot load them (if it may hold some old and some new weights it is marked as
        dead instead), AlteredWeightsError if one acknowledges another policy version than what was sent.
        """
        with self._verifying:
            due, self._loading = self._loading, None
            if due is None:
                return
            done = self._answered(due.engines)
            held: list[_Told] = []
            failed: list[RunError] = []
            for told in due.engines:
                if told.replica.handle is not told.handle:
                    continue  # replaced already: its successor is sent them anew
                try:
                    has_loaded = self._has_loaded(told, due.version, told.answer in done)
                    if told.replica.handle is not told.handle:
                        continue
                    if has_loaded:
                        told.replica.behind = False
                        held.append(_Told(told.replica, told.handle, told.group, told.handle.held_checksum.remote()))
                    else:
                        told.replica.dead = True
                except (WeightSyncError, AlteredWeightsError) as e:
                    told.replica.version = None  # what it holds is not known: the next broadcast is for it, too
                    failed.append(e)
            self._asked = {told.replica.name: told.answer for told in held}
            self._unverified = _Sent(due.version, due.checksums, held)
            if failed:
                raise failed[0]

    def verify(self) -> None:
        """Waits until both ends of the last broadcast have said their checksums; whoever calls first waits for all. One that has
        died is left out: it is sent the weights again before it is asked for anything.

        Raises AlteredWeightsError if an engine holds other weights than were sent, RunError if one fails to say so,
        WeightSyncError if it does not within sync.timeout_s, or cannot load them.
        """
        with self._verifying:
            self.loaded()
            due, self._unverified = self._unverified, None
            if due is None:
                return
            sent = self.learner.result(due.checksums)
            done = self._answered(due.engines)
            late = [told.replica.name for told in due.engines if told.answer not in done]
            if late:
                raise WeightSyncError(
                    f"{', '.join(late)} loaded the weights but did not say their checksum within sync.timeout_s = "
                    f"{self.sync_config.timeout_s:g} s: raise it, or look at the engine's log"
                )
            for told in due.engines:
                try:
                    held = self.pool.get(told.answer, told.replica.name)
                except DEATHS:
                    continue
                except RunError:
                    raise
                except Exception as e:  # as in `_has_loaded`
                    said = f"{told.replica.name} could not say its weights' checksum ({first_line(e)})"
                    raise RunError(f"{said}: look at the engine's log") from e
                if held != sent[told.group]:
                    raise AlteredWeightsError(
                        f"{told.replica.name} acknowledged policy version {due.version} with checksum {held}, the learner sent "
                        f"checksum {sent[told.group]}: the engine does not hold the broadcast weights"
                    )

    def _answered(self, engines: Sequence[_Told]) -> list[Any]:
        """Those answers of theirs that come within sync.timeout_s."""
        refs = [told.answer for told in engines]
        return ray.wait(refs, num_returns=len(refs), timeout=self.sync_config.timeout_s, fetch_local=False)[0] if refs else []

    def _has_loaded(self, told: _Told, version: int, in_time: bool) -> bool:
        """False for an engine that died of it, was late and is ended, or may hold some of both. Raises what `loaded` does."""
        name = told.replica.name
        if not in_time:
            limit = f"sync.timeout_s = {self.sync_config.timeout_s:g} s"
            _say(f"{name} did not load the weights within {limit}: raise it if it is only slow")
            ray.kill(told.handle)
            return False
        try:
            held = self.pool.get(told.answer, name)
        except DEATHS:
            return False
        except Exception as e:  # whatever an engine raises there, which may be a plug-in
            why = f"{name} could not load the weights: {first_line(e)}"
            if name in self._changes_at_once:
                _say(f"{why}; it may hold some old and some new ones, and is started again")
                return False
            raise WeightSyncError(why) from e
        if held != version:
            raise AlteredWeightsError(
                f"{name} acknowledged policy version {held}, the learner sent version {version}: the engine does not hold the "
                "broadcast weights"
            )
        return True

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


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)
