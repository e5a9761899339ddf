"""Checkpoints: whole directories that appear in one rename, the newest few kept."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harmonyray.errors import CheckpointError

STATE_FILE = "state.json"
NEARLY_NOTHING = 2**16  # bytes free on a full disk, at most


class CheckpointStore:
    """The `checkpoints/` folder of a run: `step-000010/`, each complete or absent."""

    def __init__(self, directory: Path, keep: int) -> None:
        self.directory, self.keep = directory, keep

    def save(self, step: int, write: Callable[[Path], None], state: dict[str, Any]) -> Path:
        """Calls `write` on a new folder, adds `state`, and makes it appear as the checkpoint of `step`; drops the oldest.

        A failure leaves the earlier checkpoints untouched and no partial one behind. Raises CheckpointError on a full disk.
        """
        final = self._path(step)

        def write_all(directory: Path) -> None:
            write(directory)
            (directory / STATE_FILE).write_text(json.dumps({"step": step, **state}))

        replace_directory(final, write_all)
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

    def drop_after(self, step: int) -> None:
        """Deletes the checkpoints of later steps, the newest first."""
        for late in reversed([saved for saved in self.steps() if saved > step]):
            shutil.rmtree(self._path(late))

    def _path(self, step: int) -> Path:
        return self.directory / f"step-{step:06d}"


def replace_directory(final: Path, write: Callable[[Path], None]) -> None:
    """Calls `write` on a new folder and puts it in the place of `final` only when it is complete; else it is removed.

    Raises CheckpointError on a full disk.
    """
    partial = final.parent / f".partial-{final.name}"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        write(partial)
        _flush(partial)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
    except BaseException as e:
        full = _is_full(e, partial)
        shutil.rmtree(partial, ignore_errors=True)
        if full:
            raise CheckpointError(
                f"'{final}' cannot be written, the disk is full: free some space, then continue with --resume"
            ) from e
        raise


def _is_full(error: BaseException, directory: Path) -> bool:
    """Whether `error`, raised while writing to `directory`, comes from a full disk: torch and safetensors have errors of
    their own for it, without a number."""
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or os.strerror(errno.ENOSPC) in str(error):
        return True
    return isinstance(error, RuntimeError) and directory.is_dir() and shutil.disk_usage(directory).free < NEARLY_NOTHING


def _flush(directory: Path) -> None:
    """Forces a folder's files to disk, so that the rename never shows a folder with empty files after a crash."""
    for path in directory.rglob("*"):
        if path.is_file():
            with path.open("rb") as f:
                os.fsync(f.fileno())
