"""Checkpoints: complete or absent, the newest few kept, and a full disk told apart from other failures."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from harmonyray import checkpoint
from harmonyray.checkpoint import CheckpointStore, replace_directory
from harmonyray.errors import CheckpointError


def writes(text: str) -> Callable[[Path], None]:
    def write(directory: Path) -> None:
        (directory / "nested").mkdir()
        (directory / "nested" / "weights").write_text(text)

    return write


def fails(error: BaseException) -> Callable[[Path], None]:
    def write(directory: Path) -> None:
        (directory / "half").write_text("hal")
        raise error

    return write


def full(directory: Path) -> None:
    """The kernel's own ENOSPC."""
    (directory / "half").write_text("hal")
    with open("/dev/full", "w") as f:
        f.write("x")


def names(directory: Path) -> list[str]:
    return sorted(p.name for p in directory.iterdir())


def test_a_checkpoint_is_what_was_written_and_its_state(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints", keep=2)
    assert (store.steps(), store.latest()) == ([], None)
    path = store.save(7, writes("seven"), {"mlflow_run_id": "abc", "eval_before": {"x": 0.1}})
    assert path == tmp_path / "checkpoints" / "step-000007"
    assert (path / "nested" / "weights").read_text() == "seven"
    assert store.latest() == (path, {"step": 7, "mlflow_run_id": "abc", "eval_before": {"x": 0.1}})


@pytest.mark.parametrize(("keep", "left"), [(1, [30]), (2, [20, 30]), (5, [1, 2, 10, 20, 30])])
def test_the_newest_are_kept_by_number_and_not_by_name_or_age(tmp_path: Path, keep: int, left: list[int]) -> None:
    store = CheckpointStore(tmp_path, keep)
    for step in (1, 2, 10, 20, 30):
        store.save(step, writes(str(step)), {})
    assert store.steps() == left
    latest = store.latest()
    assert latest is not None
    assert latest[1] == {"step": 30}


def test_a_step_beyond_six_digits_is_still_the_newest(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for step in (999_999, 1_000_000):
        store.save(step, writes("x"), {})
    assert store.steps() == [999_999, 1_000_000]
    latest = store.latest()
    assert latest is not None
    assert latest[0].name == "step-1000000"


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    store.save(3, writes("old"), {"a": 1})
    store.save(3, writes("new"), {"a": 2})
    assert (tmp_path / "step-000003" / "nested" / "weights").read_text() == "new"
    assert store.latest() == (tmp_path / "step-000003", {"step": 3, "a": 2})


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt(), OSError(errno.EACCES, "denied")])
def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    store.save(1, writes("one"), {})
    for step in (1, 2):
        with pytest.raises(type(error)) as caught:
            store.save(step, fails(error), {})
        assert caught.value is error
    assert names(tmp_path) == ["step-000001"]
    assert (tmp_path / "step-000001" / "nested" / "weights").read_text() == "one"


def test_a_full_disk_is_named_with_the_way_out(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    store.save(1, writes("one"), {})
    with pytest.raises(CheckpointError, match=r"step-000002' cannot be written, the disk is full: .*--resume") as caught:
        store.save(2, full, {})
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.exit_code == 1
    assert names(tmp_path) == ["step-000001"]


class ForeignError(Exception):
    """As safetensors': no OSError, no number."""


FULL = [
    (OSError(errno.ENOSPC, "No space left on device"), 10**9, True),
    (OSError(errno.EDQUOT, "Disk quota exceeded"), 10**9, True),
    (ForeignError("I/O error: No space left on device (os error 28)"), 10**9, True),
    (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"), 0, True),
    (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"), 10**9, False),
    (OSError(errno.EACCES, "Permission denied"), 10**9, False),
    (TypeError("a bug"), 0, False),
]


@pytest.mark.parametrize(("error", "free", "expected"), FULL)
def test_what_counts_as_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, free: int, expected: bool
) -> None:
    class Usage:
        def __init__(self, path: Path) -> None:
            self.free = free

    monkeypatch.setattr(checkpoint.shutil, "disk_usage", Usage)
    with pytest.raises(CheckpointError if expected else type(error)):
        CheckpointStore(tmp_path, 1).save(1, fails(error), {})


def test_what_a_crash_left_is_no_checkpoint_and_in_nobodys_way(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    store.save(4, writes("four"), {})
    (tmp_path / ".partial-step-000005").mkdir()
    (tmp_path / ".partial-step-000005" / "junk").write_text("junk")
    (tmp_path / "step-notes").mkdir()
    assert store.steps() == [4]
    store.save(5, writes("five"), {})
    assert names(tmp_path / "step-000005") == ["nested", "state.json"]
    assert store.steps() == [4, 5]


@pytest.mark.parametrize("text", [None, "", "{", '{"step": '])
def test_a_damaged_state_names_the_folder(tmp_path: Path, text: str | None) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    store.save(4, writes("four"), {})
    state = store.save(5, writes("five"), {}) / "state.json"
    if text is None:
        state.unlink()
    else:
        state.write_text(text)
    with pytest.raises(CheckpointError, match=r"step-000005' is damaged .*: delete it to resume from the one before"):
        store.latest()


def test_the_state_is_plain_json(tmp_path: Path) -> None:
    path = CheckpointStore(tmp_path, 1).save(2, writes("x"), {"eval_before": {}})
    assert json.loads((path / "state.json").read_text()) == {"step": 2, "eval_before": {}}


def test_a_directory_is_replaced_only_by_a_complete_one(tmp_path: Path) -> None:
    final = tmp_path / "model"
    replace_directory(final, writes("first"))
    replace_directory(final, writes("second"))
    with pytest.raises(RuntimeError, match="boom"):
        replace_directory(final, fails(RuntimeError("boom")))
    assert (final / "nested" / "weights").read_text() == "second"
    assert names(tmp_path) == ["model"]
