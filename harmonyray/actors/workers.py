"""The Ray actors: thin shells around an engine, a learner and a grader. One process each.

Constructors only keep what they are given; `start` builds the part, so that its errors reach the driver with their own
type. torch is imported by the methods that need it: neither the driver nor the grader's process pays for it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from harmonyray.actors.kept import brought
from harmonyray.actors.specs import SAMPLING, PartSpec
from harmonyray.actors.transports import TRANSPORTS, WeightEnd, own_gpus
from harmonyray.algos.batching import fill_batch
from harmonyray.engines.roll_call import GroupSpec
from harmonyray.errors import BrokenEngineError, RankLostError, WeightSyncError, first_line
from harmonyray.protocols import Sleeps, View
from harmonyray.rollouts import Want, figures, prompt_lengths, serve
from harmonyray.types import (
    AnswerGroup,
    Failure,
    FloatArray,
    GroupFigures,
    GroupRows,
    Here,
    Problem,
    ProblemRollouts,
    Rollout,
    Texts,
    UpdateReport,
)

if TYPE_CHECKING:
    from harmonyray.engines.weights import TensorSpec

MEETING_TIMEOUT_S = 600.0  # for the ranks of a learner that load the model from a slow disk
NOT_HERE: Here[Texts] = Here(Texts((), ()))


class EngineWorker:
    """One replica of a view group. Its methods run side by side: it takes weights, and says that it lives, while it samples."""

    def __init__(self, spec: PartSpec) -> None:
        self.spec = spec
        self.stopped: set[int] = set()

    def start(self) -> int:
        """Builds the engine; returns the process id. Raises ModelError."""
        self.engine = self.spec.build()
        return os.getpid()

    def pid(self) -> int:
        return os.getpid()

    def count_tokens(self, views: Sequence[View], problems: Sequence[Problem]) -> dict[str, list[int]]:
        """The lengths of the views' prompts in tokens, by view."""
        return {view.name: prompt_lengths(self.engine, view, problems) for view in views}

    def prepare(self, wants: Sequence[Want]) -> None:
        """Renders and encodes the prompts that will be asked for next."""
        self.engine.count_tokens([want.ask.view.render(want.problem) for want in wants])

    @ray.method(concurrency_group=SAMPLING)
    def sample(
        self, number: int, wants: Sequence[Want], policy_version: int | None, timeout_s: float
    ) -> Iterator[tuple[Rollout, ...] | tuple[int, GroupFigures | Failure]]:
        """Two items for each want as it finishes: its rollouts, for the object store, and then its index and their figures.
        After a failure the first is empty. Ends early after `stop` of the same number."""
        try:
            for w, group in serve(self.engine, wants, policy_version, timeout_s):
                if number in self.stopped:
                    return
                if isinstance(group, Failure):
                    yield ()
                    yield w, group
                else:
                    yield group
                    yield w, figures(group)
        except Exception as e:
            _end_if_broken(e)
            raise

    def sleep(self) -> None:
        """Frees the memory of an engine that has anything to free."""
        if isinstance(self.engine, Sleeps):
            self.engine.sleep()

    def wake(self) -> None:
        if isinstance(self.engine, Sleeps):
            self.engine.wake()

    def stop(self, number: int) -> None:
        """Nobody waits for that call of `sample` any more."""
        self.stopped.add(number)

    def weight_end(self) -> WeightEnd:
        return WeightEnd(self.engine.num_weight_ranks, self.engine.weight_transports, own_gpus())

    def join(self, group: GroupSpec, rank: int) -> None:
        self.engine.join_weights(group, rank)

    def receive(self, weight_specs: list[TensorSpec], bucket_bytes: int, policy_version: int) -> int:
        """Takes part in one broadcast, loads what arrived and acknowledges with the policy version that the engine now holds."""
        self.engine.receive_weights(weight_specs, bucket_bytes, policy_version)
        version: int = self.engine.policy_version
        return version

    def held_checksum(self) -> int:
        """Of the weights that the last broadcast brought."""
        checksum: int = self.engine.held_checksum()
        return checksum


def _end_if_broken(error: Exception) -> None:
    """Ends the process, so that it is replaced, after an error that leaves its device or its engine in an unknown state."""
    import torch

    from harmonyray.engines.hf import out_of_memory

    if out_of_memory(error) or isinstance(error, (torch.AcceleratorError, BrokenEngineError)):
        print(f"the engine ends: {error}", file=sys.stderr, flush=True)
        os._exit(1)


class LearnerWorker:
    """A rank of the learner; rank 0 is also that of every broadcast group."""

    def __init__(self, spec: PartSpec, loss: PartSpec, store_timeout_s: float) -> None:
        self.spec, self.loss, self.store_timeout_s = spec, loss, store_timeout_s
        self.senders: list[Any] = []

    def open_meeting(self) -> tuple[str, int]:
        """The address of a store on this node that the ranks of the learner meet at."""
        from harmonyray.actors.broadcast import WeightStore, own_address

        self.meeting = WeightStore(own_address(), MEETING_TIMEOUT_S)
        return self.meeting.host, self.meeting.port

    def start(self, rank: int = 0, meeting: tuple[str, int] | None = None) -> int:
        """Builds the learner, one of several ranks if there is a `meeting`, and the store that broadcast groups meet at; returns
        the process id. Raises ModelError."""
        from harmonyray.actors.broadcast import WeightStore, own_address, rank_at
        from harmonyray.engines.weights import specs

        about = {} if meeting is None else {"rank": rank_at(rank, meeting, MEETING_TIMEOUT_S)}
        with _told_apart():
            self.learner = self.spec.build(loss=self.loss.build(), **about)
            self.specs = specs(self.learner.weights())
        self.store = WeightStore(own_address(), self.store_timeout_s)
        return os.getpid()

    def address(self) -> tuple[str, int]:
        return self.store.host, self.store.port

    def policy_version(self) -> int:
        version: int = self.learner.policy_version
        return version

    def weight_specs(self) -> list[TensorSpec]:
        return self.specs

    def weight_end(self) -> WeightEnd:
        return WeightEnd(1, TRANSPORTS, own_gpus())

    def join(self, groups: list[GroupSpec]) -> None:
        """Leaves all broadcast groups and joins these as rank 0."""
        from harmonyray.actors.broadcast import sender

        self.senders = []
        self.senders = [sender(group, self.store) for group in groups]

    def send(self, weight_specs: list[TensorSpec], bucket_bytes: int) -> tuple[int, int]:
        """Broadcasts the weights in every group, one after the other, also after one that fails; returns the policy version and
        the bytes per engine. Raises WeightSyncError for the first group that failed.

        Ranks above 0 are in no group: they only help to put the weights together."""
        with _told_apart():
            weights = self.learner.weights()
        sent: list[int] = []
        failed: list[WeightSyncError] = []
        for each in self.senders:
            try:
                sent.append(each.send(weights, weight_specs, bucket_bytes))
            except WeightSyncError as e:
                failed.append(e)
        if failed:
            raise failed[0]
        return self.learner.policy_version, sent[0] if sent else 0

    def sent_checksums(self) -> list[int]:
        """By group, of what `send` sent. To be called before the next update."""
        return [each.sent_checksum() for each in self.senders]

    def score(self, plan: Sequence[GroupRows], statistics: Sequence[str]) -> Mapping[str, FloatArray]:
        """Fetches the rollouts of the plan and scores them, row by row. Raises RolloutsLostError."""
        batch = fill_batch(plan)
        with _told_apart():
            scored: Mapping[str, FloatArray] = self.learner.score(batch, statistics)
        return scored

    def update(self, plan: Sequence[GroupRows], step: int) -> UpdateReport:
        """Fetches the rollouts of the plan and learns from them. Raises RolloutsLostError."""
        batch = fill_batch(plan)
        with _told_apart():
            report: UpdateReport = self.learner.update(batch, step)
        return report

    def free_cache(self) -> None:
        """Gives GPU memory that torch keeps for itself back to others on the same GPU."""
        import torch

        torch.cuda.empty_cache()

    def save(self, directory: Path) -> None:
        with _told_apart():
            self.learner.save(directory)

    def save_model(self, directory: Path) -> None:
        with _told_apart():
            self.learner.save_model(directory)

    def scale_rate(self, scale: float) -> None:
        self.learner.scale_rate(scale)

    def load(self, directory: Path) -> int:
        with _told_apart():
            self.learner.load(directory)
        version: int = self.learner.policy_version
        return version


@contextmanager
def _told_apart() -> Iterator[None]:
    """Turns the errors that come of another rank's death or silence into RankLostError."""
    from harmonyray.learners.ranks import has_lost_others

    try:
        yield
    except Exception as e:
        if has_lost_others(e):
            raise RankLostError(first_line(e)) from e
        raise


class GraderWorker:
    """The grader, away from the driver because model output is hostile."""

    def __init__(self, spec: PartSpec) -> None:
        self.spec = spec

    def start(self) -> int:
        """Builds the grader; returns the process id."""
        self.grader = self.spec.build()
        return os.getpid()

    def group(self, rollouts: Sequence[ProblemRollouts]) -> tuple[list[AnswerGroup] | Texts, ...]:
        """The answers, and apart from them each problem's texts, which may stay in the object store."""
        groups: list[AnswerGroup] = self.grader.group(brought(rollouts))
        return [replace(group, texts=NOT_HERE) for group in groups], *(group.texts.get() for group in groups)

    def equal(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        equal: list[bool] = self.grader.equal(pairs)
        return equal
