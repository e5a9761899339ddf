"""What a person reads when an actor is gone: the run's own words, and nothing of Ray's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from actor_helpers import ROOM, SMALL

LATE = """
from harmonyray.actors.cluster import cluster
from ray._private.worker import print_to_stdstream

print_to_stdstream({"lines": ["A worker died or was killed"], "pid": "raylet", "is_err": False}, ignore_prefix=False)
print("done")
"""


def test_rays_daemon_is_not_heard() -> None:
    """Its messages come from another thread, at any time, and would get between the lines of stdout."""
    done = subprocess.run([sys.executable, "-c", LATE], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("done\n", "")


@pytest.mark.slow
def test_an_actor_that_ray_ends_for_want_of_memory_says_so(tmp_path: Path) -> None:
    """A Ray for which every machine is short of memory."""
    short = {**os.environ, "RAY_memory_usage_threshold": "0.001", "RAY_memory_monitor_refresh_ms": "100"}
    short.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-m", "harmonyray", "train", "quickstart", *SMALL, *ROOM, "--run-dir", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, env=short, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.splitlines()
    assert " died " in line
    assert "Ray ended it because its node was short of memory" in line
    assert "rollout.problems_per_step" in line
