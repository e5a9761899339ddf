"""The life of a sweep: its directory, the checks, the trials, the comparison. What `sweep` of the command line does."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from harmonyray import build
from harmonyray.errors import ConfigError
from harmonyray.files import write_text
from harmonyray.mlflow_run import MlflowRun
from harmonyray.run import tracking_place
from harmonyray.rundir import flat, held, make_directory, new_directory
from harmonyray.sweep.file import SweepFile, read_sweep
from harmonyray.sweep.plots import plot_all
from harmonyray.sweep.results import CellResult, collect
from harmonyray.sweep.scheduler import Scheduler
from harmonyray.sweep.state import SweepState
from harmonyray.sweep.tables import as_json, latex, markdown, table_csv
from harmonyray.sweep.trials import Trial, check, unfold
from harmonyray.tracking import RUN_DIR_TAG

SWEEP_COPY = "sweep.yaml"
PARENT = "mlflow.parentRunId"  # the tag by which MLflow nests runs


@dataclass(frozen=True, slots=True)
class SweepRequest:
    """What `harmonyray sweep` was asked for; see its help."""

    sweep: str
    overrides: Sequence[str] = ()
    sweep_dir: Path | None = None
    resume: bool = False


def run_sweep(request: SweepRequest, tell: Callable[[str], None]) -> dict[str, Any]:
    """Runs the trials and returns the JSON summary; `tell` gets the lines for people.

    Raises UserError before anything is started, KeyboardInterrupt when stopped; the directory can then be taken up with `resume`.
    """
    begun = time.perf_counter()
    sweep = read_sweep(request.sweep, request.overrides)
    trials = unfold(sweep)
    with build.open_room(trials[0].config) as room:
        check(trials, room)
        with _open(sweep, trials, request) as state:
            write_text(state.sweep_dir / SWEEP_COPY, yaml.safe_dump(sweep.model_dump(), sort_keys=False, allow_unicode=True))
            ended = sum(s.status != "waiting" for s in state.trials.values())
            cells = len({trial.cell.name for trial in trials})
            already = f", {ended} of them ended before" if ended else ""
            tell(
                f"sweep {sweep.name}: {cells} cells x {len(sweep.seeds)} seeds = {len(trials)} trials{already}; {state.sweep_dir}"
            )
            return _run(sweep, trials, state, room, tell, begun)


def _run(
    sweep: SweepFile, trials: list[Trial], state: SweepState, room: Any, tell: Callable[[str], None], begun: float
) -> dict[str, Any]:
    place = tracking_place(trials[0].config, state.run_dir(trials[0]))
    mlflow = MlflowRun(place, state.sweep_dir, state.sweep_dir.name, tell)
    status = "FAILED"
    try:
        state.mlflow_run_id = mlflow.run_id
        state.write()
        mlflow.keep()
        mlflow.log_params({_mlflow_name(key): value for key, value in flat(sweep.model_dump()).items()})
        mlflow.log_tag(RUN_DIR_TAG, str(state.sweep_dir.resolve()))
        try:
            Scheduler(sweep, trials, state, room, tell, Membership(mlflow, state.sweep_dir.name, tell).tags).run()
            status = "FINISHED" if all(s.status != "failed" for s in state.trials.values()) else "FAILED"
        except KeyboardInterrupt:
            status = "KILLED"
            tell(f"stopped; go on with --resume --sweep-dir {state.sweep_dir}")
            raise
        finally:
            state.mlflow_run_id = mlflow.run_id  # the server may have been away when the sweep began
            state.write()
            rows = collect(trials, state, sweep.measure, sweep.collapsed_below)
            mlflow.go_back(-1)  # a sweep that was resumed compares anew
            mlflow.log_metrics(_metrics(rows), 0)
            for path in _write(sweep, rows, state):
                mlflow.log_artifacts(path)
        tell((state.sweep_dir / "table.md").read_text())
        tell(f"table, plots and curves: {state.sweep_dir}; pages of the runs: harmonyray report {state.sweep_dir}")
        return _summary(rows, state, time.perf_counter() - begun)
    finally:
        for error in mlflow.finish(status):
            tell(error)


class Membership:
    """What the trials' MLflow runs say of the sweep that they belong to. Each run logs it itself, so that it arrives whenever
    the server does."""

    def __init__(self, mlflow: MlflowRun, name: str, tell: Callable[[str], None]) -> None:
        self.mlflow, self.name, self.tell = mlflow, name, tell
        self.told = False

    def tags(self, trial: Trial) -> dict[str, str]:
        """For a trial that starts now; without the parent while the server has not given its id, which is told once."""
        tags = {"sweep/name": self.name, "sweep/cell": trial.cell.name}
        parent = self.mlflow.run_id
        if parent is not None:
            return {PARENT: parent, **tags}
        if not self.told:
            self.told = True
            self.tell(
                f"MLflow at {self.mlflow.uri} has not given the sweep's run an id: trials that start until it does will not "
                f"stand under it; find them by their tag: tags.`sweep/name` = '{self.name}'"
            )
        return tags


@contextmanager
def _open(sweep: SweepFile, trials: list[Trial], request: SweepRequest) -> Iterator[SweepState]:
    """The sweep's directory, new or taken up, and ours until the end."""
    sweep_dir = request.sweep_dir
    if request.resume and sweep_dir is None:
        raise ConfigError("--resume needs the sweep to go on with: give --sweep-dir DIR")
    if sweep_dir is None:
        sweep_dir = new_directory(Path("runs"), f"sweep-{sweep.name}-{time.strftime('%Y%m%d-%H%M%S')}")
    elif not request.resume:
        make_directory(sweep_dir)
    state = SweepState(sweep_dir, trials)
    state.check_there(request.resume)
    with held(sweep_dir):
        if request.resume:
            state.take_up(trials)
        for folder in (sweep_dir / "configs", sweep_dir / "logs"):
            folder.mkdir(exist_ok=True)
        yield state


def _mlflow_name(text: str) -> str:
    """With `_` for what MLflow refuses in the names of parameters and metrics."""
    return re.sub(r"[^\w.\- ]", "_", text)


def _metrics(rows: Sequence[CellResult]) -> dict[str, float]:
    """For the parent's MLflow run: the cells' means."""
    out: dict[str, float] = {}
    for row in rows:
        name = _mlflow_name(row.cell.name)
        spreads = {column: row.spread(column) for column in ("final", "peak")}
        out |= {f"{column}/{name}": spread.mean for column, spread in spreads.items() if spread is not None}
    return out


def _write(sweep: SweepFile, rows: list[CellResult], state: SweepState) -> list[Path]:
    """Every file of the comparison, in the sweep's directory."""
    texts = {
        "table.md": markdown(rows, sweep.measure),
        "table.csv": table_csv(rows),
        "table.tex": latex(rows, sweep.measure),
        "results.json": json.dumps({"name": sweep.name, "measure": sweep.measure, "cells": as_json(rows)}, indent=1) + "\n",
    }
    for name, text in texts.items():
        write_text(state.sweep_dir / name, text)
    plots = plot_all(rows, sweep.measure, state.sweep_dir)
    return [*(state.sweep_dir / name for name in (*texts, SWEEP_COPY, "trials.json")), *plots]


def _summary(rows: list[CellResult], state: SweepState, seconds: float) -> dict[str, Any]:
    statuses = [s.status for s in state.trials.values()]
    cells = [{key: value for key, value in cell.items() if key != "seeds"} for cell in as_json(rows)]
    return {
        "sweep_dir": str(state.sweep_dir.resolve()),
        "mlflow_run_id": state.mlflow_run_id,
        "num_trials": len(statuses),
        **{f"num_{status}": statuses.count(status) for status in ("finished", "stopped", "failed")},
        "cells": cells,
        "wall_seconds": seconds,
    }
