"""What a sweep consists of: its cells, and a trial with a whole configuration for each cell and seed."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harmonyray.config import Config, load_config
from harmonyray.config_checks import known_measures
from harmonyray.errors import ConfigError, UserError
from harmonyray.preflight import load_checked
from harmonyray.registry import nearest, resolve
from harmonyray.sweep.file import SweepFile

_NOT_IN_NAMES = re.compile(r"[^\w.=+-]+")


@dataclass(frozen=True, slots=True)
class Cell:
    """A row of the table: what is compared (`label`), and among which (`group`): the point of the grid, where a sweep has both
    cells and a grid, else empty."""

    label: str
    group: str
    overrides: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.label}, {self.group}" if self.group else self.label


@dataclass(frozen=True, slots=True)
class Trial:
    """One run. `id` names its directory."""

    id: str
    cell: Cell
    seed: int
    config: Config

    @property
    def reads_gold(self) -> bool:
        """Whether its method is told the answers: a bound, and no competitor."""
        needs: bool = resolve("methods", self.config.method.type).needs_gold
        return needs


def unfold(sweep: SweepFile) -> list[Trial]:
    """Every trial, seed by seed, so that an unfinished sweep has compared all cells on its first seeds.

    Raises ConfigError, naming the place in the sweep file, for configurations that cannot be run or compared.
    """
    trials = [_trial(sweep, cell, seed) for seed, cell in itertools.product(sweep.seeds, cells_of(sweep))]
    seen: dict[str, Trial] = {}
    for trial in trials:
        if (other := seen.setdefault(trial.id, trial)) is not trial:
            raise ConfigError(
                f"cells {other.cell.name!r} and {trial.cell.name!r} would share the directory {trial.id!r}: rename one"
            )
    if len({trial.config.runtime.type for trial in trials}) > 1:
        raise ConfigError("some trials have runtime.type ray and others in_process, which share no cluster: give all the same")
    return trials


def cells_of(sweep: SweepFile) -> list[Cell]:
    """All cells at each point of the grid, in the file's order. One without cells compares the points, one with neither is its
    base."""
    out = []
    for point in itertools.product(*sweep.grid.values()):
        values = dict(zip(sweep.grid, point, strict=True))
        shown = ", ".join(f"{_short(key, sweep.grid)}={_shown(value)}" for key, value in values.items())
        items = tuple(f"{key}={json.dumps(value)}" for key, value in values.items())
        if sweep.cells:
            out += [Cell(label, shown, (*items, *overrides)) for label, overrides in sweep.cells.items()]
        else:
            out.append(Cell(shown or sweep.base, "", items))
    return out


def check(trials: list[Trial], room: Any) -> None:
    """What a run checks before it starts anything, for one trial of each cell. Raises UserError naming the cell."""
    for trial in {trial.cell.name: trial for trial in reversed(trials)}.values():
        config = trial.config
        try:
            problems, gold = load_checked(config)
            room.check(config)
        except UserError as e:
            raise type(e)(f"cell {trial.cell.name!r}: {e}") from e
        if not any(p.id in gold for p in problems):
            raise ConfigError(f"cell {trial.cell.name!r}: its problems have no gold answers, so no evaluation can compare it")


def _trial(sweep: SweepFile, cell: Cell, seed: int) -> Trial:
    own = [f"name={_slug(sweep.name)}", f"seed={seed}"]
    try:
        config = load_config(sweep.base, [*sweep.overrides, *cell.overrides, *own])
        known = known_measures(config)
        if sweep.measure not in known:
            raise ConfigError(
                f"'measure': {sweep.measure!r} is none of its evaluations' measures: {nearest(sweep.measure, known)}"
            )
    except ConfigError as e:
        raise ConfigError(f"{_place(sweep, cell)}: {e}") from e
    return Trial(_slug(f"{cell.name}-seed{seed}"), cell, seed, config)


def _place(sweep: SweepFile, cell: Cell) -> str:
    """Where in the sweep file a cell's configuration comes from."""
    places = [f"base {sweep.base}"]
    places += ["overrides"] if sweep.overrides else []
    places += [f"cells.{cell.label!r}"] if sweep.cells else []
    places += [f"grid at {cell.group or cell.label}"] if sweep.grid else []
    return f"sweep {sweep.name!r}, {' + '.join(places)}"


def _short(key: str, grid: Mapping[str, Any]) -> str:
    """The last part of a dotted key, unless another key of the grid ends alike."""
    last = key.rpartition(".")[2]
    return key if sum(other.rpartition(".")[2] == last for other in grid) > 1 else last


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _slug(text: str) -> str:
    return _NOT_IN_NAMES.sub("_", text)
