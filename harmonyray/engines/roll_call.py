"""Who belongs to a broadcast group, and what its members have announced of a broadcast in the group's store. No torch here."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from harmonyray.errors import WeightSyncError

NOTE_S = 2.0  # how long the learner waits for the others' word on a failure
POLL_S = 0.002


@dataclass(frozen=True, slots=True)
class GroupSpec:
    """What a member needs to join a broadcast group: where the store is, the group's name, who belongs to it in order of
    rank (the learner first; an engine that is spread over several processes has as many ranks), transport and timeout."""

    host: str
    port: int
    name: str
    members: tuple[str, ...]
    backend: str
    timeout_s: float

    @property
    def world_size(self) -> int:
        return len(self.members)

    def who(self, rank: int) -> str:
        return f"rank {rank} ({self.members[rank]})"


class RollCall:
    """A member's announcements in the group's `store` (of torch.distributed), and what the learner reads there.

    `begin` starts a broadcast; both ends count their broadcasts, so that an announcement belongs to one.
    """

    def __init__(self, spec: GroupSpec, rank: int, store: Any) -> None:
        self.spec, self.rank, self.store = spec, rank, store
        self.number = 0
        self.deadline = 0.0

    def announce(self) -> None:
        """This rank is about to join."""
        self.store.set(f"member-{self.rank}", "joined")

    def absent(self) -> list[str]:
        """Who has not announced itself."""
        return [self.spec.who(r) for r in range(self.spec.world_size) if not self.store.check([f"member-{r}"])]

    def begin(self) -> None:
        self.number += 1
        self.deadline = time.monotonic() + self.spec.timeout_s

    @property
    def left_s(self) -> float:
        """Seconds until the broadcast has taken too long; not below 0."""
        return max(0.0, self.deadline - time.monotonic())

    def took(self, num_buckets: int, last: bool) -> None:
        """This rank holds that many buckets; `last`: it has all."""
        self.store.set(self._key("took", self.rank), str(num_buckets))
        if last:
            self.store.set(self._key("all", self.rank), "yes")

    def give_up(self, why: str) -> None:
        """The broadcast has failed for this rank: the others need not wait for it."""
        self.store.set(self._key("note", self.rank), why)
        self.store.set(self._key("failed"), f"{self.spec.who(self.rank)}: {why}")

    def failed(self) -> str | None:
        """Why another rank gave up, None if nobody did."""
        key = self._key("failed")
        return str(self.store.get(key).decode()) if self.store.check([key]) else None

    def check(self, slack_s: float = 0.0) -> None:
        """Raises WeightSyncError when another rank has given up, or the time is over up to `slack_s`."""
        if why := self.failed():
            raise WeightSyncError(why)
        if self.left_s <= slack_s:
            raise WeightSyncError(f"nothing came within {self.spec.timeout_s:g} s")

    def wait_for_all(self) -> None:
        """Waits until every other rank has all buckets. Raises WeightSyncError when one gives up or the time is over."""
        waiting = [self._key("all", r) for r in range(self.spec.world_size) if r != self.rank]
        while waiting:
            if self.store.check(waiting[:1]):
                waiting.pop(0)
            else:
                self.check()
                time.sleep(POLL_S)

    def behind(self, num_buckets: int) -> dict[int, int]:
        """The ranks that do not have all buckets, with the number that they have: only those that say nothing any more, or all
        of them if each has given up in its turn. Tells the others first that this rank has."""
        self.give_up("gave up")
        end = time.monotonic() + NOTE_S
        while True:
            counts = {r: self._count(r) for r in range(self.spec.world_size) if r != self.rank}
            late = {r: n for r, n in counts.items() if n < num_buckets}
            silent = {r: n for r, n in late.items() if not self.store.check([self._key("note", r)])}
            if not silent or time.monotonic() > end:
                return silent or late
            time.sleep(10 * POLL_S)

    def _count(self, rank: int) -> int:
        key = self._key("took", rank)
        return int(self.store.get(key)) if self.store.check([key]) else 0

    def _key(self, what: str, rank: int | None = None) -> str:
        return f"{what}-{self.number}" if rank is None else f"{what}-{self.number}-{rank}"
