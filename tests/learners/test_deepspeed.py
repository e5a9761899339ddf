"""The DeepSpeed learner against the torch learner: the same numbers for any number of ranks and any ZeRO stage. Ranks are real
processes that meet over gloo."""

from __future__ import annotations

import dataclasses
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from deepspeed_ranks import OPTIONS, Job, Outcome, furthest, needs_deepspeed, some_batches, torch_outcome
from safetensors.torch import load_file

from harmonyray.errors import ConfigError
from harmonyray.learners.deepspeed import DeepSpeedLearner
from harmonyray.learners.micro_batches import shares
from harmonyray.registry import make_options

STAGES = (0, 1, 2, 3)


def assert_agree(got: list[Outcome], want: Outcome) -> None:
    """The weights to 1e-5, and every rank's metrics: the loss to 1e-5, the others but for rounding."""
    assert furthest(got[0].weights, want.weights) < 1e-5
    for outcome in got:
        assert outcome.versions == want.versions
        for mine, theirs in zip(outcome.metrics, want.metrics, strict=True):
            assert mine["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
            assert mine == pytest.approx(theirs, rel=1e-3, abs=1e-5)


# --- the same numbers --------------------------------------------------------------------------------------------------------


@cache
def twenty_of(model: str, make: type) -> tuple[Job, Outcome]:
    workshop = make(model)
    job = Job(OPTIONS, some_batches(workshop, 20), model)
    return job, torch_outcome(workshop, job)


@pytest.fixture
def twenty(workshop: Any) -> tuple[Job, Outcome]:
    """Twenty updates, and what the torch learner made of them."""
    return twenty_of(workshop.model, type(workshop))


def test_the_batches_are_worth_it(twenty: tuple[Job, Outcome]) -> None:
    """Two ranks get different numbers of rows, or one none at all; some gradients are clipped, some are not."""
    job, want = twenty
    counts = [[len(rows) for rows in shares(batch.lengths, 2, batch.problem)] for batch in job.batches[:3]]
    assert all(0 < min(own) < max(own) for own in (counts[0], counts[2])), counts
    assert counts[1] == [2, 0]
    norms = [metrics["grad_norm"] for metrics in want.metrics]
    assert min(norms) < OPTIONS["max_grad_norm"] < max(norms)


@needs_deepspeed
@pytest.mark.parametrize("num_ranks", [1, 2])
@pytest.mark.parametrize("stage", STAGES)
def test_twenty_updates_agree_with_torch(ranks: Any, twenty: tuple[Job, Outcome], stage: int, num_ranks: int) -> None:
    job, want = twenty
    got = ranks[num_ranks].run(dataclasses.replace(job, options=job.options | {"zero_stage": stage}))
    losses = [abs(m["loss"] - w["loss"]) for m, w in zip(got[0].metrics, want.metrics, strict=True)]
    print(f"| {stage} | {num_ranks} | {furthest(got[0].weights, want.weights):.1e} | {max(losses):.1e} |")  # shown by pytest -rP
    assert_agree(got, want)
    assert all(outcome.weights == {} for outcome in got[1:])


@needs_deepspeed
@pytest.mark.parametrize(
    "options",
    [
        {"zero_stage": 1, "offload": ["optimizer"]},
        {"zero_stage": 2, "offload": ["optimizer"], "gradient_checkpointing": True},
        {"zero_stage": 3, "offload": ["optimizer", "parameters"], "gradient_checkpointing": True},
    ],
)
def test_saving_memory_changes_no_number(ranks: Any, workshop: Any, options: dict[str, Any]) -> None:
    job = Job(OPTIONS | options, some_batches(workshop, 3), workshop.model)
    assert_agree(ranks[2].run(job), torch_outcome(workshop, job))


@needs_deepspeed
@pytest.mark.parametrize(("checkpointing", "passes"), [(False, 1), (True, 2)])
def test_gradient_checkpointing_computes_layers_twice(ranks: Any, workshop: Any, checkpointing: bool, passes: int) -> None:
    options = {"gradient_checkpointing": checkpointing, "max_tokens_per_micro_batch": 4096, "zero_stage": 3}
    (got,) = ranks[1].run(Job(OPTIONS | options, some_batches(workshop, 1), workshop.model))
    assert got.layer_passes == passes


@needs_deepspeed
@pytest.mark.parametrize(("stage", "weights", "moments"), [(0, 1.0, 1.0), (1, 1.0, 0.5), (2, 1.0, 0.5), (3, 0.0, 0.5)])
def test_a_rank_keeps_its_share_only(ranks: Any, workshop: Any, stage: int, weights: float, moments: float) -> None:
    """In stage 3 a rank has no weights at all between passes, beside its share in another place; shares are padded a bit."""
    size = sum(t.numel() for t in workshop.learner().weights().values())
    for outcome in ranks[2].run(Job(OPTIONS | {"zero_stage": stage}, some_batches(workshop, 1), workshop.model)):
        assert outcome.held[0] == weights * size
        assert outcome.held[1] == pytest.approx(moments * size, rel=0.05)


@needs_deepspeed
@pytest.mark.parametrize("num_ranks", [1, 2])
@pytest.mark.parametrize("packing", [False, True])
def test_stage_3_makes_no_whole_logits_either(ranks: Any, workshop: Any, packing: bool, num_ranks: int) -> None:
    options = OPTIONS | {"zero_stage": 3, "packing": packing}
    job = Job(options, some_batches(workshop, 2), workshop.model, scored=("self_certainty", "entropy"))
    for outcome in ranks[num_ranks].run(job):
        assert outcome.head_width == 1


@needs_deepspeed
@pytest.mark.parametrize("stage", [2, 3])
def test_the_whole_objective_and_packed_rows_agree_too(ranks: Any, workshop: Any, stage: int) -> None:
    objective = {
        "kl_coef": 0.05,
        "kl": "k2",
        "aggregation": "seq-mean-token-mean",
        "entropy": {"coef": 0.02, "top_share": 0.7},
        "importance": {"type": "truncate", "level": "sequence"},
    }
    options = OPTIONS | {"zero_stage": stage, "packing": True}
    job = Job(options, some_batches(workshop, 3), workshop.model, objective=objective, scored=("self_certainty", "entropy"))
    got, want = ranks[2].run(job), torch_outcome(workshop, job)
    assert_agree(got, want)
    for outcome in got:  # also of the second batch, of which a rank has no rows
        for mine, theirs in zip(outcome.scores, want.scores, strict=True):
            assert {name: values.tolist() for name, values in mine.items()} == {
                name: pytest.approx(values.tolist(), abs=1e-4) for name, values in theirs.items()
            }


# --- gradients that are not finite -------------------------------------------------------------------------------------------


@needs_deepspeed
@pytest.mark.parametrize(
    ("stage", "offload", "dtype"),
    [(stage, [], "float32") for stage in STAGES]
    + [(stage, ["optimizer"], "float32") for stage in STAGES[2:]]
    + [(stage, [], "bfloat16") for stage in STAGES[1:]],
)
def test_an_update_that_is_not_finite_is_left_out(ranks: Any, workshop: Any, stage: int, offload: list[str], dtype: str) -> None:
    first, infinite, not_a_number, last = some_batches(workshop, 4)
    for bad, batch in ((np.inf, infinite), (np.nan, not_a_number)):
        batch.advantages[0, batch.response_mask[0]] = bad  # a row of one rank
    options = OPTIONS | {"zero_stage": stage, "offload": offload}
    got = ranks[2].run(Job(options, [first, infinite, not_a_number, last], workshop.model, dtype))
    for outcome in got:
        assert [m["skipped_updates"] for m in outcome.metrics] == [0.0, 1.0, 1.0, 0.0]
        assert outcome.versions == [1, 1, 1, 2]
    rest = Job(options, [first, last], workshop.model, dtype)
    want = torch_outcome(workshop, rest) if dtype == "float32" else ranks[2].run(rest)[0]
    assert furthest(got[0].weights, want.weights) < 1e-5


@needs_deepspeed
def test_too_many_in_a_row_are_an_error_of_every_rank(ranks: Any, workshop: Any) -> None:
    batches = some_batches(workshop, 2)
    for batch in batches:
        batch.advantages[0, batch.response_mask[0]] = np.nan
    for answer in ranks[2].ask(Job(OPTIONS | {"max_skipped_updates": 2}, batches, workshop.model)):
        assert "NotFiniteError: step 2: the gradients of 2 updates in a row are not finite" in str(answer)


# --- bfloat16 ----------------------------------------------------------------------------------------------------------------


@needs_deepspeed
@pytest.mark.parametrize("stage", STAGES[1:])
def test_bfloat16_has_float32_masters(ranks: Any, workshop: Any, stage: int, tmp_path: Path) -> None:
    """AdamW's first step moves a weight by lr * g / (|g| + 1e-8): by the rate, which bfloat16 alone would round away."""
    lr = 1e-5
    options = OPTIONS | {"zero_stage": stage, "lr": lr, "weight_decay": 0.0}
    job = Job(options, some_batches(workshop, 1), workshop.model, "bfloat16", save=tmp_path)
    (got, _) = ranks[2].run(job)
    start = {name: t.bfloat16() for name, t in workshop.learner().weights().items()}
    saved = load_file(tmp_path / "optimizer.safetensors")
    moved = torch.cat([(saved[f"master/{name}"] - t.float()).abs().flatten() for name, t in start.items()])
    assert float((moved - lr).abs().median()) < 1e-7
    assert float(moved.max()) < 1.01 * lr
    same = [float((got.weights[name] == t).float().mean()) for name, t in start.items()]
    assert min(same) > 0.9
    assert {t.dtype for t in got.weights.values()} == {torch.bfloat16}


@needs_deepspeed
def test_bfloat16_learns_as_float32_but_for_rounding(ranks: Any, workshop: Any) -> None:
    job = Job(OPTIONS | {"max_grad_norm": 1e9}, some_batches(workshop, 3), workshop.model, "bfloat16")
    want = torch_outcome(workshop, job)
    for stage in STAGES[1:]:
        got = ranks[2].run(dataclasses.replace(job, options=job.options | {"zero_stage": stage}))
        for mine, theirs in zip(got[1].metrics, want.metrics, strict=True):
            assert mine["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=0.1), stage
            assert mine["loss"] == pytest.approx(theirs["loss"], abs=0.05), stage


# --- options that do not go together -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"zero_stage": 0, "offload": ["optimizer"]}, "optimizer, which needs a zero_stage of 1 or more, not 0"),
        ({"zero_stage": 2, "offload": ["optimizer", "parameters"]}, "parameters, which needs a zero_stage of 3 or more, not 2"),
        ({"zero_stage": 4}, "zero_stage"),
        ({"offload": ["gradients"]}, "offload"),
        ({"num_ranks": 0}, "num_ranks"),
        ({"optimizer": "cpu_adam"}, r"cpu_adam, which works in the host's memory: set offload to \[optimizer\]"),
        ({"zero_stages": 2}, "did you mean 'zero_stage'"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_options("learners", "deepspeed", "learner", options)


@pytest.mark.parametrize(
    ("options", "dtype", "message"),
    [
        ({"zero_stage": 0}, "bfloat16", "'learner.zero_stage' is 0 and 'model.dtype' bfloat16"),
        ({"num_ranks": 2}, "float32", "'learner.num_ranks' is 2, but this process is alone"),
    ],
)
def test_what_cannot_be_trained(monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], dtype: str, message: str) -> None:
    monkeypatch.setattr("harmonyray.learners.deepspeed.require_deepspeed", lambda: None)
    with pytest.raises(ConfigError, match=message):
        DeepSpeedLearner(DeepSpeedLearner.Options.model_validate(options), None, None, "no-model", dtype, 1)  # type: ignore[arg-type]


def test_without_deepspeed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"DeepSpeed is not installed: pip install 'harmonyray\[deepspeed\]'"):
        DeepSpeedLearner(DeepSpeedLearner.Options(), None, None, "no-model", "float32", 1)  # type: ignore[arg-type]
