"""One member's end of a broadcast through a torch.distributed process group: gloo on CPU, NCCL on GPUs.

Rank 0 is the learner and hosts the store; engines are the other ranks. A group that lost a member is never repaired: everybody
joins a new one under another name.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from harmonyray.engines.roll_call import POLL_S, GroupSpec, RollCall
from harmonyray.engines.weights import Bucket, TensorSpec, digest, in_place, pack, plan_buckets, unpack
from harmonyray.errors import WeightSyncError, first_line

IN_FLIGHT = 4  # buckets under way at once, so that copies overlap with the network
SLICE_S = 0.25  # how often one that waits looks whether another gave up


@dataclass(slots=True)
class Received:
    """The broadcast tensors by name, in the learner's order, and their digests if these were asked for."""

    weights: dict[str, torch.Tensor]
    digests: dict[str, bytes]


@dataclass(slots=True)
class Memory:
    """Where buckets are received: memory that is kept from one broadcast to the next, since taking it anew is slower than the
    network on a CPU. Whoever still uses what was received here keeps it out of the next broadcast."""

    buffers: list[torch.Tensor] = field(default_factory=list)

    def buffer(self, index: int, num_bytes: int, device: torch.device) -> torch.Tensor:
        """The memory of bucket `index`, uint8[num_bytes]."""
        if index < len(self.buffers) and len(self.buffers[index]) == num_bytes and self.buffers[index].device.type == device.type:
            return self.buffers[index]
        buffer = torch.empty(num_bytes, dtype=torch.uint8, device=device)
        self.buffers[index:] = [buffer]
        return buffer


class WeightGroup:
    """One member's end of a broadcast group."""

    def __init__(self, spec: GroupSpec, rank: int, store: Any = None) -> None:
        """`store`: the learner's, which hosts it. Blocks until every member has joined; raises WeightSyncError when they do not
        within the timeout."""
        self.spec, self.rank = spec, rank
        self._rooms: dict[int, torch.Tensor] = {}
        timeout, roll = timedelta(seconds=spec.timeout_s), None
        try:
            root = store or dist.TCPStore(spec.host, spec.port, is_master=False, wait_for_workers=False, timeout=timeout)
            here = dist.PrefixStore(spec.name, root)
            roll = RollCall(spec, rank, here)
            roll.announce()
            self.group: Any = _process_group(here, rank, spec, timeout)
        except RuntimeError as e:
            raise WeightSyncError(
                f"{spec.who(rank)} could not join broadcast group {spec.name!r} of {spec.world_size} "
                f"within {spec.timeout_s:g} s: {missing(spec, roll)} ({said(e)})"
            ) from e
        self.roll = roll

    def send(self, weights: Mapping[str, torch.Tensor], specs: Sequence[TensorSpec], bucket_bytes: int) -> int:
        """Broadcasts the weights from rank 0 and waits until every rank has them; returns the bytes sent to each.

        Raises WeightSyncError, naming the ranks that did not take what.
        """
        self.roll.begin()
        plan = plan_buckets(specs, bucket_bytes)
        under_way: deque[Any] = deque()
        try:
            for i, bucket in enumerate(plan):
                if len(under_way) == IN_FLIGHT:
                    self._finish(under_way.popleft())
                under_way.append(self._broadcast(self._packed(bucket, i, weights)))
            while under_way:
                self._finish(under_way.popleft())
            self.roll.wait_for_all()
        except (RuntimeError, WeightSyncError) as e:
            self.close()
            raise WeightSyncError(not_taken(self.roll, plan, self.roll.failed() or said(e))) from e
        return sum(s.num_bytes for s in specs)

    def receive(
        self,
        specs: Sequence[TensorSpec],
        bucket_bytes: int,
        device: torch.device,
        memory: Memory | None = None,
        digests: bool = False,
    ) -> Received:
        """The broadcast weights on `device`, in `memory` (else in memory of their own), with their digests if asked for.

        Raises WeightSyncError, naming this rank and the bucket that did not come.
        """
        self.roll.begin()
        memory, plan = memory or Memory(), plan_buckets(specs, bucket_bytes)
        received = Received({}, {})
        under_way: deque[tuple[Any, torch.Tensor]] = deque()
        done = 0
        try:
            for i in range(len(plan) + IN_FLIGHT):
                if i < len(plan):
                    flat = memory.buffer(i, plan[i].num_bytes, device)
                    under_way.append((self._broadcast(flat), flat))
                if under_way and i >= IN_FLIGHT - 1:
                    work, flat = under_way.popleft()
                    self._finish(work)
                    tensors = dict(unpack(plan[done], flat))
                    received.weights.update(tensors)
                    received.digests.update((name, digest(tensor)) for name, tensor in tensors.items() if digests)
                    done += 1
                    self.roll.took(done, last=done == len(plan))
        except (RuntimeError, WeightSyncError) as e:
            memory.buffers.clear()  # something may still be on its way there
            raise self._given_up(plan[done] if done < len(plan) else plan[-1], done, e) from e
        return received

    def refuse(self, why: Exception) -> None:
        """Takes part in no broadcast: tells the others, who are about to wait, why."""
        self.roll.begin()
        self.roll.give_up(said(why))

    def close(self) -> None:
        """Leaves the group; its last reference must not be kept. Does not wait, though gloo does for what is under way."""
        threading.Thread(target=list, args=([self.__dict__.pop("group", None)],), daemon=True).start()

    def _packed(self, bucket: Bucket, index: int, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The bucket to be sent: as it lies, else in memory that is used again once bucket `index` has arrived."""
        if (there := in_place(bucket, weights)) is not None:
            return there
        device = weights[bucket.specs[0].name].device
        room = self._rooms.get(index % (IN_FLIGHT + 1))
        if room is None or len(room) < bucket.num_bytes or room.device != device:
            room = torch.zeros(bucket.num_bytes, dtype=torch.uint8, device=device)
            self._rooms[index % (IN_FLIGHT + 1)] = room
        return pack(bucket, weights, room)

    def _broadcast(self, flat: torch.Tensor) -> Any:
        options = dist.BroadcastOptions()
        options.rootRank = 0
        return self.group.broadcast([flat], options)

    def _finish(self, work: Any) -> None:
        """Waits for one bucket. Raises RuntimeError if the network fails, WeightSyncError when another rank gives up or the time
        is over."""
        while True:
            try:
                if self.spec.backend != "nccl":
                    return work.wait(timedelta(seconds=max(min(SLICE_S, self.roll.left_s), 0.001)))
                if work.is_completed():  # waiting for NCCL with a limit would abort it
                    return work.wait()
                time.sleep(POLL_S / 10)
            except RuntimeError:
                if work.is_completed():
                    return self._ended(work)
            self.roll.check()

    def _ended(self, work: Any) -> Any:
        """Raises what failed, if it has not arrived just now."""
        try:
            return work.wait()
        except RuntimeError:
            self.roll.check(SLICE_S)  # gloo keeps the same limit, and may be the first to end it, in words of its own
            raise

    def _given_up(self, bucket: Bucket, index: int, error: Exception) -> WeightSyncError:
        """Tells the others that this rank did not get a bucket, and leaves the group."""
        why = f"{describe(bucket, index)} did not arrive: {said(error)}"
        with contextlib.suppress(RuntimeError):  # the learner, who hosts the store, may be what was lost
            self.roll.give_up(why)
        self.close()
        return WeightSyncError(f"broadcast group {self.spec.name!r}, {self.spec.who(self.rank)}: {why}")


def describe(bucket: Bucket, index: int) -> str:
    """A bucket for error messages."""
    more = f" and {len(bucket.specs) - 1} more" if len(bucket.specs) > 1 else ""
    return f"bucket {index} (tensor {bucket.specs[0].name!r}{more}, {bucket.num_bytes} bytes)"


def not_taken(roll: RollCall, plan: Sequence[Bucket], why: str) -> str:
    """For rank 0, what failed: which rank did not take which bucket."""
    late = roll.behind(len(plan))
    named = [f"{roll.spec.who(rank)} did not take {describe(plan[count], count)}" for rank, count in late.items()]
    return f"broadcast group {roll.spec.name!r}: {'; '.join(named) or 'every rank took every bucket'} ({why})"


def missing(spec: GroupSpec, roll: RollCall | None) -> str:
    """Who has not announced itself in the group's store."""
    try:
        absent = roll.absent() if roll is not None else None
    except RuntimeError:
        absent = None
    if absent is None:
        return f"the learner's store at {spec.host}:{spec.port} does not answer"
    return f"{', '.join(absent)} did not join" if absent else "every rank announced itself, but they could not connect"


def said(error: BaseException) -> str:
    """What an error says in a line, without gloo's general advice."""
    return first_line(error).partition(" This is typically caused by")[0]


def _process_group(store: Any, rank: int, spec: GroupSpec, timeout: timedelta) -> Any:
    if spec.backend == "nccl":
        options = dist.ProcessGroupNCCL.Options()
        options._timeout = timeout
        return dist.ProcessGroupNCCL(store, rank, spec.world_size, options)
    gloo: Any = dist.ProcessGroupGloo  # its own types do not know its options
    options = gloo._Options()
    options._devices, options._timeout = [gloo.create_default_device()], timeout
    options._threads = IN_FLIGHT  # else two, and as many buckets under way
    return gloo(store, rank, spec.world_size, options)
