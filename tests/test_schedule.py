"""Which problems a step draws: each epoch every problem at most once, a function of seed and step alone."""

from __future__ import annotations

import pytest

from harmonyray.problems.schedule import ProblemSchedule
from harmonyray.types import Problem


def problems(count: int) -> list[Problem]:
    return [Problem(f"p{i}", f"question {i}") for i in range(count)]


def ids(schedule: ProblemSchedule, step: int) -> list[str]:
    return [p.id for p in schedule.draw(step)]


# (problems, asked per step) -> (drawn per step, steps an epoch)
SIZES = [((8, 4), (4, 2)), ((8, 3), (3, 2)), ((7, 7), (7, 1)), ((3, 10), (3, 1)), ((1, 1), (1, 1)), ((5, 1), (1, 5))]


@pytest.mark.parametrize(("asked", "expected"), SIZES)
def test_sizes(asked: tuple[int, int], expected: tuple[int, int]) -> None:
    schedule = ProblemSchedule(problems(asked[0]), asked[1], seed=0)
    assert (schedule.per_step, schedule.steps_per_epoch) == expected
    for step in range(1, 12):
        assert len(ids(schedule, step)) == len(set(ids(schedule, step))) == expected[0]


@pytest.mark.parametrize("seed", range(4))
def test_an_epoch_draws_nobody_twice(seed: int) -> None:
    schedule = ProblemSchedule(problems(8), 4, seed)
    for epoch in range(5):
        drawn = ids(schedule, 2 * epoch + 1) + ids(schedule, 2 * epoch + 2)
        assert sorted(drawn) == [f"p{i}" for i in range(8)]


def test_what_does_not_fill_a_step_comes_in_another_epoch() -> None:
    schedule = ProblemSchedule(problems(8), 3, seed=0)
    first_epoch = set(ids(schedule, 1) + ids(schedule, 2))
    assert len(first_epoch) == 6
    assert {i for step in range(1, 41) for i in ids(schedule, step)} == {f"p{i}" for i in range(8)}


def test_epochs_and_seeds_differ() -> None:
    schedule = ProblemSchedule(problems(20), 20, seed=0)
    assert ids(schedule, 1) != ids(schedule, 2)
    assert ids(schedule, 1) != ids(ProblemSchedule(problems(20), 20, seed=1), 1)
    assert ids(schedule, 1) != [f"p{i}" for i in range(20)]


def test_a_step_is_the_same_whatever_was_drawn_before() -> None:
    """Or a resumed run would see other problems than an undisturbed one."""
    straight = ProblemSchedule(problems(10), 4, seed=5)
    expected = [ids(straight, step) for step in range(1, 8)]
    fresh = ProblemSchedule(problems(10), 4, seed=5)
    assert [ids(fresh, step) for step in range(7, 0, -1)] == expected[::-1]


def test_every_problem_is_drawn_about_as_often() -> None:
    schedule = ProblemSchedule(problems(5), 2, seed=0)
    counts = {f"p{i}": 0 for i in range(5)}
    for step in range(1, 1001):
        for i in ids(schedule, step):
            counts[i] += 1
    assert sum(counts.values()) == 2000
    assert all(330 < n < 470 for n in counts.values()), counts  # 400 expected, deviation about 16


def test_further_problems_are_the_others_of_a_step_in_an_order_of_its_own() -> None:
    schedule = ProblemSchedule(problems(10), 4, seed=5)
    before = [ids(schedule, step) for step in range(1, 5)]
    further = [[p.id for p in schedule.further(step)] for step in range(1, 5)]
    for drawn, others in zip(before, further, strict=True):
        assert sorted(drawn + others) == sorted(f"p{i}" for i in range(10))
    assert sorted(further[0]) != further[0]
    fresh = ProblemSchedule(problems(10), 4, seed=5)
    assert [[p.id for p in fresh.further(step)] for step in (4, 3, 2, 1)] == further[::-1]
    assert [ids(schedule, step) for step in range(1, 5)] == before
    assert ProblemSchedule(problems(3), 10, seed=0).further(1) == []
