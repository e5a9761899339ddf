"""How a sweep starts and stops its trials, with real processes that are no trainings."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harmonyray.interrupts import ends_with_us
from harmonyray.rundir import held, is_held
from harmonyray.sweep import scheduler
from harmonyray.sweep.scheduler import Scheduler
from harmonyray.sweep.state import SweepState
from harmonyray.sweep.trials import Cell, Trial

CONFIG: Any = SimpleNamespace(to_yaml=lambda: "name: mine\n")
SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
PARENT = """
import subprocess, sys, time
from harmonyray.interrupts import ends_with_us
subprocess.Popen(ends_with_us(sys.argv[1:]), start_new_session=True)
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """No signal is ignored, as SIGINT is where a script has started this in the background, and SIGHUP under nohup."""
    hearing = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in hearing.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def scheduler_of(folder: Path, names: list[str], has_room: Callable[[], bool], told: list[str]) -> Scheduler:
    (folder / "configs").mkdir()
    (folder / "logs").mkdir()
    trials = [Trial(name, Cell(name, "", ()), 0, CONFIG) for name in names]
    sweep: Any = SimpleNamespace(max_parallel=1, measure="", stop_collapsed_after=None, retries=0)
    room = SimpleNamespace(has_room=lambda config, running: has_room(), environment={})
    return Scheduler(sweep, trials, SweepState(folder, trials), room, told.append, lambda trial: {})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_trial_that_was_chosen_does_not_start_after_a_stop(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked_just_now() -> bool:
        signal.raise_signal(number)
        return True

    told: list[str] = []
    started: list[Any] = []
    monkeypatch.setattr(scheduler.subprocess, "Popen", lambda *a, **k: started.append(a))
    mine = scheduler_of(tmp_path, ["a"], asked_just_now, told)
    with pytest.raises(KeyboardInterrupt):
        mine.run()
    assert started == [] and mine.state.trials["a"].status == "waiting"
    assert [line.split(":")[0] for line in told] == ["stopping"]


def test_a_trial_that_is_just_starting_is_stopped_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processes = []
    real = subprocess.Popen

    def asked_meanwhile(*args: Any, **keys: Any) -> Any:
        processes.append(real(SLEEPER, stdout=subprocess.PIPE))
        assert processes[0].stdout is not None and processes[0].stdout.readline() == b"up\n"
        signal.raise_signal(signal.SIGINT)
        return processes[0]

    told: list[str] = []
    mine = scheduler_of(tmp_path, ["a"], lambda: True, told)
    monkeypatch.setattr(scheduler.subprocess, "Popen", asked_meanwhile)
    with pytest.raises(KeyboardInterrupt):
        mine.run()
    assert processes[0].returncode == -signal.SIGINT
    assert told[-1] == "a: interrupted" and mine.state.trials["a"].status == "waiting"


def test_a_trial_whose_process_outlived_an_earlier_sweep_waits(tmp_path: Path) -> None:
    told: list[str] = []
    mine = scheduler_of(tmp_path, ["a", "b"], lambda: True, told)
    (tmp_path / "a").mkdir()
    assert not is_held(tmp_path / "a") and not is_held(tmp_path / "nowhere")
    with held(tmp_path / "a"):
        assert is_held(tmp_path / "a")
        for _ in range(2):
            trial = mine._next()
            assert trial is not None and trial.id == "b"
    assert told == [f"a: waits for a process that still trains in '{tmp_path / 'a'}'"]
    trial = mine._next()
    assert trial is not None and trial.id == "a"


@pytest.mark.skipif(sys.platform != "linux", reason="prctl(2) is Linux's")
def test_a_child_is_interrupted_when_its_parent_is_killed() -> None:
    child = "import time\ntry: print('up', flush=True); time.sleep(600)\nexcept KeyboardInterrupt: print('told', flush=True)"
    command = [sys.executable, "-c", PARENT, sys.executable, "-c", child]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "up\n"
        parent.kill()
        assert parent.stdout.read() == "told\n"  # up to the end of both


@pytest.mark.skipif(sys.platform != "linux", reason="prctl(2) is Linux's")
def test_a_child_whose_parent_is_gone_already_does_not_begin() -> None:
    command = ends_with_us([sys.executable, "-c", "print('begun')"])
    assert command[3] == str(os.getpid())
    command[3] = "1"  # not this process
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "whoever started this has ended\n")
