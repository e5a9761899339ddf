"""Checkpoints of the DeepSpeed learner: bit for bit where nothing changes, and one format for any learner, number of ranks and
ZeRO stage."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from deepspeed_ranks import OPTIONS, Job, Outcome, furthest, needs_deepspeed, some_batches, torch_outcome
from safetensors.torch import load_file

from harmonyray.engines.hf import HfEngine
from harmonyray.engines.weights import checksum

pytestmark = needs_deepspeed


def job(workshop: Any, stage: int, dtype: str = "float32", **how: Any) -> Job:
    """Two updates, and two more after a checkpoint."""
    batches = some_batches(workshop, 4)
    return Job(OPTIONS | {"zero_stage": stage}, batches[:2], workshop.model, dtype, after=batches[2:], **how)


def resumed(job: Job) -> Job:
    """The second half, by a learner that loads what the first half saved."""
    return replace(job, load=job.save, save=None, batches=job.after, after=(), first=1 + len(job.batches))


def same(a: Outcome, b: Outcome, last: int) -> bool:
    """To the bit, in the last updates."""
    return (
        furthest(a.weights, b.weights) == 0
        and a.metrics[-last:] == b.metrics[-last:]
        and a.versions[-last:] == b.versions[-last:]
    )


@pytest.mark.parametrize(
    ("stage", "num_ranks", "dtype"),
    [(0, 2, "float32"), (1, 2, "float32"), (2, 2, "float32"), (3, 2, "float32"), (2, 1, "float32")]
    + [(stage, 2, "bfloat16") for stage in (1, 2, 3)],
)
def test_a_run_goes_on_bit_for_bit(ranks: Any, workshop: Any, tmp_path: Path, stage: int, num_ranks: int, dtype: str) -> None:
    straight = job(workshop, stage, dtype, save=tmp_path)
    want = ranks[num_ranks].run(straight)
    got = ranks[num_ranks].run(resumed(straight))
    assert [outcome.loaded for outcome in got] == [2] * num_ranks
    assert all(same(a, b, 2) for a, b in zip(got, want, strict=True))
    # What it loaded is what was saved, beside a state that it already has too.
    again = replace(resumed(straight), batches=(), after=(), save=tmp_path / "again")
    (tmp_path / "again").mkdir()
    ranks[num_ranks].run(again)
    for name in ("optimizer.safetensors", "learner.json", "model/model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes(), name


TORCH = 0  # in the place of a number of ranks


def done_by(ranks: Any, workshop: Any, num_ranks: int, what: Job) -> Outcome:
    return torch_outcome(workshop, what) if num_ranks == TORCH else ranks[num_ranks].run(what)[0]


@pytest.mark.parametrize(
    ("saver", "loader"),
    [((TORCH, 0), (2, stage)) for stage in range(4)]
    + [((2, stage), (TORCH, 0)) for stage in range(4)]
    + [((2, 3), (1, 2)), ((1, 2), (2, 3)), ((2, 0), (2, 1)), ((1, 3), (2, 0))],
)
def test_a_run_goes_on_elsewhere(
    ranks: Any, workshop: Any, tmp_path: Path, saver: tuple[int, int], loader: tuple[int, int]
) -> None:
    first = job(workshop, saver[1], save=tmp_path)
    want = done_by(ranks, workshop, saver[0], first)
    second = resumed(first)
    got = done_by(ranks, workshop, loader[0], replace(second, options=OPTIONS | {"zero_stage": loader[1]}))
    assert got.loaded == 2
    assert got.versions == want.versions[2:]
    assert furthest(got.weights, want.weights) < 1e-5
    for mine, theirs in zip(got.metrics, want.metrics[2:], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("stage", range(4))
def test_a_learner_that_has_learned_something_else_loads(ranks: Any, workshop: Any, tmp_path: Path, stage: int) -> None:
    """Also the state of one that has learned nothing, whose moments are zero."""
    empty = workshop.learner(**OPTIONS)
    empty.save(tmp_path)
    assert json.loads((tmp_path / "learner.json").read_text()) == {"policy_version": 0, "lr_scale": 1.0}
    batches = some_batches(workshop, 2)
    want = torch_outcome(workshop, Job(dict(OPTIONS), batches, workshop.model))
    other = Job(OPTIONS | {"zero_stage": stage}, batches, workshop.model, load=tmp_path, before=[workshop.batch(seed=9)])
    (got, _) = ranks[2].run(other)
    assert got.loaded == 0
    assert got.versions == want.versions
    assert furthest(got.weights, want.weights) < 1e-5


def test_masters_go_on_in_float32(ranks: Any, workshop: Any, tmp_path: Path) -> None:
    """A torch learner takes up the float32 weights, not what bfloat16 left of them."""
    ranks[2].run(replace(job(workshop, 2, "bfloat16", save=tmp_path), after=()))
    learner = workshop.learner()
    learner.load(tmp_path)
    tensors = load_file(tmp_path / "optimizer.safetensors")
    model = load_file(tmp_path / "model" / "model.safetensors")
    for name, weight in learner.weights().items():
        assert torch.equal(weight, tensors[f"master/{name}"])
        assert torch.equal(weight.bfloat16(), model[name])
    assert any(not torch.equal(weight, model[name].float()) for name, weight in learner.weights().items())


@pytest.mark.parametrize("stage", range(4))
def test_a_saved_model_is_a_hugging_face_model(ranks: Any, workshop: Any, tmp_path: Path, stage: int) -> None:
    (got, _) = ranks[2].run(replace(job(workshop, stage, save=tmp_path), after=()))
    engine = HfEngine(HfEngine.Options(), str(tmp_path / "model"))
    assert checksum(engine.weights()) == checksum(got.weights)


def test_every_rank_refuses_a_damaged_checkpoint(ranks: Any, workshop: Any, tmp_path: Path) -> None:
    workshop.learner().save(tmp_path)
    for part in ("optimizer.safetensors", "learner.json"):
        damaged = tmp_path / part.split(".")[0]
        shutil.copytree(tmp_path / "model", damaged / "model")
        for other in ("optimizer.safetensors", "learner.json"):
            shutil.copy(tmp_path / other, damaged / other)
        (damaged / part).write_bytes(b"junk")
        for answer in ranks[2].ask(replace(job(workshop, 3), load=damaged)):
            assert "CheckpointError" in str(answer)
