"""Checkpoints: whole directories that appear in one rename, the newest few kept."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harmonyray.errors import CheckpointError

STATE_FILE = "state.json"


class CheckpointStore:
    """The `checkpoints/` folder of a run: `step-000010/`, each complete or absent."""

    def __init__(self, directory: Path, keep: int) -> None:
        self.directory, self.keep = directory, keep

    def save(self, step: int, write: Callable[[Path], None], state: dict[str, Any]) -> Path:
        """Calls `write` on a new folder, adds `state`, and makes it appear as the checkpoint of `step`; drops the oldest.

        A failure (a full disk, say) leaves the earlier checkpoints untouched and no partial one behind.
        """
        final = self._path(step)
        partial = self.directory / f".partial-{final.name}"
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir(parents=True)
            write(partial)
            (partial / STATE_FILE).write_text(json.dumps({"step": step, **state}))
            _flush(partial)
            if final.exists():
                shutil.rmtree(final)
            partial.rename(final)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        for old in self.steps()[: -self.keep]:
            shutil.rmtree(self._path(old))
        return final

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, oldest first."""
        names = self.directory.glob("step-*") if self.directory.is_dir() else []
        return sorted(int(m.group(1)) for p in names if (m := re.fullmatch(r"step-(\d+)", p.name)))

    def latest(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest checkpoint's folder and state, or None. Raises CheckpointError if its state cannot be read."""
        steps = self.steps()
        if not steps:
            return None
        path = self._path(steps[-1])
        try:
            return path, json.loads((path / STATE_FILE).read_text())
        except (OSError, json.JSONDecodeError) as e:
            raise CheckpointError(f"checkpoint '{path}' is damaged ({e}): delete it to resume from the one before it") from e

    def _path(self, step: int) -> Path:
        return self.directory / f"step-{step:06d}"


def replace_directory(final: Path, write: Callable[[Path], None]) -> None:
    """Calls `write` on a new folder and puts it in the place of `final` only when it is complete."""
    partial = final.parent / f".partial-{final.name}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write(partial)
    _flush(partial)
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)


def _flush(directory: Path) -> None:
    """Forces a folder's files to disk, so that the rename never shows a folder with empty files after a crash."""
    for path in directory.rglob("*"):
        if path.is_file():
            with path.open("rb") as f:
                os.fsync(f.fileno())
