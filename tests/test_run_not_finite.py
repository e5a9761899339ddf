"""Gradients that are not finite: the updates are left out and counted, and too many in a row end the run with the batch kept."""

from __future__ import annotations

import errno
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_helpers import assert_same_run, rows, small_run

from harmonyray.algos.losses.ppo_clip import PpoClip
from harmonyray.errors import NotFiniteError, RolloutsLostError, RunError
from harmonyray.inprocess import InProcessRuntime
from harmonyray.ledger import read_ledger
from harmonyray.rundir import keep_batch
from harmonyray.types import Batch, GroupRows, Here, Prompt, Rollout

STEPS = ("steps=4", "checkpoint.every=4", "learner.max_skipped_updates=2")


def break_from(monkeypatch: pytest.MonkeyPatch, first: int, last: int = 99) -> list[int]:
    """Makes the loss of the updates `first`..`last` of this process no number. (Small runs have one micro-batch an update.)"""
    per_token, seen = PpoClip.per_token, list[int]()

    def broken(self: PpoClip, *args: Any) -> Any:
        seen.append(1)
        loss, clipped = per_token(self, *args)
        return (loss * float("nan") if first <= len(seen) <= last else loss), clipped

    monkeypatch.setattr(PpoClip, "per_token", broken)
    return seen


def test_one_update_that_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = break_from(monkeypatch, 2, 2)
    small_run(tmp_path / "run", *STEPS)
    assert len(seen) == 4
    assert [row["train/skipped_updates"] for row in rows(tmp_path / "run")] == [0, 1, 0, 0]
    assert [row["policy_version"] for row in rows(tmp_path / "run")] == [1, 1, 2, 3]
    assert [row["train/grad_norm"] is None for row in rows(tmp_path / "run")] == [False, True, False, False]
    texts = [(tmp_path / "run" / name).read_text() for name in ("metrics.jsonl", "mlflow.jsonl")]
    assert not any(constant in text for constant in (" NaN", "Infinity") for text in texts)


def test_too_many_in_a_row_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = tmp_path / "run"
    with monkeypatch.context() as broken:
        break_from(broken, 2)
        with pytest.raises(
            NotFiniteError, match=r"step 3: the gradients of 2 updates in a row .*max_skipped_updates = 2"
        ) as caught:
            small_run(run_dir, *STEPS)
    path = run_dir / "not-finite-step-000003.npz"
    assert f"'{path}'" in str(caught.value)
    with np.load(path) as kept:
        assert set(kept) == {field.name for field in fields(Batch)}
        assert kept["token_ids"].shape == kept["advantages"].shape
        assert len(kept["lengths"]) > 1
    # What was learned before is saved, and the run can go on from there.
    assert [p.name for p in (run_dir / "checkpoints").iterdir()] == ["step-000002"]
    assert [row["policy_version"] for row in rows(run_dir)] == [1, 1]
    small_run(run_dir, *STEPS, resume=True)
    assert [row["policy_version"] for row in rows(run_dir)] == [1, 1, 2, 3]


@pytest.mark.parametrize("error", [NotFiniteError, RolloutsLostError])
def test_a_step_that_was_judged_and_not_learned_leaves_nothing_in_the_selector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[RunError]
) -> None:
    """Its votes were fitted, in a window of two steps; the run that goes on from the step before is an undisturbed one."""
    options = ("steps=2", "checkpoint.every=9", "method.selector={type: reliability, window: 2}")

    def fails(self: InProcessRuntime, plan: Any, step: int, update: Any = InProcessRuntime.update) -> Any:
        if step == 2:
            raise error("as if")
        return update(self, plan, step)

    with monkeypatch.context() as broken:
        broken.setattr(InProcessRuntime, "update", fails)
        with pytest.raises(error, match="as if"):
            small_run(tmp_path / "broken", *options)
    assert [p.name for p in (tmp_path / "broken" / "checkpoints").iterdir()] == ["step-000001"]
    small_run(tmp_path / "broken", *options, resume=True)
    small_run(tmp_path / "whole", *options)
    assert_same_run(tmp_path / "broken", tmp_path / "whole")
    broken_scores, scores = ([row.used.scores.tolist() for row in read_ledger(tmp_path / n)] for n in ("broken", "whole"))
    assert broken_scores == scores


def plan_of(kept: Any) -> list[GroupRows]:
    return [GroupRows(kept, False, np.array([1.0]), 0, 1.0, 0)]


def test_a_batch_that_does_not_fit_on_the_disk_is_said_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollout = Rollout(Prompt("p", "v", text="Q"), np.array([1]), np.arange(3), np.zeros(3, np.float32), "", "stop", 4)

    def full(path: Path, **arrays: Any) -> None:
        path.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as broken:
        broken.setattr(np, "savez_compressed", full)
        said = keep_batch(tmp_path, plan_of(Here((rollout,))), 3)
    assert said == "Its batch could not be kept (OSError: [Errno 28] No space left on device)"
    assert list(tmp_path.iterdir()) == []
    assert "Its batch is in" in keep_batch(tmp_path, plan_of(Here((rollout,))), 3)
    assert [p.name for p in tmp_path.iterdir()] == ["not-finite-step-000003.npz"]


def test_a_batch_that_is_gone_with_its_node_is_said(tmp_path: Path) -> None:
    class Gone:
        def get(self) -> Any:
            raise RolloutsLostError("gone")

    assert keep_batch(tmp_path, plan_of(Gone()), 3) == "Its batch could not be kept (RolloutsLostError: gone)"
    assert list(tmp_path.iterdir()) == []
