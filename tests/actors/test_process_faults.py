"""Whole runs as a user starts them: killed, interrupted, resumed. What they leave behind, and what they then compute."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from actor_helpers import SMALL, assert_same_rows, wait_for
from safetensors.numpy import load_file

MARK = "HARMONYRAY_TEST_RUN"  # in the environment of a run and so of every process that it starts
RAY_AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")  # Ray's own; they may ask the dead cluster for 60 s before they go
REPOSITORY = Path(__file__).parents[2]
STEPS = "steps=6"

pytestmark = [pytest.mark.alone, pytest.mark.slow]


class Run:
    """`harmonyray train` in a process group of its own, as a terminal would start it."""

    def __init__(self, run_dir: Path, *arguments: str) -> None:
        self.run_dir, self.mark = run_dir, uuid.uuid4().hex
        self.errors = run_dir.parent / f"{run_dir.name}-{self.mark}.err"
        command = [sys.executable, "-m", "harmonyray", "train", "quickstart", *SMALL, STEPS, *arguments]
        env = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | {MARK: self.mark}
        # A suite that was started in the background ignores SIGINT, and so would what it starts.
        ignored = signal.signal(signal.SIGINT, signal.default_int_handler)
        with self.errors.open("w") as err:
            self.process = subprocess.Popen(
                [*command, "--run-dir", str(run_dir), "--json"],
                stdout=subprocess.PIPE,
                stderr=err,
                text=True,
                cwd=REPOSITORY,
                env=env,
                start_new_session=True,
            )
        signal.signal(signal.SIGINT, ignored)

    def processes(self) -> list[int]:
        """Every live process of this run, wherever it hangs in the process tree."""
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                if f"{MARK}={self.mark}".encode() in path.read_bytes():
                    found.append(int(path.parent.name))
            except OSError:
                continue
        return found

    def names(self) -> dict[int, str]:
        """The programs of those processes."""
        out = {}
        for pid in self.processes():
            with contextlib.suppress(OSError):
                out[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()[:120]
        return out

    def left(self) -> list[str]:
        """What is not Ray's own agents."""
        return [name for name in self.names().values() if not name.startswith(RAY_AGENTS)]

    def interrupt(self) -> None:
        """Ctrl-C: the terminal signals the whole foreground group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def wait(self, seconds: float) -> int:
        return self.process.wait(seconds)

    def rows(self) -> list[dict[str, Any]]:
        path = self.run_dir / "metrics.jsonl"
        return (
            [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
            if path.exists()
            else []
        )

    def await_step(self, step: int) -> None:
        assert wait_for(lambda: len(self.rows()) >= step or self.process.poll() is not None, 120)
        assert self.process.poll() is None, f"the run ended before step {step}: {self.errors.read_text()}"

    def clean_up(self, *but: str) -> None:
        """Ends what is still there, except the programs that begin with one of `but`."""
        for pid, name in self.names().items():
            if not name.startswith(but):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> Run:
    """The same run from beginning to end, in one process: `test_ray_faults` shows that actors compute the same."""
    run = Run(folder / "undisturbed", "runtime.type=in_process")
    assert run.wait(120) == 0, run.errors.read_text()
    return run


@pytest.fixture(scope="module")
def all_runs() -> Iterator[list[Run]]:
    """Of none of them anything is left in the end: while the other tests run, Ray's agents have time to notice."""
    started: list[Run] = []
    yield started
    try:
        assert wait_for(lambda: not any(run.processes() for run in started), 90), [run.names() for run in started]
    finally:
        for run in started:
            run.clean_up()


@pytest.fixture
def start(folder: Path, all_runs: list[Run]) -> Iterator[Any]:
    """Starts runs, and ends what is left of them after the test."""
    started: list[Run] = []

    def begin(name: str, *arguments: str) -> Run:
        started.append(Run(folder / name, *arguments))
        return started[-1]

    yield begin
    for run in started:
        run.clean_up(*RAY_AGENTS)
    all_runs += started


def assert_finishes_like(run: Run, expected: Run) -> None:
    assert run.wait(120) == 0, run.errors.read_text()
    assert_same_rows(run.rows(), expected.rows())
    weights, wanted = (load_file(r.run_dir / "model" / "model.safetensors") for r in (run, expected))
    assert {k: v.tobytes() for k, v in weights.items()} == {k: v.tobytes() for k, v in wanted.items()}
    assert len(list((run.run_dir / "rollouts").glob("step-*.parquet"))) == 6
    assert wait_for(lambda: not run.left(), 60), f"still there: {run.left()}"


def mlflow_status(folder: Path, run_name: str) -> str:
    with sqlite3.connect(folder / "mlflow.db") as db:
        (status,) = db.execute("select status from runs where name = ?", (run_name,)).fetchone()
    return str(status)


@pytest.mark.parametrize("moment", ["raylet", "ray::EngineWorker"])
def test_ctrl_c_while_the_run_is_starting_ends_it_at_once(start: Any, undisturbed: Run, moment: str) -> None:
    """Ray or the actors are coming up: there is no step to save. Whether Ray's own agents go, too, `all_runs` looks. A run before
    it has made MLflow's database."""
    run = start(f"early-{moment.replace(':', '')}")
    assert wait_for(lambda: any(moment in name for name in run.names().values()), 60)
    run.interrupt()
    assert run.wait(120) == 130
    assert run.rows() == []
    assert wait_for(lambda: not run.left(), 60), f"orphans: {run.left()}"
    err = run.errors.read_text()
    assert "Traceback" not in err, err


def test_a_killed_driver_leaves_no_process_and_resumes_to_the_same_end(start: Any, folder: Path, undisturbed: Run) -> None:
    run = start("killed")
    run.await_step(3)
    assert len(run.processes()) > 6, "the driver, Ray's own processes, four actors"
    os.kill(run.process.pid, signal.SIGKILL)
    assert run.wait(10) == -signal.SIGKILL
    assert wait_for(lambda: not run.left(), 60), f"orphans: {run.left()}"
    assert len(run.rows()) < 6, "it was too fast to be killed"
    assert_finishes_like(start("killed", "--resume"), undisturbed)
    assert mlflow_status(folder, "killed") == "FINISHED"


def test_ctrl_c_saves_a_checkpoint_and_resumes_to_the_same_end(start: Any, folder: Path, undisturbed: Run) -> None:
    run = start("interrupted")
    run.await_step(1)
    run.interrupt()
    assert run.wait(120) == 130
    assert wait_for(lambda: not run.left(), 60), f"orphans: {run.left()}"
    done = len(run.rows())
    assert 1 <= done < 6
    assert (run.run_dir / "checkpoints" / f"step-{done:06d}" / "state.json").is_file()
    err = run.errors.read_text()
    assert "finishing this step and saving a checkpoint" in err
    assert "Traceback" not in err
    assert mlflow_status(folder, "interrupted") == "KILLED"
    assert_finishes_like(start("interrupted", "--resume"), undisturbed)
    assert mlflow_status(folder, "interrupted") == "FINISHED"


def test_the_second_ctrl_c_ends_a_long_step_at_once(start: Any, folder: Path) -> None:
    long = ["problems.limit=64", "rollout.problems_per_step=64", "views.solver.num_samples=600", "views.reframer.num_samples=600"]
    run = start("twice", *long, "eval.num_samples=1")
    assert wait_for((run.run_dir / "rollouts").is_dir, 90), run.errors.read_text()  # made just before the loop begins
    assert wait_for(lambda: any("EngineWorker.sample" in name for name in run.names().values()), 60), run.names()
    run.interrupt()
    assert wait_for(lambda: "again to stop at once" in run.errors.read_text(), 60)
    assert run.process.poll() is None
    run.interrupt()
    assert run.wait(120) == 130
    assert run.rows() == [], "the step was over before the second Ctrl-C"
    assert wait_for(lambda: not run.left(), 60), f"orphans: {run.left()}"
    assert "Traceback" not in run.errors.read_text()
    assert mlflow_status(folder, "twice") == "KILLED"


def test_sigterm_saves_a_checkpoint_and_ends_the_run_and_everything_it_started(start: Any, folder: Path) -> None:
    """What a batch system sends before it kills."""
    run = start("terminated", "checkpoint.every=100")
    run.await_step(1)
    os.kill(run.process.pid, signal.SIGTERM)
    assert run.wait(120) == 130
    assert wait_for(lambda: not run.left(), 60), f"orphans: {run.left()}"
    done = len(run.rows())
    assert 1 <= done < 6
    assert [p.name for p in (run.run_dir / "checkpoints").iterdir()] == [f"step-{done:06d}"]
    err = run.errors.read_text()
    assert f"stopped; go on with the same command and --run-dir {run.run_dir} --resume" in err
    assert "Traceback" not in err
    assert mlflow_status(folder, "terminated") == "KILLED"
