"""Sampling and grading side by side: order, failures, and rollouts that are gone with their node."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest
from eval_helpers import ByText, Echo, Script

from harmonyray.collect import MAX_LOSSES, collect
from harmonyray.errors import RolloutsLostError
from harmonyray.protocols import Ask, Seeds
from harmonyray.types import FailedAttempt, Problem, ProblemRollouts, Rollout, RolloutGroup, Sampling

PROBLEMS = [Problem(name, "?") for name in "abc"]
LINES = {(p.id, "v"): (f"{p.id} {p.id}", "") for p in PROBLEMS}
ASKS = [Ask(Echo("v"), 2, Sampling(8))]


@dataclass(frozen=True)
class Gone:
    """Where the node has gone away."""

    def get(self) -> tuple[Rollout, ...]:
        raise RolloutsLostError("gone")


class Flaky(Script):
    """The first `times` calls keep the second problem on a node that goes away."""

    def __init__(self, times: int) -> None:
        super().__init__(LINES)
        self.times = times

    def sample(
        self, asks: Sequence[Ask], problems: Sequence[Problem], policy_version: int | None, seed_parts: Seeds
    ) -> Iterator[ProblemRollouts | FailedAttempt]:
        for item in super().sample(asks, problems, policy_version, seed_parts):
            assert isinstance(item, ProblemRollouts)
            lost = item.problem.id == "b" and len(self.calls) <= self.times
            yield ProblemRollouts(item.problem, (RolloutGroup(item.groups[0].figures, Gone()),)) if lost else item


def test_problems_come_back_in_the_order_they_were_asked_in() -> None:
    got = collect(Script(LINES), ByText([Echo("v")]), ASKS, PROBLEMS, 3, (0,))
    assert [item.problem.id for item in got.rollouts] == [g.problem_id for g in got.groups] == ["a", "b", "c"]
    assert [g.representatives for g in got.groups] == [("a",), ("b",), ("c",)]
    assert got.generate_s >= 0 and got.grade_s >= 0


def test_a_problem_that_fails_is_told_and_left_out() -> None:
    class Failing(Script):
        def sample(
            self, asks: Sequence[Ask], problems: Sequence[Problem], policy_version: int | None, seed_parts: Seeds
        ) -> Iterator[ProblemRollouts | FailedAttempt]:
            for item in super().sample(asks, problems, policy_version, seed_parts):
                assert isinstance(item, ProblemRollouts)
                if item.problem.id == "b":
                    yield FailedAttempt("b", "v", 1, "slow", last=False)
                    yield FailedAttempt("b", "v", 2, "slow", last=True)
                else:
                    yield item

    got = collect(Failing(LINES), ByText([Echo("v")]), ASKS, PROBLEMS, 3, (0,))
    assert [item.problem.id for item in got.rollouts] == ["a", "c"]
    assert [(f.problem_id, f.attempt, f.last) for f in got.failed] == [("b", 1, False), ("b", 2, True)]


@pytest.mark.parametrize("times", [0, 1, MAX_LOSSES - 1])
def test_rollouts_that_went_with_their_node_are_sampled_again_with_the_same_seeds(times: int) -> None:
    sampler = Flaky(times)
    got = collect(sampler, ByText([Echo("v")]), ASKS, PROBLEMS, 3, (0,))
    assert [item.problem.id for item in got.rollouts] == ["a", "b", "c"]
    assert len(sampler.calls) == times + 1
    seeds = [request.seeds for request, _, _ in sampler.asked]
    assert seeds == seeds[:3] * (times + 1)


def test_nodes_that_go_away_again_and_again_end_it() -> None:
    sampler = Flaky(99)
    with pytest.raises(RolloutsLostError, match="gone"):
        collect(sampler, ByText([Echo("v")]), ASKS, PROBLEMS, 3, (0,))
    assert len(sampler.calls) == MAX_LOSSES
