"""What a name on the command line stands for: a problem file, a type of source, or a benchmark. One answer for every verb."""

from __future__ import annotations

import difflib
from pathlib import Path

from harmonyray.errors import ConfigError
from harmonyray.problems.presets import PRESETS
from harmonyray.problems.rows import problem_files
from harmonyray.registry import BUILT_IN, nearest


def named_source(name: str) -> tuple[str, dict[str, str]]:
    """The type of source that `name` stands for, and the options that the name gives it.

    In this order: a file that is there, a built-in type, a benchmark (`hub`, by its name), the user's own
    `package.module:Class`. Raises ConfigError for anything else, with the nearest of all these.
    """
    there = _is_there(name)
    if there and not Path(name).expanduser().is_dir():
        return "file", {"path": name}
    if name in BUILT_IN["problems"]:
        return name, {}
    if name in PRESETS:
        return "hub", {"name": name}
    if there:
        return "file", {"path": name}  # a directory: the file source says what is in it
    if ":" in name:
        return name, {}
    raise ConfigError(_unknown(name))


def _is_there(name: str) -> bool:
    try:
        return Path(name).expanduser().exists()
    except (OSError, ValueError) as e:
        raise ConfigError(f"{name!r} cannot be looked at ({e}); expected the path of a readable file") from e


def _unknown(name: str) -> str:
    folder, known = Path(name).expanduser().parent, [*BUILT_IN["problems"], *PRESETS]
    written = name[: len(name) - len(Path(name).name)]  # the folder as it was typed
    close = difflib.get_close_matches(name, [*(written + file for file in problem_files(folder)), *known], n=3, cutoff=0.5)
    hint = nearest(name, close or known) + ("" if close else ", 'package.module:Class', or a problem file")
    return f"no such file: {name} (looked in {folder.absolute()}), and neither a benchmark nor a type of source: {hint}"
