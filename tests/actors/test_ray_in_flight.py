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


def outlast_the_update(handle: Any) -> None:
    """What is sampled ahead is not answered before the next weights have come: after three tokens the engine waits for them."""

    def change(self: Any) -> None:
        import time

        engine = self.engine
        step, stream = engine._requests.step, engine.stream
        ahead, steps = [], []  # whether each was asked for with whatever weights there are; the steps since the last one's

        def counted(requests: Any, policy_version: int | None, *args: Any) -> Any:
            ahead.append(policy_version is None)
            steps.clear()
            return stream(requests, policy_version, *args)

        def waiting(*args: Any) -> None:
            steps.append(1)
            if ahead[-1] and len(steps) > 3 and engine.policy_version < sum(ahead):
                time.sleep(0.01)
            else:
                step(*args)

        engine.stream, engine._requests.step = counted, waiting

    inside(handle, change)


@pytest.mark.slow
def test_responses_under_way_go_on_with_the_new_weights(local_ray: None) -> None:
    """With pause an update need not wait for them: some begin under one policy and end under the next. With drain none does."""
    mixed = {}
    for in_flight in ("pause", "drain"):
        config = small_config(*LAG, f"sync.in_flight={in_flight}")
        with build.open_runtime(config, build.make_views(config)) as (runtime, grader):
            runtime.sync()
            if in_flight == "pause":  # with drain the new weights would wait for it
                outlast_the_update(runtime.replicas[0].handle)
            record, _ = drive(config, runtime, grader)
            assert runtime.engine_version == runtime.policy_version == 4
        mixed[in_flight] = [row["rollout/solver/mixed"] for row in record.rows]
        assert record.restarts == 0
    assert mixed["drain"] == [0, 0, 0, 0]
    assert mixed["pause"][0] == 0 and max(mixed["pause"][1:]) > 0
