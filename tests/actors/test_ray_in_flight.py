"""New weights while a real vLLM engine generates, on actors: `rollout.lag: 1` with `sync.in_flight: pause`."""

from __future__ import annotations

from typing import Any

import pytest
from actor_helpers import drive, inside, small_config

from harmonyray import build

pytestmark = [pytest.mark.alone, pytest.mark.vllm]

LAG = [
    "views.reframer=null",
    "method.type=majority_vote",
    "rollout.engine.type=vllm",
    "rollout.lag=1",
    "loss.type=truncated_is",
    "checkpoint.every=9",
    "steps=4",
]


def slow_down(handle: Any, seconds: float) -> None:
    """Makes every step of the engine take longer, so that what is under way outlasts an update."""

    def change(self: Any) -> None:
        import time

        step = self.engine._requests.step

        def slower(*args: Any) -> Any:
            time.sleep(seconds)
            return step(*args)

        self.engine._requests.step = slower

    inside(handle, change)


@pytest.mark.slow
def test_responses_under_way_go_on_with_the_new_weights(local_ray: None) -> None:
    """With pause an update need not wait for them: some begin under one policy and end under the next. With drain none does."""
    mixed = {}
    for in_flight in ("pause", "drain"):
        config = small_config(*LAG, f"sync.in_flight={in_flight}")
        with build.open_runtime(config, build.make_views(config)) as (runtime, grader):
            runtime.sync()
            slow_down(runtime.replicas[0].handle, 0.1)
            record, _ = drive(config, runtime, grader)
            assert runtime.engine_version == runtime.policy_version == 4
        mixed[in_flight] = [row["rollout/solver/mixed"] for row in record.rows]
        assert record.restarts == 0
    assert mixed["drain"] == [0, 0, 0, 0]
    assert mixed["pause"][0] == 0 and max(mixed["pause"][1:]) > 0
