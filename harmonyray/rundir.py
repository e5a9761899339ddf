"""A run's directory: making or taking one up, one process at a time, and the small record that a resume starts from."""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from harmonyray.algos.batching import fill_batch
from harmonyray.checkpoint import CheckpointStore
from harmonyray.config import Config, load_config
from harmonyray.errors import ConfigError, RolloutsLostError, brief
from harmonyray.files import whole_file, write_text
from harmonyray.guard import START_STEPS
from harmonyray.tracking import rewind
from harmonyray.types import GroupRows

MAY_CHANGE_ON_RESUME = {"steps", "placement", "runtime", "sync", "guard", "checkpoint", "tracking"}
MAY_CHANGE_TOO = {"rollout.request_timeout_s", "rollout.max_attempts", "rollout.min_complete_share"}
# A checkpoint is the same whoever trains, however many share an update, and wherever they keep what.
MAY_CHANGE_TOO |= {f"learner.{name}" for name in ("type", "num_ranks", "zero_stage", "offload", "optimizer", "packing")}
MAY_CHANGE_TOO |= {f"learner.{name}" for name in ("max_tokens_per_micro_batch", "gradient_checkpointing")}
MAY_CHANGE_TOO |= {f"learner.{name}" for name in ("collective_timeout_s", "max_skipped_updates")}
SUMMARY = "summary.json"
RECORD = "run.json"  # what is known before the first checkpoint: the MLflow run and the first evaluation


@dataclass(frozen=True, slots=True)
class Start:
    """Where a run begins: its directory, its checkpoints and, when resumed, the checkpoint and what was recorded. `summary` is
    that of a run that has nothing left to do."""

    run_dir: Path
    store: CheckpointStore
    checkpoint: Path | None
    state: Mapping[str, Any]
    refused: tuple[str, ...] = ()  # what is wrong with newer checkpoints
    summary: Mapping[str, Any] | None = None
    changed: tuple[str, ...] = ()  # what is configured otherwise than at the start, e.g. "steps: 12 -> 40"

    @property
    def first_step(self) -> int:
        return int(self.state.get("step", 0)) + 1

    def record(self, **values: Any) -> None:
        """Keeps values for a resume that finds no checkpoint."""
        write_text(self.run_dir / RECORD, json.dumps(_read_record(self.run_dir) | values))


@contextmanager
def open_run(config: Config, run_dir: Path | None, resume: bool) -> Iterator[Start]:
    """Makes the run directory, or takes one up, and holds it until the end.

    Raises ConfigError if it is in use, cannot be written, is missing, or belongs to another experiment.
    """
    if resume:
        if run_dir is None:
            raise ConfigError("--resume needs the run to go on with: give --run-dir DIR")
        if not (run_dir / "config.yaml").is_file():
            raise ConfigError(f"--resume: '{run_dir}' is not a run directory (it has no config.yaml); start one without --resume")
        with held(run_dir):
            yield _take_up(config, run_dir)
        return
    is_ours = run_dir is None or not run_dir.exists()
    if run_dir is None:
        run_dir = new_directory(Path("runs"), f"{config.name}-{time.strftime('%Y%m%d-%H%M%S')}")
    elif run_dir.exists() and not run_dir.is_dir():
        raise ConfigError(f"'{run_dir}' already exists and is not a directory: give another --run-dir")
    make_directory(run_dir)
    with held(run_dir), _gone_if_empty(run_dir) if is_ours else nullcontext():
        if any(run_dir.iterdir()):
            raise ConfigError(
                f"'{run_dir}' already exists and is not empty: give another --run-dir, or --resume to go on with it"
            )
        yield Start(run_dir, _store(config, run_dir), None, {})


@contextmanager
def _gone_if_empty(run_dir: Path) -> Iterator[None]:
    """A run that ends before it has written anything leaves no directory of its own making."""
    try:
        yield
    finally:
        if run_dir.is_dir() and not any(run_dir.iterdir()):
            run_dir.rmdir()


def in_rays_copy(run_dir: Path) -> bool:
    """Whether a directory lies in the copy of its `--working-dir` that a Ray job works in."""
    return {"runtime_resources", "working_dir_files"} <= set(run_dir.resolve().parts)


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys."""
    out: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        out |= flat(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value}
    return out


def keep_batch(run_dir: Path, plan: Sequence[GroupRows], step: int) -> str:
    """Writes the batch that a step would have learned from, for inspection: the arrays of `types.Batch` by name, as `np.load`
    reads them. Returns a sentence that says where it is, or why it is not there: it goes with the error that it explains."""
    path = run_dir / f"not-finite-step-{step:06d}.npz"
    try:
        batch = fill_batch(plan)
        with whole_file(path) as temporary:
            np.savez_compressed(temporary, **{field.name: getattr(batch, field.name) for field in fields(batch)})
    except (OSError, RolloutsLostError) as e:
        return f"Its batch could not be kept ({brief(e)})"
    return f"Its batch is in '{path}': see docs/learner.md for what to look at"


def _take_up(config: Config, run_dir: Path) -> Start:
    changed = _checked_changes(config, run_dir)
    store = _store(config, run_dir)
    found, refused = store.newest()
    last = found[1]["step"] if found else 0
    if last > config.steps:
        raise ConfigError(f"--resume: '{run_dir}' has reached step {last} already, and 'steps' is {config.steps}: raise it")
    store.set_aside(refused)
    rewind(run_dir, last)
    if found is None:
        return Start(run_dir, store, None, _read_record(run_dir), changed=changed)
    said = [f"checkpoint '{store.path(step)}' is refused: {wrong}" for step, wrong in refused.items()]
    return Start(run_dir, store, *found, tuple(said), _finished(run_dir, config.steps) if last == config.steps else None, changed)


def _finished(run_dir: Path, steps: int) -> dict[str, Any] | None:
    """The summary of a run that has ended after these steps and left its model; None if it has not."""
    path = run_dir / SUMMARY
    if not path.is_file() or not (run_dir / "model").is_dir():
        return None
    summary: dict[str, Any] = json.loads(path.read_text())
    return summary if summary["steps"] == steps and "paused" not in summary else None


def _store(config: Config, run_dir: Path) -> CheckpointStore:
    # A rollback goes to a checkpoint from before the steps that it is judged by.
    spare = max(config.guard.window, START_STEPS) if config.guard.action == "rollback" else 0
    return CheckpointStore(run_dir / "checkpoints", config.checkpoint.keep, config.checkpoint.best, spare)


def _read_record(run_dir: Path) -> dict[str, Any]:
    path = run_dir / RECORD
    record: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return record


@contextmanager
def held(run_dir: Path) -> Iterator[None]:
    """The directory to ourselves; the lock goes with the process. Raises ConfigError if another process has it."""
    handle = os.open(run_dir, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
        os.close(handle)
        raise ConfigError(f"'{run_dir}' belongs to a run that is still going: wait for its end, or give another --run-dir") from e
    try:
        yield
    finally:
        os.close(handle)


def is_held(run_dir: Path) -> bool:
    """Whether a process has the directory to itself; never, where there is none."""
    try:
        with held(run_dir):
            return False
    except ConfigError:
        return True
    except FileNotFoundError:
        return False


def make_directory(path: Path) -> None:
    """Raises ConfigError where there can be none."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as e:
        raise ConfigError(f"the run directory '{path}' cannot be made or written to ({e}): give another --run-dir") from e


def new_directory(root: Path, name: str) -> Path:
    """A directory that no other run has: `name`, else `name-2`, `name-3`, ..."""
    make_directory(root)
    for suffix in ("", *(f"-{i}" for i in range(2, 1000))):
        path = root / f"{name}{suffix}"
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise ConfigError(f"'{root}' already has a thousand runs named {name!r}: give --run-dir")


def _checked_changes(config: Config, run_dir: Path) -> tuple[str, ...]:
    """What the configuration says otherwise than when the run was started. Raises ConfigError for what may not change."""
    saved = flat(load_config(str(run_dir / "config.yaml")).to_container())
    now = flat(config.to_container())
    different = [k for k in sorted(saved.keys() | now.keys()) if saved.get(k) != now.get(k)]
    changed = [k for k in different if k.split(".")[0] not in MAY_CHANGE_ON_RESUME and k not in MAY_CHANGE_TOO]
    if changed:
        shown = "; ".join(f"{k}: {saved.get(k)!r} -> {now.get(k)!r}" for k in changed[:5])
        shown += f"; and {len(changed) - 5} more" if len(changed) > 5 else ""
        raise ConfigError(
            f"--resume: this configuration is not the one '{run_dir}' was started with ({shown}); "
            "use the same, or a new --run-dir"
        )
    return tuple(f"{k}: {saved.get(k)!r} -> {now.get(k)!r}" for k in different)
