"""Checkpoints are written while the next rollouts are sampled, and are done before anything changes that they hold."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from run_helpers import rows, small_run

from harmonyray.errors import CheckpointError, RolloutsLostError, RunError
from harmonyray.evaluate import Evaluator
from harmonyray.inprocess import InProcessRuntime
from harmonyray.saving import Saving

LIMIT_S = 60.0  # for what should happen at once


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def refuse(step: int) -> None:
    raise CheckpointError(f"no room for step {step}")


def test_saving_goes_on_beside_until_it_is_finished(threads: ThreadPoolExecutor) -> None:
    may_end, saved = threading.Event(), list[int]()

    def save(step: int) -> None:
        assert may_end.wait(LIMIT_S)
        saved.append(step)

    saving = Saving(save, 3, threads)
    saving.begin(5)
    assert (saving.step, saved) == (3, [])
    may_end.set()
    saving.finish()
    assert (saving.step, saved) == (5, [5])
    saving.finish()
    assert saved == [5]


def test_a_failure_is_raised_once_and_by_finish(threads: ThreadPoolExecutor) -> None:
    saving = Saving(refuse, 3, threads)
    saving.begin(4)
    saving.settle()
    with pytest.raises(CheckpointError, match="no room for step 4"):
        saving.finish()
    saving.finish()
    assert saving.step == 3


@pytest.mark.parametrize(("finished", "saved"), [(4, [4]), (3, []), (None, [])])
def test_after_an_error_what_is_finished_and_not_saved_is_saved(
    threads: ThreadPoolExecutor, finished: int | None, saved: list[int]
) -> None:
    done: list[int] = []
    Saving(done.append, 3, threads).finish_after(RunError("lost"), finished)
    assert done == saved


@pytest.mark.parametrize("begun", [True, False])
def test_after_an_error_a_failed_save_is_a_note_on_it(threads: ThreadPoolExecutor, begun: bool) -> None:
    saving, error = Saving(refuse, 3, threads), RunError("lost")
    if begun:
        saving.begin(4)
    saving.finish_after(error, 4)
    assert error.__notes__ == ["step 4 could not be saved: CheckpointError: no room for step 4"]


def test_a_run_saves_while_it_samples_and_before_it_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saving waits here until the next step's sampling has begun: in one thread it would wait for ever."""
    told: list[str] = []
    sampling = threading.Event()
    sample, update, save = InProcessRuntime.sample, InProcessRuntime.update, InProcessRuntime.save

    def samples(self: InProcessRuntime, *args: Any) -> Any:
        told.append(f"sample {args[-1][-1]}")
        sampling.set()
        return sample(self, *args)

    def updates(self: InProcessRuntime, plan: Any, step: int) -> Any:
        told.append(f"update {step}")
        sampling.clear()
        return update(self, plan, step)

    def saves(self: InProcessRuntime, directory: Path) -> None:
        last = self.policy_version == 3  # nothing is sampled after it
        assert last or sampling.wait(LIMIT_S), "nothing was sampled while the checkpoint was being saved"
        save(self, directory)
        told.append(f"saved {self.policy_version}")

    for name, call in (("sample", samples), ("update", updates), ("save", saves)):
        monkeypatch.setattr(InProcessRuntime, name, call)
    small_run(tmp_path / "run", "steps=3", "checkpoint.every=1", "eval.every=0")
    steps = [entry for entry in told if not entry.startswith("sample")]
    assert steps == ["update 1", "saved 1", "update 2", "saved 2", "update 3", "saved 3"]
    assert told.index("sample 2") < told.index("saved 1") < told.index("update 2")
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())[-1] == "step-000003"


@pytest.mark.parametrize("error", [ValueError("an engine's own"), KeyboardInterrupt()])
def test_what_ends_the_run_while_a_checkpoint_is_written_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    failed = threading.Event()
    sample, save = InProcessRuntime.sample, InProcessRuntime.save

    def samples(self: InProcessRuntime, *args: Any) -> Any:
        if args[-1][1:] == ("train", 2):
            failed.set()
            raise error
        return sample(self, *args)

    def saves(self: InProcessRuntime, directory: Path) -> None:
        assert failed.wait(LIMIT_S)
        time.sleep(0.2)  # by now the loop is on its way out
        save(self, directory)

    monkeypatch.setattr(InProcessRuntime, "sample", samples)
    monkeypatch.setattr(InProcessRuntime, "save", saves)
    with pytest.raises(type(error)):
        small_run(tmp_path / "run", "steps=3", "checkpoint.every=1", "eval.every=0")
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000001"]


def test_a_step_that_was_learned_is_saved_as_itself_when_its_evaluation_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = Evaluator.evaluate
    run_dir, options = tmp_path / "run", ["steps=3", "eval.every=2", "checkpoint.every=10"]

    def evaluates(self: Evaluator, policy_version: int) -> Any:
        if policy_version == 2:
            raise RolloutsLostError("the node is gone")
        return evaluate(self, policy_version)

    with monkeypatch.context() as broken:
        broken.setattr(Evaluator, "evaluate", evaluates)
        with pytest.raises(RolloutsLostError):
            small_run(run_dir, *options)
    assert [path.name for path in (run_dir / "checkpoints").iterdir()] == ["step-000002"]
    small_run(run_dir, *options, resume=True)
    assert [(row["step"], row["policy_version"]) for row in rows(run_dir)] == [(1, 1), (2, 2), (3, 3)]
