"""The numbers of a sweep: what a trial's run directory says, and means with intervals over the seeds of a cell."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scipy.stats import t as student_t

from harmonyray.measures import CONFIDENCE
from harmonyray.rundir import RECORD
from harmonyray.sweep.state import ENDED, SweepState
from harmonyray.sweep.trials import Cell, Trial
from harmonyray.tracking import read_metrics

LABEL_STEPS = 8  # the last steps, over which the share of right pseudo-labels is averaged
DIGITS = 3  # that tables show; cells that look the same there rank the same


@dataclass(frozen=True, slots=True)
class Figures:
    """What a run has recorded so far. `curve`: (step, measure) of every evaluation, the one before training is step 0.
    `labels_right`: the share over the last LABEL_STEPS steps, None without labels. `seconds`: of all steps."""

    curve: tuple[tuple[int, float], ...] = ()
    labels_right: float | None = None
    mlflow_run_id: str | None = None
    seconds: float = 0.0

    @property
    def before(self) -> float:
        return self.curve[0][1] if self.curve else math.nan

    @property
    def final(self) -> float:
        return self.curve[-1][1] if self.curve else math.nan

    @property
    def peak(self) -> float:
        return max((value for _, value in self.curve), default=math.nan)


@dataclass(frozen=True, slots=True)
class Spread:
    """A mean over seeds, and half the width of its 95 % interval: t quantile times standard error; None from one seed."""

    mean: float
    half: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        if not values:
            return None
        if len(values) == 1:
            return cls(values[0], None)
        quantile = float(student_t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
        return cls(statistics.mean(values), quantile * statistics.stdev(values) / math.sqrt(len(values)))

    def __str__(self) -> str:
        return f"{self.mean:.{DIGITS}f}" + ("" if self.half is None else f" ± {self.half:.{DIGITS}f}")


@dataclass(slots=True)
class CellResult:
    """A row of the table. `figures`: of the trials that ended, by seed. Trials that failed are counted and in no mean."""

    cell: Cell
    reads_gold: bool
    planned: int = 0
    failed: int = 0
    stopped: int = 0
    collapsed: int = 0
    figures: dict[int, Figures] = field(default_factory=dict)
    marks: dict[str, int] = field(default_factory=dict)  # 1 or 2 where it is best or second best, by column

    def spread(self, column: str) -> Spread | None:
        """Of `before`, `final`, `peak`, `labels_right` or `seconds`."""
        values = (getattr(figures, column) for figures in self.figures.values())
        return Spread.of([value for value in values if value is not None])


def figures_of(run_dir: Path, measure: str) -> Figures:
    """What is there of a run; empty before it has begun."""
    path = run_dir / RECORD
    record = json.loads(path.read_text()) if path.exists() else {}
    rows = read_metrics(run_dir)
    before = record.get("eval_before", {}).get(measure)
    curve = [] if before is None else [(0, before)]
    curve += [(row["step"], row[measure]) for row in rows if measure in row]
    labels = [row["consensus/label_accuracy"] for row in rows[-LABEL_STEPS:] if "consensus/label_accuracy" in row]
    return Figures(
        curve=tuple(curve),
        labels_right=statistics.mean(labels) if labels else None,
        mlflow_run_id=record.get("mlflow_run_id"),
        seconds=sum(row["time/step_s"] for row in rows),
    )


def has_collapsed(figures: Figures, below: float) -> bool:
    """Whether the last evaluation is below that share of the one before training."""
    return figures.final < below * figures.before


def collect(trials: Sequence[Trial], state: SweepState, measure: str, collapsed_below: float) -> list[CellResult]:
    """A row for each cell, group by group, with the best and second best of each group marked."""
    cells: dict[str, CellResult] = {}
    for trial in trials:
        row = cells.setdefault(trial.cell.name, CellResult(trial.cell, trial.reads_gold))
        status = state.trials[trial.id].status
        row.planned += 1
        row.failed += status == "failed"
        row.stopped += status == "stopped"
        if status in ENDED:
            figures = figures_of(state.run_dir(trial), measure)
            row.figures[trial.seed] = figures
            row.collapsed += has_collapsed(figures, collapsed_below)
    for group in dict.fromkeys(row.cell.group for row in cells.values()):
        for column in ("final", "peak"):
            _mark([row for row in cells.values() if row.cell.group == group and not row.reads_gold], column)
    return list(cells.values())


def _mark(rows: Sequence[CellResult], column: str) -> None:
    """Marks the highest mean with 1 and the next lower one with 2, as they are shown; nothing where one stands alone or has no
    interval."""
    spreads = {row.cell.name: s for row in rows if (s := row.spread(column)) is not None}
    if len(spreads) < 2 or any(s.half is None for s in spreads.values()):
        return
    means = {name: round(s.mean, DIGITS) for name, s in spreads.items()}
    ranks = sorted(set(means.values()), reverse=True)[:2]
    for row in rows:
        if means.get(row.cell.name) in ranks:
            row.marks[column] = ranks.index(means[row.cell.name]) + 1
