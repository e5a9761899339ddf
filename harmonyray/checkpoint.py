"""Checkpoints: whole directories that appear in one rename; the newest few are kept, and the best."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from harmonyray.errors import CheckpointError
from harmonyray.files import sync_file
from harmonyray.manifest import find_faults, write_manifest

STATE_FILE = "state.json"
EVALUATION = ("eval/", "holdout/")  # what the names of an evaluation's metrics begin with
NEARLY_NOTHING = 2**16  # bytes free on a full disk, at most
REPLACED = ".replaced-"  # before the name of a folder that another is about to take the place of


class CheckpointStore:
    """The `checkpoints/` folder of a run: `step-000010/`, each complete or absent.

    `keep` newest ones are kept, and beside them the one whose evaluation was highest in the metric `best`, if there is one, and
    the newest that is at least `spare` steps older than the last (0: none).
    """

    def __init__(self, directory: Path, keep: int, best: str | None = None, spare: int = 0) -> None:
        self.directory, self.keep, self.best, self.spare = directory, keep, best, spare

    def save(self, step: int, policy_version: int, write: Callable[[Path], None], state: Mapping[str, Any]) -> Path:
        """Calls `write` on a new folder, adds `state` and the manifest, and makes it appear as the checkpoint of `step`; drops
        those that are no longer kept. `state["eval"]` is the evaluation after the step, empty without one.

        A failure leaves the earlier checkpoints untouched and no partial one behind. Raises CheckpointError on a full disk.
        """
        final = self.path(step)

        def write_all(directory: Path) -> None:
            write(directory)
            (directory / STATE_FILE).write_text(json.dumps({"step": step, **state}))
            write_manifest(directory, step, policy_version)

        for left in self.directory.glob(".*-step-*"):  # by a crash
            shutil.rmtree(left, ignore_errors=True)
        replace_directory(final, write_all)
        for old in set(self.steps()[: -self.keep]) - {self.best_step()} - self._spared():
            remove_directory(self.path(old))
        return final

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, oldest first."""
        names = self.directory.glob("step-*") if self.directory.is_dir() else []
        return sorted(int(m.group(1)) for p in names if (m := re.fullmatch(r"step-(\d+)", p.name)))

    def newest(self) -> tuple[tuple[Path, dict[str, Any]] | None, dict[int, str]]:
        """The newest checkpoint that is as it was written, its folder and state, and by step what is wrong with newer ones; None
        if there are no checkpoints.

        Raises CheckpointError if there are some and none of them is good.
        """
        _put_back(self.directory)
        refused: dict[int, str] = {}
        for step in reversed(self.steps()):
            wrong = find_faults(self.path(step))
            if not wrong:
                return (self.path(step), json.loads((self.path(step) / STATE_FILE).read_text())), refused
            refused[step] = wrong
        if not refused:
            return None, refused
        reasons = "\n".join(f"  {self.path(step).name}: {wrong}" for step, wrong in refused.items())
        raise CheckpointError(
            f"none of the checkpoints in '{self.directory}' can be used; put back a copy of one, or delete that folder to begin "
            f"again at step 1:\n{reasons}"
        )

    def set_aside(self, steps: Iterable[int]) -> None:
        """Renames refused checkpoints to `refused-step-...`: they no longer count as the newest."""
        for step in steps:
            aside = self.directory / f"refused-{self.path(step).name}"
            remove_directory(aside)
            self.path(step).rename(aside)

    def best_step(self) -> int | None:
        """The checkpoint that was evaluated highest, of equal ones the oldest; None without `best`, or before any evaluation."""
        values = self._evaluated()
        return max(values, key=lambda step: (values[step], -step), default=None)

    def is_best(self, row: Mapping[str, float]) -> bool:
        """Whether a step with these metrics was evaluated, and higher than every checkpoint there is."""
        value = None if self.best is None else row.get(self.best)
        return value is not None and all(value > other for other in self._evaluated().values())

    def sound_before(self, step: int) -> int | None:
        """The newest checkpoint from before `step` that is as it was written."""
        return next((saved for saved in reversed(self.steps()) if saved < step and not find_faults(self.path(saved))), None)

    def drop_after(self, step: int) -> None:
        """Deletes the checkpoints of later steps, the newest first."""
        for late in reversed([saved for saved in self.steps() if saved > step]):
            remove_directory(self.path(late))

    def path(self, step: int) -> Path:
        return self.directory / f"step-{step:06d}"

    def _spared(self) -> set[int]:
        """The newest that is old enough, and the one that will be next."""
        if not self.spare:
            return set()
        steps = self.steps()
        old = [step for step in steps if step <= steps[-1] - self.spare]
        return {*old[-1:], steps[len(old)]}

    def _evaluated(self) -> dict[int, float]:
        """The value of `best` by step. (A checkpoint whose state cannot be read has none; it is refused where it is loaded.)"""
        values = {}
        for step in self.steps() if self.best is not None else ():
            try:
                values[step] = float(json.loads((self.path(step) / STATE_FILE).read_bytes())["eval"][self.best])
            except (OSError, ValueError, TypeError, KeyError):
                continue
        return values


def evaluation(row: Mapping[str, float]) -> dict[str, float]:
    """The metrics of a step's row that are an evaluation's; none if it was not evaluated."""
    return {name: value for name, value in row.items() if name.startswith(EVALUATION)}


def replace_directory(final: Path, write: Callable[[Path], None]) -> None:
    """Calls `write` on a new folder and puts it in the place of `final` only when it is complete; else it is removed, and what
    was there before stays (after a crash between the two renamings: once `_put_back` was called).

    Raises CheckpointError on a full disk.
    """
    partial, replaced = final.parent / f".partial-{final.name}", final.parent / f"{REPLACED}{final.name}"
    shutil.rmtree(partial, ignore_errors=True)
    _put_back(final.parent)
    shutil.rmtree(replaced, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        write(partial)
        _flush(partial)
        if final.exists():
            final.rename(replaced)
        partial.rename(final)
        shutil.rmtree(replaced, ignore_errors=True)
    except BaseException as e:
        full = _is_full(e, partial)
        _put_back(final.parent)
        shutil.rmtree(partial, ignore_errors=True)
        if full:
            raise CheckpointError(
                f"'{final}' cannot be written, the disk is full: free some space, then give the same command again, `train` "
                "with --resume"
            ) from e
        raise


def _put_back(directory: Path) -> None:
    """Gives folders that were being replaced their names again, where nothing has come in their place."""
    for left in directory.glob(f"{REPLACED}*"):
        final = directory / left.name.removeprefix(REPLACED)
        if not final.exists():
            left.rename(final)


def remove_directory(path: Path) -> None:
    """Removes a folder, if there is one, that nobody may meet half removed: it loses its name first."""
    doomed = path.parent / f".removed-{path.name}"
    shutil.rmtree(doomed, ignore_errors=True)
    if path.exists():
        path.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


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
            sync_file(path)
