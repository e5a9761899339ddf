"""Configuration files: finding them by path or name, and the chain of what they extend, as plain mappings.

What the keys mean is `config.py`. A file says whom it builds on with `extends`: a name, a list of names (merged left to right),
or null. Without it, that is `base`.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harmonyray.errors import ConfigError
from harmonyray.registry import nearest

SUFFIXES = (".yaml", ".yml")
BASE = "base"
SWEEPS = "sweeps"  # the folder of sweep files, which are no configs

Layer = dict[str, Any]


def config_dirs() -> list[Path]:
    """Where a config may be named without a path: ./configs, the installed package's, the source tree's."""
    package = Path(__file__).parent
    return [d for d in (Path("configs"), package / "configs", package.parent / "configs") if d.is_dir()]


def config_names() -> dict[str, Path]:
    """Every file that may be named, by its name: its path below its directory without the suffix, `models/qwen3-4b-base`."""
    found: dict[str, Path] = {}
    for directory in reversed(config_dirs()):
        for path in sorted(directory.rglob("*.yaml")):
            name = path.relative_to(directory).with_suffix("")
            if name.parts[0] != SWEEPS:
                found[name.as_posix()] = path
    return found


def sweep_names() -> dict[str, Path]:
    """The sweep files that may be named, by their names: those in `configs/sweeps/`."""
    return {path.stem: path for d in reversed(config_dirs()) for path in sorted((d / SWEEPS).glob("*.yaml"))}


def find_config(name: str) -> Path:
    """The file of a YAML path, of a name in `configs/`, or of the last part of a name there (`qwen3-4b-base`).

    Raises ConfigError if there is none (naming the nearest), or if a last part stands for several.
    """
    path = Path(name)
    if path.suffix in SUFFIXES:
        if not path.is_file():
            raise ConfigError(f"config file {name!r} does not exist (from {os.getcwd()!r})")
        return path
    for directory in config_dirs():
        candidate = directory / f"{name}.yaml"
        if candidate.is_file():
            return candidate
    names = config_names()
    matching = [known for known in names if known.rpartition("/")[2] == name]
    if len(matching) == 1:
        return names[matching[0]]
    if matching:
        raise ConfigError(f"config name {name!r} stands for several files: give one of {', '.join(sorted(matching))}")
    raise ConfigError(f"no config named {name!r}: {_hint(name, list(names))} (or give the path of a .yaml file)")


def config_layers(path: Path) -> list[Layer]:
    """The file and all that it extends, as read, without `extends`: what is built on comes first, the file itself last.

    A file that is reached twice counts once, where it was reached first. Raises ConfigError for a file that is not there or
    cannot be read, and for files that extend each other in a circle.
    """
    layers: dict[Path, Layer] = {}
    _collect(path, (), layers)
    return list(layers.values())


def without_removed_views(merged: Mapping[str, Any], layer: Layer) -> Layer:
    """`layer` less what it says about views that are null in `merged`, unless it gives them a type and so brings them back.

    This is how a piece that says something of a view (a model's, that it is asked by chat) goes with one that removes it.
    """
    before, views = merged.get("views"), layer.get("views")
    if not isinstance(before, Mapping) or not isinstance(views, Mapping):
        return layer
    removed = {name for name, view in before.items() if view is None}
    kept = {k: v for k, v in views.items() if k not in removed or (isinstance(v, Mapping) and "type" in v)}
    return {**layer, "views": kept}


def read_layer(path: Path) -> Layer:
    """The mapping that a file holds, interpolations as they stand. Raises ConfigError if it cannot be read."""
    try:
        loaded = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except (yaml.YAMLError, OSError, UnicodeDecodeError, OmegaConfBaseException) as e:
        raise ConfigError(f"config file '{path}' cannot be read: {e}") from e
    if not isinstance(loaded, dict):
        raise ConfigError(f"config file '{path}' must hold a mapping of keys, got {type(loaded).__name__}")
    return {str(k): v for k, v in loaded.items()}


def _collect(path: Path, open_files: tuple[Path, ...], layers: dict[Path, Layer]) -> None:
    """Adds the layers of `path` to `layers`, parents first; `open_files` are those whose parents are being read."""
    file = path.resolve()
    if file in open_files:
        raise ConfigError(f"config files extend each other in a circle: {' -> '.join(str(p) for p in [*open_files, path])}")
    if file in layers:
        return
    layer = read_layer(path)
    for parent in _parents(layer.pop("extends", None if path.stem == BASE else BASE), path):
        sibling = path.parent / (parent if Path(parent).suffix in SUFFIXES else f"{parent}.yaml")
        _collect(sibling if sibling.is_file() else find_config(parent), (*open_files, file), layers)
    layers[file] = layer


def _parents(extends: Any, path: Path) -> Sequence[str]:
    names = [] if extends is None else extends if isinstance(extends, list) else [extends]
    wrong = [name for name in names if not isinstance(name, str) or not name]
    if wrong:
        raise ConfigError(
            f"config file '{path}': 'extends' must be the name of a config, a list of names, or null; got {wrong[0]!r} in "
            f"{extends!r}"
        )
    return names


def _hint(name: str, names: Sequence[str]) -> str:
    """The nearest of the names, or of their last parts; they are too many to be listed."""
    choices = sorted({n for known in names if known != BASE for n in (known, known.rpartition("/")[2])})
    close = difflib.get_close_matches(name, choices, n=3, cutoff=0.5)
    return nearest(name, close) if close else "'harmonyray list configs' shows those that there are"
