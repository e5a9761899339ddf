"""Running a sweep's trials: a `harmonyray train` process for each, as many at once as there is room for.

A trial on Ray takes its own places in the cluster, in placement groups. So the next one is looked at only when the last one has
taken its places: what is free is then what the cluster says, whoever else uses it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from harmonyray.files import write_text
from harmonyray.interrupts import SIGNALS, ends_with_us
from harmonyray.rundir import is_held
from harmonyray.sweep.file import SweepFile
from harmonyray.sweep.results import figures_of, has_collapsed
from harmonyray.sweep.state import SweepState, TrialState
from harmonyray.sweep.trials import Trial
from harmonyray.tracking import METRICS, TAGS_VARIABLE

POLL_S = 0.25
INTERRUPTED = 130
LINES_SHOWN = 3  # of what a failed trial said

Mark = tuple[int, int] | None


@dataclass(slots=True)
class Running:
    """A trial's process. `before`: the configuration file in its run directory as it was before the start; a new one is written
    when the run has its places."""

    trial: Trial
    process: subprocess.Popen[bytes]
    before: Mark
    begun: float = field(default_factory=time.monotonic)
    rows_read: int = 0  # bytes of its metrics when they were last looked at
    collapsed: bool = False


class Scheduler:
    """Runs what waits in `state`; `tell` gets lines for people, `tags` says what a trial's MLflow run is tagged with."""

    def __init__(
        self,
        sweep: SweepFile,
        trials: Sequence[Trial],
        state: SweepState,
        room: Any,
        tell: Callable[[str], None],
        tags: Callable[[Trial], Mapping[str, str]],
    ) -> None:
        self.sweep, self.trials, self.state, self.room, self.tell, self.tags = sweep, trials, state, room, tell, tags
        self.running: list[Running] = []
        self.asked_to_stop = 0
        self.told_busy = False
        self.told_held: set[str] = set()

    def run(self) -> None:
        """Until every trial has ended, or failed more often than it may. Raises KeyboardInterrupt if it was asked to stop; all
        trials have then ended, with checkpoints if they were given the time."""
        with self._stoppable():
            try:
                while self.running or (self._waiting() and not self.asked_to_stop):
                    self._start_next()
                    time.sleep(POLL_S)
                    for running in list(self.running):
                        self._look_at(running)
            finally:
                self._end_all()
        if self.asked_to_stop:
            raise KeyboardInterrupt

    def _waiting(self) -> list[Trial]:
        return [trial for trial in self.trials if self.state.trials[trial.id].status == "waiting"]

    def _next(self) -> Trial | None:
        """The first that waits. One whose process outlived an earlier sweep is passed over until that has ended."""
        for trial in self._waiting():
            if not is_held(self.state.run_dir(trial)):
                return trial
            if trial.id not in self.told_held:
                self.told_held.add(trial.id)
                self.tell(f"{trial.id}: waits for a process that still trains in '{self.state.run_dir(trial)}'")
        return None

    def _start_next(self) -> None:
        if self.asked_to_stop or (self.sweep.max_parallel or len(self.running) + 1) <= len(self.running):
            return
        if any(self._mark(r.trial) == r.before for r in self.running):
            return  # one has not taken its places yet
        trial = self._next()
        if trial is None:
            return
        if self.room.has_room(trial.config, [r.trial.config for r in self.running]):
            self._start(trial)
        elif not self.running and not self.told_busy:
            self.told_busy = True
            self.tell(f"{trial.id}: waits, others use the cluster")

    def _start(self, trial: Trial) -> None:
        state, run_dir = self.state.trials[trial.id], self.state.run_dir(trial)
        config_file, log_file = self.state.config_file(trial), self.state.log_file(trial)
        write_text(config_file, trial.config.to_yaml())
        command = [sys.executable, "-m", "harmonyray", "train", str(config_file), "--run-dir", str(run_dir), "--json"]
        goes_on = (run_dir / "config.yaml").exists()
        command += ["--resume"] if goes_on else []
        before = self._mark(trial)
        environment = {**os.environ, **self.room.environment, TAGS_VARIABLE: json.dumps(self.tags(trial))}
        if self.asked_to_stop:  # since it was chosen
            return
        with log_file.open("ab") as log:
            # A session of its own: Ctrl-C on a terminal reaches the sweep alone, which then asks its trials to stop.
            process = subprocess.Popen(
                ends_with_us(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=environment,
            )
        self.running.append(Running(trial, process, before))
        if self.asked_to_stop:  # before it could be told with the others
            process.send_signal(signal.SIGINT)
        state.status, state.attempts = "running", state.attempts + 1
        self.state.write()
        self.tell(f"{trial.id}: {'goes on' if goes_on else 'starts'}, {len(self.running)} running")

    def _look_at(self, running: Running) -> None:
        """Takes note of what a trial has done since."""
        state = self.state.trials[running.trial.id]
        code = running.process.poll()  # before the figures: what it wrote last is then there
        if code is None:
            self._maybe_end_early(running)
            return
        self.running.remove(running)
        self._record_end(running, state, code)
        self.state.write()

    def _maybe_end_early(self, running: Running) -> None:
        after, metrics = self.sweep.stop_collapsed_after, self.state.run_dir(running.trial) / METRICS
        if after is None or running.collapsed or not metrics.exists() or metrics.stat().st_size == running.rows_read:
            return
        running.rows_read = metrics.stat().st_size
        figures = figures_of(self.state.run_dir(running.trial), self.sweep.measure)
        if figures.curve and figures.curve[-1][0] >= after and has_collapsed(figures, self.sweep.collapsed_below):
            running.collapsed = True
            running.process.send_signal(signal.SIGINT)  # ends after its step, with a checkpoint

    def _record_end(self, running: Running, state: TrialState, code: int) -> None:
        trial, seconds = running.trial, time.monotonic() - running.begun
        figures = figures_of(self.state.run_dir(trial), self.sweep.measure)
        state.mlflow_run_id = figures.mlflow_run_id
        if code == 0 or (running.collapsed and code == INTERRUPTED):
            state.status, state.error = "finished" if code == 0 else "stopped", None
            self.tell(f"{trial.id}: {state.status}, {figures.before:.3f} -> {figures.final:.3f} ({seconds:.0f} s)")
        elif self.asked_to_stop:
            state.status = "waiting"
            self.tell(f"{trial.id}: interrupted")
        else:
            state.error = f"exit code {code}: {self._last_words(trial)}"
            state.status = "waiting" if state.attempts <= self.sweep.retries else "failed"
            then = "tried again" if state.status == "waiting" else "given up"
            self.tell(f"{trial.id}: failed, {then}; {state.error} (see {self.state.log_file(trial)})")

    def _last_words(self, trial: Trial) -> str:
        lines = self.state.log_file(trial).read_text(errors="replace").strip().splitlines()
        return " / ".join(line.strip() for line in lines[-LINES_SHOWN:]) or "it said nothing"

    def _mark(self, trial: Trial) -> Mark:
        """What tells one writing of a run's configuration file from another."""
        path = self.state.run_dir(trial) / "config.yaml"
        try:
            found = path.stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns

    @contextmanager
    def _stoppable(self) -> Iterator[None]:
        """SIGINT, SIGTERM and SIGHUP: the first lets trials finish their step and save, the second ends them at once, the third
        kills them. A SIGHUP that is ignored (nohup) stays so."""

        def handle(signum: int, frame: Any) -> None:
            self.asked_to_stop += 1
            for running in self.running:
                running.process.send_signal(signal.SIGINT if self.asked_to_stop < 3 else signal.SIGKILL)
            if self.asked_to_stop == 1:
                self.tell("stopping: trials finish their step and save a checkpoint; once more to end them at once")

        numbers = [*SIGNALS] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [*SIGNALS, signal.SIGHUP]
        previous = {number: signal.signal(number, handle) for number in numbers}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _end_all(self) -> None:
        """After a fault of the sweep itself: no trial outlives it."""
        for running in self.running:
            running.process.kill()
            running.process.wait()
