"""Engines that sit with the learner: they sleep while it updates, and nothing else changes."""

from __future__ import annotations

from typing import Any

import pytest
from actor_helpers import assert_same_rows, drive, drive_new, inside, kill, pid_of, small_config

from harmonyray import build

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

VLLM = ["views.reframer=null", "method.type=majority_vote", "rollout.engine.type=vllm", "rollout.engine.kv_cache_gib=0.25"]


def note_moves(handle: Any) -> None:
    """From now on the engine notes what it becomes."""

    def change(self: Any) -> None:
        state = self.engine.state
        self.moves, move = [], state.move

        def noted(to: str) -> None:
            move(to)
            self.moves.append(to)

        state.move = noted

    inside(handle, change)


def test_the_engine_sleeps_while_the_learner_updates(local_ray: None) -> None:
    apart, _ = drive_new(small_config(*VLLM))
    config = small_config(*VLLM, "placement.colocate=[solver]")
    with build.open_runtime(config, build.make_views(config)) as (runtime, grader):
        runtime.sync()
        handle = runtime.replicas[0].handle
        note_moves(handle)
        asked: list[tuple[str, str]] = []
        update = runtime._learn

        def look(method: str, *args: Any) -> Any:
            asked.append((method, inside(handle, lambda self: self.engine.state.name)))
            return update(method, *args)

        runtime._learn = look
        record, _ = drive(config, runtime, grader)
        assert asked == [("update", "asleep"), ("free_cache", "asleep")] * 3
        assert inside(handle, lambda self: self.moves) == ["asleep", "serving", "updating", "serving"] * 3
        assert_same_rows(record.rows, apart.rows)
        runtime._learn = update

        kill(pid_of(handle))  # a dead engine neither sleeps nor wakes, and the update does not wait for it
        before = runtime.policy_version
        again, _ = drive(small_config(*VLLM, "placement.colocate=[solver]", "steps=1"), runtime, grader)
        assert again.restarts == 1 and runtime.engine_version == runtime.policy_version == before + 1
