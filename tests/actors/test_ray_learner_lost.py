"""A learner that is lost before the first step is started again, and only that counts as a restart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from actor_helpers import kill, pid_of, small_config
from run_helpers import rows

from harmonyray.actors.runtime import RayRuntime
from harmonyray.console import Reporter
from harmonyray.run import run_training

pytestmark = pytest.mark.slow
OPTIONS = ["steps=1", "guard.action=rollback", "checkpoint.every=1", "runtime.max_restarts=3"]


def test_lost_while_engines_join_in_the_first_evaluation_and_while_the_beginning_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two engines wait for it each time that it is lost before a broadcast."""
    calls: dict[str, int] = {}

    def deadly(name: str) -> None:
        method = getattr(RayRuntime, name)

        def call(self: RayRuntime, *args: Any) -> Any:
            calls[name] = calls.get(name, 0) + 1
            if calls[name] == 1:
                assert self.learners is not None
                kill(pid_of(self.learners.handles[0]))  # ray.kill would return before it is dead
                if name == "_verify":  # which itself asks the learner for nothing that it has not said
                    self._learn("policy_version")
            return method(self, *args)

        monkeypatch.setattr(RayRuntime, name, call)

    for name in ("sync", "_verify", "save"):
        deadly(name)
    lost: list[str] = []
    reporter = Reporter(quiet=True)
    monkeypatch.setattr(reporter, "learner_lost", lost.append)
    summary = run_training(small_config(*OPTIONS), tmp_path / "run", False, reporter)
    assert summary["steps"] == 1 and "eval/solver/avg_at_k" in summary["eval_before"]
    assert len(lost) == 3
    assert [(row["step"], row["policy_version"], row["runtime/restarts"]) for row in rows(tmp_path / "run")] == [(1, 1, 3)]
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == ["step-000000", "step-000001"]
