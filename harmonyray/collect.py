"""Sampling and grading side by side: a problem is graded as soon as all of its views have answered."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence

from harmonyray.errors import RolloutsLostError
from harmonyray.protocols import Ask, Grader, Sampler, Seeds
from harmonyray.types import Collected, FailedAttempt, Problem, ProblemRollouts

MAX_LOSSES = 3  # how often problems are sampled again because a node went away with their rollouts


def collect(
    sampler: Sampler,
    grader: Grader,
    asks: Sequence[Ask],
    problems: Sequence[Problem],
    policy_version: int | None,
    seed_parts: Seeds,
) -> Collected:
    """Everything about these problems in all views `asks` [V]. See `Sampler.sample` for the seeds.

    Raises RolloutsLostError if nodes go away again and again.
    """
    for losses in range(1, MAX_LOSSES + 1):
        try:
            return _collect(iter(sampler.sample(asks, problems, policy_version, seed_parts)), grader, problems)
        except RolloutsLostError:  # sampled again they are the same: the seeds are
            if losses == MAX_LOSSES:
                raise
    raise AssertionError("unreachable")


def _collect(stream: Iterator[ProblemRollouts | FailedAttempt], grader: Grader, problems: Sequence[Problem]) -> Collected:
    whole: list[ProblemRollouts] = []
    failed: list[FailedAttempt] = []
    generate_s = 0.0

    def arriving() -> Iterator[ProblemRollouts]:
        nonlocal generate_s
        while True:
            begun = time.perf_counter()
            item = next(stream, None)
            generate_s += time.perf_counter() - begun
            if item is None:
                return
            if isinstance(item, FailedAttempt):
                failed.append(item)
            else:
                whole.append(item)
                yield item

    begun = time.perf_counter()
    try:
        groups = grader.group(arriving())
    finally:
        if isinstance(stream, Generator):  # after an error: what is still being sampled is not waited for any more
            stream.close()
    grade_s = time.perf_counter() - begun - generate_s
    place = {problem.id: i for i, problem in enumerate(problems)}
    order = sorted(range(len(whole)), key=lambda k: place[whole[k].problem.id])
    return Collected([whole[k] for k in order], [groups[k] for k in order], failed, generate_s, grade_s)
