"""The learner as a group of actors: ranks that are killed in the middle of an update, or hang, and the run that goes on from its
last checkpoint as if nothing had happened."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from actor_helpers import assert_same_rows, gone_within, pid_of, small_config

from harmonyray.actors.runtime import RayRuntime
from harmonyray.console import Reporter
from harmonyray.run import run_training

pytestmark = [
    pytest.mark.alone,
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed (`make test` installs it)"
    ),
]

# A rank that hangs is noticed after this, by the rank that waits for it.
TWO_RANKS = ("learner.type=deepspeed", "learner.num_ranks=2", "learner.zero_stage=3", "learner.collective_timeout_s=15")
SMALLER = (
    "problems.limit=8",
    "rollout.problems_per_step=4",
    "placement.view.replicas=1",
    "views.reframer=null",
    "method.type=majority_vote",
)


class Said(Reporter):
    """Keeps what is said of the learner."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lost: list[str] = []
        self.again: list[int] = []

    def learner_lost(self, why: str) -> None:
        self.lost.append(why)

    def started_again(self, step: int) -> None:
        self.again.append(step)


def run(run_dir: Path, *overrides: str, resume: bool = False) -> Said:
    said = Said()
    run_training(small_config(*overrides), run_dir, resume, said)
    return said


def rows(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def model_of(run_dir: Path) -> bytes:
    return (run_dir / "model" / "model.safetensors").read_bytes()


def kill_in_the_middle(runtime: RayRuntime) -> None:
    """Rank 1 stands still, so that rank 0 waits for it in the update, and is killed there."""
    assert runtime.learners is not None
    pid = pid_of(runtime.learners.handles[1])
    os.kill(pid, signal.SIGSTOP)
    threading.Timer(2.0, os.kill, (pid, signal.SIGKILL)).start()


def hang(runtime: RayRuntime) -> None:
    assert runtime.learners is not None
    os.kill(pid_of(runtime.learners.handles[1]), signal.SIGSTOP)


def kill_the_only_one(runtime: RayRuntime) -> None:
    pid = pid_of(runtime.learner)
    os.kill(pid, signal.SIGKILL)
    assert gone_within(pid, 10)


def disturb(monkeypatch: pytest.MonkeyPatch, at: dict[int, Callable[[RayRuntime], None]]) -> list[list[int]]:
    """Before the first update of these steps that happens to the learner. Returns a list of its processes then, to be filled."""
    update, pids = RayRuntime.update, list[list[int]]()

    def disturbed(self: RayRuntime, plan: Any, step: int) -> Any:
        if step in at:
            assert self.learners is not None
            pids.append([pid_of(handle) for handle in self.learners.handles])
            at.pop(step)(self)
        return update(self, plan, step)

    monkeypatch.setattr(RayRuntime, "update", disturbed)
    return pids


def test_a_rank_that_is_killed_and_one_that_hangs(local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first checkpoint, and after it. The rows are those of a run that was left in peace; then the run goes on with
    another learner."""
    run(tmp_path / "peace", *SMALLER, *TWO_RANKS)
    pids = disturb(monkeypatch, {2: kill_in_the_middle, 3: hang})
    said = run(tmp_path / "war", *SMALLER, *TWO_RANKS)
    assert said.again == [0, 2]
    assert "died during 'update'" in said.lost[0]
    assert "rank 0 of the learner lost the others during 'update'" in said.lost[1]
    assert_same_rows(rows(tmp_path / "war"), rows(tmp_path / "peace"))
    assert model_of(tmp_path / "war") == model_of(tmp_path / "peace")
    assert len({pid for ranks in pids for pid in ranks}) == 4
    assert all(gone_within(pid, 20) for ranks in pids for pid in ranks), "a rank outlives its group"
    run(tmp_path / "war", *SMALLER, "learner.type=torch", "runtime.type=in_process", "steps=4", resume=True)
    assert [row["policy_version"] for row in rows(tmp_path / "war")] == [1, 2, 3, 4]


def test_a_torch_learner_that_is_killed(local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "peace", *SMALLER, "runtime.type=in_process")
    disturb(monkeypatch, {3: kill_the_only_one})
    said = run(tmp_path / "war", *SMALLER)
    assert said.again == [2]
    assert said.lost[0].startswith("the learner died during 'update'")
    assert_same_rows(rows(tmp_path / "war"), rows(tmp_path / "peace"))
    assert sum(row["runtime/restarts"] for row in rows(tmp_path / "war")) == 1
