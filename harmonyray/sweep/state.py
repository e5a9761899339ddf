"""What is known of each trial, in the sweep's directory: `trials.json`, replaced whole at every change."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from harmonyray.config import load_config
from harmonyray.errors import ConfigError
from harmonyray.files import write_text
from harmonyray.rundir import flat
from harmonyray.sweep.trials import Trial

FILE = "trials.json"
Status = Literal["waiting", "running", "finished", "stopped", "failed"]
ENDED = ("finished", "stopped")  # what a resumed sweep does not run again


@dataclass(slots=True)
class TrialState:
    """`stopped`: ended early by `stop_collapsed_after`. `error`: what the last attempt that failed said."""

    status: Status = "waiting"
    attempts: int = 0
    error: str | None = None
    mlflow_run_id: str | None = None


class SweepState:
    """The trials' states by id, and the parent's MLflow run."""

    def __init__(self, sweep_dir: Path, trials: list[Trial]) -> None:
        self.sweep_dir = sweep_dir
        self.mlflow_run_id: str | None = None
        self.trials = {trial.id: TrialState() for trial in trials}

    def run_dir(self, trial: Trial) -> Path:
        return self.sweep_dir / trial.id

    def config_file(self, trial: Trial) -> Path:
        return self.sweep_dir / "configs" / f"{trial.id}.yaml"

    def log_file(self, trial: Trial) -> Path:
        return self.sweep_dir / "logs" / f"{trial.id}.log"

    def write(self) -> None:
        record = {"mlflow_run_id": self.mlflow_run_id, "trials": {i: asdict(s) for i, s in self.trials.items()}}
        write_text(self.sweep_dir / FILE, json.dumps(record, indent=1) + "\n")

    def check_there(self, resume: bool) -> None:
        """Raises ConfigError for a directory that holds anything but is not taken up, or is taken up and holds no sweep."""
        if not resume and any(self.sweep_dir.iterdir()):
            raise ConfigError(
                f"'{self.sweep_dir}' already exists and is not empty: give another --sweep-dir, or --resume to go on with it"
            )
        if resume and not (self.sweep_dir / FILE).is_file():
            raise ConfigError(
                f"--resume: '{self.sweep_dir}' is not a sweep's directory (it has no {FILE}); start without --resume"
            )

    def take_up(self, trials: list[Trial]) -> None:
        """What an earlier sweep of this directory left; trials that have not ended wait again. There may be new ones.

        Raises ConfigError for trials that are no longer asked for, or configured otherwise.
        """
        record = json.loads((self.sweep_dir / FILE).read_text())
        if gone := [i for i in record["trials"] if i not in self.trials]:
            raise ConfigError(
                f"--resume: '{self.sweep_dir}' has a trial {gone[0]!r} that the sweep file no longer asks for: put it back, "
                "or give another --sweep-dir"
            )
        for trial in trials:
            if trial.id in record["trials"]:
                self._check_same(trial)
                before = TrialState(**record["trials"][trial.id])
                kept = before.status in ENDED
                self.trials[trial.id] = before if kept else TrialState(mlflow_run_id=before.mlflow_run_id)
        self.mlflow_run_id = record["mlflow_run_id"]

    def _check_same(self, trial: Trial) -> None:
        if not self.config_file(trial).exists():
            return  # it was never started
        saved, now = (flat(c.to_container()) for c in (load_config(str(self.config_file(trial))), trial.config))
        different = [key for key in sorted(saved.keys() | now.keys()) if saved.get(key) != now.get(key)]
        if different:
            key = different[0]
            raise ConfigError(
                f"--resume: trial {trial.id!r} was configured otherwise ({key}: {saved.get(key)!r} -> {now.get(key)!r}): "
                "use the same sweep file, or another --sweep-dir"
            )
