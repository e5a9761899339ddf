"""Checkpoints: complete or absent, the newest few kept and the best, and a full disk told apart from other failures. What is
done about damaged ones is `test_manifest`."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harmonyray import build, checkpoint
from harmonyray.checkpoint import CheckpointStore, evaluation, replace_directory
from harmonyray.config import load_config
from harmonyray.errors import CheckpointError, ConfigError
from harmonyray.preflight import check_best


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
    assert (store.steps(), store.newest()) == ([], (None, {}))
    path = store.save(7, 9, writes("seven"), {"mlflow_run_id": "abc", "eval_before": {"x": 0.1}})
    assert path == tmp_path / "checkpoints" / "step-000007"
    assert (path / "nested" / "weights").read_text() == "seven"
    assert store.newest() == ((path, {"step": 7, "mlflow_run_id": "abc", "eval_before": {"x": 0.1}}), {})


@pytest.mark.parametrize(("keep", "left"), [(1, [30]), (2, [20, 30]), (5, [1, 2, 10, 20, 30])])
def test_the_newest_are_kept_by_number_and_not_by_name_or_age(tmp_path: Path, keep: int, left: list[int]) -> None:
    store = CheckpointStore(tmp_path, keep)
    for step in (1, 2, 10, 20, 30):
        store.save(step, 9, writes(str(step)), {})
    assert store.steps() == left
    assert store.newest() == ((tmp_path / "step-000030", {"step": 30}), {})


def test_a_step_beyond_six_digits_is_still_the_newest(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for step in (999_999, 1_000_000):
        store.save(step, 9, writes("x"), {})
    assert store.steps() == [999_999, 1_000_000]
    assert store.newest() == ((tmp_path / "step-1000000", {"step": 1_000_000}), {})


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    store.save(3, 9, writes("old"), {"a": 1})
    store.save(3, 9, writes("new"), {"a": 2})
    assert (tmp_path / "step-000003" / "nested" / "weights").read_text() == "new"
    assert store.newest() == ((tmp_path / "step-000003", {"step": 3, "a": 2}), {})
    assert names(tmp_path) == ["step-000003"]


@pytest.mark.parametrize("crash", [False, True])
def test_a_checkpoint_that_is_replaced_is_there_whatever_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crash: bool
) -> None:
    """Ctrl-C, or the process's end, between the old one's losing its name and the new one's getting it."""
    store = CheckpointStore(tmp_path, keep=2)
    store.save(3, 9, writes("old"), {"a": 1})
    rename = Path.rename

    def broken(self: Path, target: Path) -> Path:
        if self.name.startswith(".partial-"):
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", broken)
        if crash:
            patched.setattr(checkpoint, "_put_back", lambda directory: None)
        with pytest.raises(KeyboardInterrupt):
            store.save(3, 9, writes("new"), {"a": 2})
    assert store.steps() == ([] if crash else [3])
    assert store.newest() == ((tmp_path / "step-000003", {"step": 3, "a": 1}), {})
    assert names(tmp_path) == ["step-000003"]


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt(), OSError(errno.EACCES, "denied")])
def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    store.save(1, 9, writes("one"), {})
    for step in (1, 2):
        with pytest.raises(type(error)) as caught:
            store.save(step, 9, fails(error), {})
        assert caught.value is error
    assert names(tmp_path) == ["step-000001"]
    assert (tmp_path / "step-000001" / "nested" / "weights").read_text() == "one"


def test_a_full_disk_is_named_with_the_way_out(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    store.save(1, 9, writes("one"), {})
    with pytest.raises(CheckpointError, match=r"step-000002' cannot be written, the disk is full: .*--resume") as caught:
        store.save(2, 9, full, {})
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
        CheckpointStore(tmp_path, 1).save(1, 9, fails(error), {})


def test_what_a_crash_left_is_no_checkpoint_and_in_nobodys_way(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    store.save(4, 9, writes("four"), {})
    (tmp_path / ".partial-step-000005").mkdir()
    (tmp_path / ".partial-step-000005" / "junk").write_text("junk")
    (tmp_path / ".removed-step-000001").mkdir()
    (tmp_path / "step-notes").mkdir()
    assert store.steps() == [4]
    store.save(5, 9, writes("five"), {})
    assert names(tmp_path / "step-000005") == ["manifest.json", "nested", "state.json"]
    assert names(tmp_path) == ["step-000004", "step-000005", "step-notes"]
    assert store.steps() == [4, 5]


def test_the_state_is_plain_json(tmp_path: Path) -> None:
    path = CheckpointStore(tmp_path, 1).save(2, 9, writes("x"), {"eval_before": {}})
    assert json.loads((path / "state.json").read_text()) == {"step": 2, "eval_before": {}}


def test_a_directory_is_replaced_only_by_a_complete_one(tmp_path: Path) -> None:
    final = tmp_path / "model"
    replace_directory(final, writes("first"))
    replace_directory(final, writes("second"))
    with pytest.raises(RuntimeError, match="boom"):
        replace_directory(final, fails(RuntimeError("boom")))
    assert (final / "nested" / "weights").read_text() == "second"
    assert names(tmp_path) == ["model"]


# --- the best ----------------------------------------------------------------------------------------------------------------

ACCURACY = "eval/solver/avg_at_k"


def saved(store: CheckpointStore, values: dict[int, float | None]) -> CheckpointStore:
    """Checkpoints of steps with these accuracies; None: not evaluated."""
    for step, value in values.items():
        store.save(step, step, writes(str(step)), {"eval": {} if value is None else {ACCURACY: value}})
    return store


@pytest.mark.parametrize(
    ("values", "left", "best"),
    [
        ({1: 0.2, 2: 0.9, 3: 0.5, 4: None, 5: 0.8}, [2, 5], 2),
        ({1: 0.2, 2: 0.9, 3: 0.9}, [2, 3], 2),  # of equal ones the first
        ({1: 0.9, 2: 0.2, 3: 0.95}, [3], 3),
        ({1: None, 2: None}, [2], None),
        ({1: 0.0, 2: None}, [1, 2], 1),
        ({5: 0.4, 40: 0.3, 100: 0.2}, [5, 100], 5),
    ],
)
def test_the_best_is_kept_beside_the_newest(tmp_path: Path, values: dict[int, float | None], left: list[int], best: Any) -> None:
    store = saved(CheckpointStore(tmp_path, keep=1, best=ACCURACY), values)
    assert (store.steps(), store.best_step()) == (left, best)
    again = CheckpointStore(tmp_path, keep=1, best=ACCURACY)  # as a resumed run opens it
    assert again.best_step() == best
    assert CheckpointStore(tmp_path, keep=1).best_step() is None


def test_what_beats_the_best(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1, best=ACCURACY)
    assert store.is_best({ACCURACY: 0.0})
    assert not store.is_best({"step": 1, "eval/reframer/avg_at_k": 1.0})
    saved(store, {1: 0.5, 2: 0.4})
    assert [store.is_best({ACCURACY: value}) for value in (0.4, 0.5, 0.51)] == [False, False, True]
    assert not CheckpointStore(tmp_path, keep=1).is_best({ACCURACY: 1.0})
    (tmp_path / "step-000001" / "state.json").write_text("{")  # what cannot be read is no best
    assert [store.is_best({ACCURACY: value}) for value in (0.4, 0.45)] == [False, True]
    assert store.best_step() == 2


def test_a_best_that_nothing_measures_is_refused() -> None:
    config = load_config("quickstart", [f"checkpoint.best={ACCURACY}"])
    problems, gold = build.load_problems(config)
    check_best(config, problems, gold)
    check_best(load_config("quickstart"), problems, {})
    with pytest.raises(ConfigError, match=r"'checkpoint\.best' is eval/solver/avg_at_k, and there are no gold answers"):
        check_best(config, problems, {})


def test_one_from_before_the_last_steps_is_kept_however_many_are_saved(tmp_path: Path) -> None:
    """What a rollback goes to: at least three steps older than the last."""
    store = CheckpointStore(tmp_path, keep=2, spare=3)
    left = []
    for step in (0, 1, 2, 3, 4, 8, 9, 10):
        store.save(step, step, writes("x"), {})
        left.append(store.steps())
    assert left == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [1, 2, 3, 4], [4, 8], [4, 8, 9], [4, 8, 9, 10]]
    (tmp_path / "step-000009" / "nested" / "weights").write_text("altered")
    assert [store.sound_before(step) for step in (11, 10, 9, 4)] == [10, 8, 8, None]


def test_an_evaluation_is_told_from_a_steps_other_metrics() -> None:
    row = {"step": 3, "time/eval_s": 1.0, "eval/x": 0.5, "holdout/x": 0.25, "train/eval/x": 2.0}
    assert evaluation(row) == {"eval/x": 0.5, "holdout/x": 0.25}


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("eval/slover/avg_at_k", "did you mean 'eval/solver/avg_at_k'"),
        ("solver/greedy", "did you mean 'eval/solver/greedy'"),
        ("consensus/label_accuracy", "no measure of this run's evaluations"),
        ("eval/num_problems", "no measure"),
        ("holdout/solver/avg_at_k", "did you mean"),
    ],
)
def test_a_mistyped_best_is_refused_before_anything_starts(given: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=rf"'checkpoint\.best': '{given}' .*{hint}"):
        load_config("quickstart", [f"checkpoint.best={given}"])


def test_a_best_of_the_held_out_problems_needs_some() -> None:
    config = load_config("quickstart", ["checkpoint.best=holdout/solver/avg_at_k", "problems.holdout=0.5"])
    assert config.checkpoint.best == "holdout/solver/avg_at_k"
