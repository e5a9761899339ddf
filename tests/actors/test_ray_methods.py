"""Every method takes real steps on Ray actors, and what it asks the learner for is what it gets in one process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from actor_helpers import assert_same_rows, assert_same_weights, drive, drive_new, learner_weights, small_config

from harmonyray import build
from harmonyray.registry import BUILT_IN

SETTINGS = [
    "steps=2",
    "problems.limit=8",
    "rollout.problems_per_step=4",
    "views.solver.num_samples=8",
    "views.reframer.num_samples=8",
    "learner.packing=true",
]
METHODS: dict[str, list[str]] = {
    "self_harmony": [],
    "self_harmony as its published code": [
        "method.type=self_harmony",
        "method.exact_votes=true",
        "method.format_penalty=0",
        "method.diversity_penalty=0",
        "objective.first_view_mask=true",
    ],
    "majority_vote": ["method.num_trained=4"],
    "co_reward": [],
    "intuitor": [],
    "rent": ["method.unanswered_reward=-7"],
    "self_certainty_vote": [],
    "empo": [],
    "ground_truth": [],
}


def config_of(name: str, *more: str) -> Any:
    return small_config(*SETTINGS, f"method.type={name.split()[0]}", *METHODS[name], *more)


@pytest.fixture(scope="module")
def opened(local_ray: None) -> Iterator[Any]:
    """One set of actors, which the methods use one after the other."""
    config = small_config(*SETTINGS)
    with build.open_runtime(config, build.make_views(config)) as (runtime, grader):
        yield runtime, grader


def test_every_method_is_tried() -> None:
    assert {name.split()[0] for name in METHODS} == set(BUILT_IN["methods"])


@pytest.mark.parametrize("name", list(METHODS))
def test_two_steps_on_actors(name: str, opened: Any) -> None:
    runtime, grader = opened
    before, version = learner_weights(runtime), runtime.policy_version
    record, after = drive(config_of(name), runtime, grader)
    assert [row["policy_version"] - version for row in record.rows] == [1, 2]
    assert any(not np.array_equal(before[key], after[key]) for key in before)
    for row in record.rows:
        assert np.isfinite(row["train/loss"]) and row["train/grad_norm"] > 0
        assert row["consensus/coverage"] == 0 if name in ("intuitor", "rent") else row["consensus/coverage"] > 0
        whole = {"majority_vote": 4 * 8, "intuitor": 4 * 16, "rent": 4 * 16, "empo": 4 * 16}
        assert row["train/num_rows"] <= whole.get(name, 4 * 16)
        if name in whole:
            assert row["train/num_rows"] == whole[name]
        # On few problems all answers may be right, or wrong.
        low, high = {"intuitor": (0.1, 100.0), "rent": (-7.0, -1e-3)}.get(name, (0.0, 1.0))
        assert all(low <= row[f"reward/{view}/mean"] <= high for view in ("solver", "reframer"))


def test_a_method_that_asks_the_learner_trains_the_same_in_one_process(local_ray: None) -> None:
    one, two = (drive_new(config_of("intuitor", *more)) for more in ([], ["runtime.type=in_process"]))
    assert_same_rows(one[0].rows, two[0].rows)
    assert one[0].tokens == two[0].tokens
    assert_same_weights(one[1], two[1])
