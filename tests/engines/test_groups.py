"""What counts as a sound group, and the lock that gives turns."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from harmonyray.engines.groups import in_order, sound_group
from harmonyray.engines.turns import Turns
from harmonyray.errors import RunError
from harmonyray.types import Failure, Prompt, Rollout, SampleRequest, Sampling

REQUEST = SampleRequest(Prompt("p7", "solver", text="a"), (1, 2), Sampling(4))


def rollout(token_ids: list[int], logprobs: list[float]) -> Rollout:
    ids, values = np.array(token_ids, dtype=np.int64), np.array(logprobs, dtype=np.float32)
    return Rollout(REQUEST.prompt, np.array([5]), ids, values, "", "stop", 0)


GOOD = rollout([3, 4], [-0.5, 0.0])


def test_a_sound_group_is_given_as_it_is() -> None:
    assert sound_group(REQUEST, [GOOD, GOOD]) == (GOOD, GOOD)
    rounded = rollout([3], [1e-6])
    assert sound_group(REQUEST, [GOOD, rounded]) == (GOOD, rounded)


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        (rollout([], []), "response 1 is empty: expected at least one token"),
        (rollout([3, 4], [-0.5]), "response 1 has 2 tokens and 1 log-probs: expected as many of both"),
        (rollout([3, 4], [-0.5, np.nan]), "response 1 has nan as log-prob of token 1: expected a finite number, 0 at most"),
        (rollout([3, 4], [-np.inf, -0.5]), "response 1 has -inf as log-prob of token 0: expected a finite number, 0 at most"),
        (rollout([3, 4], [-0.5, 0.25]), "response 1 has 0.25 as log-prob of token 1: expected a finite number, 0 at most"),
    ],
)
def test_malformed_responses_are_named(second: Rollout, reason: str) -> None:
    assert sound_group(REQUEST, [GOOD, second]) == Failure(f"the group of problem 'p7', view 'solver', is malformed: {reason}")


def test_a_response_a_seed() -> None:
    want = Failure("the group of problem 'p7', view 'solver', has 1 responses: expected one for each of its 2 seeds")
    assert sound_group(REQUEST, [GOOD]) == want


def test_groups_in_order_and_a_failure_as_an_error() -> None:
    one, two = (GOOD,), (GOOD, GOOD)
    assert in_order([(1, two), (0, one)]) == [one, two]
    with pytest.raises(RunError, match="no memory"):
        in_order([(1, two), (0, Failure("no memory"))])


# --- turns -------------------------------------------------------------------------------------------------------------------


def wait_for(turns: Turns, number: int) -> None:
    while len(turns._waiting) < number:
        time.sleep(0.001)


def test_turns_are_given_in_the_order_of_asking() -> None:
    turns, order = Turns(), []

    def take(name: int) -> None:
        with turns:
            order.append(name)

    threads = [threading.Thread(target=take, args=(name,)) for name in range(5)]
    with turns:
        for number, thread in enumerate(threads, 1):
            thread.start()
            wait_for(turns, number)
        with turns.if_free() as held:
            assert not held
    with turns:  # asks after the five
        assert order == [0, 1, 2, 3, 4]
        with turns.if_free() as held:
            assert not held
    for thread in threads:
        thread.join()
    with turns.if_free() as held:
        assert held
        taker = threading.Thread(target=take, args=(7,))
        taker.start()
        wait_for(turns, 1)
        assert 7 not in order
    taker.join()
    assert order[-1] == 7


def test_who_lets_go_does_not_get_the_next_turn() -> None:
    turns, order = Turns(), []

    def other() -> None:
        with turns:
            order.append("other")

    thread = threading.Thread(target=other)
    for _ in range(3):
        with turns:
            order.append("mine")
            if len(order) == 1:
                thread.start()
                wait_for(turns, 1)
    thread.join()
    assert order == ["mine", "other", "mine", "mine"]


def test_an_error_inside_gives_the_turn_on() -> None:
    turns = Turns()
    with pytest.raises(ZeroDivisionError), turns:
        _ = 1 / 0
    with turns.if_free() as held:
        assert held
