"""The sweep file: its schema, and reading one. What it unfolds to is `trials`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import AfterValidator, Field, NonNegativeInt, PositiveInt, ValidationError, model_validator

from harmonyray.config_files import SUFFIXES, read_layer, sweep_names
from harmonyray.config_sections import Section
from harmonyray.errors import ConfigError
from harmonyray.overrides import read_items
from harmonyray.registry import explain, nearest


def _distinct(values: list[Any]) -> list[Any]:
    if twice := [value for i, value in enumerate(values) if value in values[:i]]:
        raise ValueError(f"{twice[0]!r} stands there twice")
    return values


Overrides = list[str]  # key=value
Values = Annotated[list[Any], Field(min_length=1), AfterValidator(_distinct)]
Seeds = Annotated[list[NonNegativeInt], Field(min_length=1), AfterValidator(_distinct)]


class SweepFile(Section):
    """A sweep. Its trials are all cells x all points of the grid x all seeds."""

    name: str = Field(pattern=r"^[^/]+$", description="names the sweep's directory")
    base: str = Field(description="the config of every trial: a YAML path or a name in configs/")
    overrides: Overrides = Field([], description="key=value of every trial, over the base")
    cells: dict[str, Overrides] = Field({}, description="what is compared, by name: key=value over those of every trial")
    grid: dict[str, Values] = Field({}, description="values by dotted key; every combination of them is a point")
    seeds: Seeds = Field([0, 1, 2], description="every cell is trained once with each")
    measure: str = Field("eval/solver/avg_at_k", description="what the trials are compared by, of their evaluations")
    max_parallel: PositiveInt | None = Field(None, description="most trials at once; null: as many as there is room for")
    retries: NonNegativeInt = Field(1, description="how often a trial that failed goes on from its last checkpoint")
    collapsed_below: float = Field(
        0.9, gt=0, le=1, description="a trial has collapsed if it ends below this share of the measure before training"
    )
    stop_collapsed_after: PositiveInt | None = Field(
        None, description="an evaluation at this step or later that shows a collapse ends the trial; null: none is ended early"
    )

    @model_validator(mode="after")
    def _one_place_each(self) -> SweepFile:
        for label, overrides in self.cells.items():
            if both := sorted({item.partition("=")[0] for item in overrides} & self.grid.keys()):
                raise ValueError(f"{both[0]!r} is set by cell {label!r} and by the grid: leave it to one of them")
        return self


def read_sweep(name: str, overrides: Sequence[str] = ()) -> SweepFile:
    """The sweep of a YAML path or a name in `configs/sweeps/`, with `key=value` items of its own keys on top.

    Raises ConfigError naming the file and the place in it.
    """
    path = _find(name)
    try:
        merged = OmegaConf.merge(read_layer(path), read_items(overrides, "override", "seeds=[0,1] or max_parallel=1"))
        raw = OmegaConf.to_container(merged, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as e:
        raise ConfigError(f"sweep file '{path}': {e.full_key or ''}: {str(e).splitlines()[0]}") from e
    assert isinstance(raw, dict)
    try:
        return SweepFile(**{str(key): value for key, value in raw.items()})
    except ValidationError as e:
        raise ConfigError(f"sweep file '{path}': {explain(e, '', SweepFile)}") from e


def _find(name: str) -> Path:
    path = Path(name)
    if path.suffix in SUFFIXES:
        if not path.is_file():
            raise ConfigError(f"sweep file {name!r} does not exist (from {os.getcwd()!r})")
        return path
    known = sweep_names()
    if name not in known:
        raise ConfigError(f"no sweep named {name!r}: {nearest(name, list(known))} (or give the path of a .yaml file)")
    return known[name]
