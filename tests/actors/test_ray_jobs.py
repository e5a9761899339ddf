"""`ray job submit` against a real head: logs stream, exit codes arrive, stop is like Ctrl-C, and one run waits for another."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from actor_helpers import SMALL, wait_for
from ray_head import Head

from harmonyray.tracking import read_metrics

pytestmark = [pytest.mark.alone, pytest.mark.slow]

ONE_RUN = {"one_run": 1}
PATIENT = {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "600"}}
PATIENCE_S = 600.0
OVER = ("SUCCEEDED", "FAILED", "STOPPED")


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    started = Head("--num-cpus=2", '--resources={"one_run": 1}')
    yield started
    started.end()


def train(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "harmonyray", "train", *arguments]


def test_jobs_of_one_cluster(head: Head, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "mine.yaml").write_text("extends: quickstart\nname: mine\n")
    first_dir = tmp_path / "first"
    long = [*SMALL, "steps=100000", "checkpoint.every=100000", "--run-dir", str(first_dir)]
    first = head.submit(shlex.join(train("quickstart", *long)), runtime_env=PATIENT, entrypoint_resources=ONE_RUN)
    queued = head.submit("echo it is my turn", entrypoint_resources=ONE_RUN)
    assert wait_for(lambda: len(read_metrics(first_dir)) >= 1 or head.job(first)["status"] in OVER, PATIENCE_S), head.log(first)
    assert head.job(first)["status"] == "RUNNING", head.log(first)
    assert "quickstart: self_harmony on quickstart" in head.log(first)

    # The cluster is full: one that does not want to wait says so, and the exit code of a user's mistake arrives.
    hasty = head.submit(shlex.join(train("quickstart", *SMALL, "runtime.start_timeout_s=1", "--run-dir", str(tmp_path / "b"))))
    assert wait_for(lambda: head.job(hasty)["status"] in OVER, PATIENCE_S)
    assert (head.job(hasty)["status"], head.job(hasty)["driver_exit_code"]) == ("FAILED", 2)
    log = head.log(hasty)
    assert "the cluster is busy: no room within runtime.start_timeout_s = 1 s" in log
    assert "others use 1.75 CPUs" in log
    assert "Traceback" not in log

    # One that waits, from a working directory and with a config in it; its log is read line by line while it runs.
    waiting = head.cli(
        *("submit", "--working-dir", ".", "--", *train("mine.yaml", *SMALL, "steps=2", "runtime.start_timeout_s=600")),
        cwd=tmp_path / "work",
    )
    assert waiting.stdout is not None
    seen = []
    for line in waiting.stdout:
        seen.append(line)
        if "starting ray" in line:
            break
    assert "".join(seen).endswith("starting ray ...\n"), "".join(seen)
    assert waiting.poll() is None
    assert head.job(queued)["status"] == "PENDING"
    assert head.job(first)["status"] == "RUNNING"

    stop = head.cli("stop", first, cwd=tmp_path)
    assert stop.wait(PATIENCE_S) == 0
    assert head.job(first)["status"] == "STOPPED"
    done = len(read_metrics(first_dir))
    assert [p.name for p in (first_dir / "checkpoints").iterdir()] == [f"step-{done:06d}"]
    log = head.log(first)
    assert f"stopped; go on with the same command and --run-dir {first_dir} --resume" in log
    assert "Traceback" not in log

    rest = waiting.stdout.read()
    assert waiting.wait(PATIENCE_S) == 0, rest
    assert "mine: self_harmony, 2 steps" in rest
    assert "lies in Ray's copy of the working directory" in rest
    assert wait_for(lambda: head.job(queued)["status"] == "SUCCEEDED", PATIENCE_S)


def test_a_mistake_is_told_by_the_submitted_job(head: Head, tmp_path: Path) -> None:
    job = head.cli("submit", "--", *train("quickstart", "learner.lrr=1", "--run-dir", str(tmp_path / "run")), cwd=tmp_path)
    out, _ = job.communicate(timeout=PATIENCE_S)
    assert job.returncode != 0
    assert "learner.lrr" in out and "did you mean" in out
    assert "exit code 2" in out
    assert "Traceback" not in out
