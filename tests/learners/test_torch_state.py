"""The learner over several steps: learning rate, gradient norm, versions, checkpoints, the reference model."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor

from harmonyray.algos.losses.ppo_clip import PpoClip
from harmonyray.config import load_config
from harmonyray.config_objective import ObjectiveOptions, ObjectiveSettings
from harmonyray.engines.hf import HfEngine
from harmonyray.engines.loading import model_path
from harmonyray.engines.weights import checksum
from harmonyray.errors import AlteredWeightsError, CheckpointError, ConfigError, StaleWeightsError
from harmonyray.inprocess import InProcessRuntime
from harmonyray.learners.schedules import learning_rate
from harmonyray.learners.torch import TorchLearner
from harmonyray.protocols import Ask
from harmonyray.types import Batch, GroupRows, Problem, Prompt, SampleRequest, Sampling
from harmonyray.views.solver import Solver

ROLLOUT = load_config("quickstart").rollout
SETTINGS = ObjectiveSettings(ObjectiveOptions(), (1.0,), 8)


def rates(workshop: Any, steps: int, **options: Any) -> list[float]:
    learner = workshop.learner(steps=steps, lr=1.0, **options)
    return [learning_rate(learner.options, step, steps) for step in range(1, steps + 1)]


# --- the schedule ----------------------------------------------------------------------------------------------------


def test_constant_rate(workshop: Any) -> None:
    assert rates(workshop, 5) == [1.0] * 5
    assert rates(workshop, 5, warmup_share=0.4) == pytest.approx([0.5, 1.0, 1.0, 1.0, 1.0])


def test_cosine_rate_by_hand(workshop: Any) -> None:
    # (1 + cos(pi k / 4)) / 2 for k = 0..3; the rate would be 0 after the last step.
    want = [1.0, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]
    assert rates(workshop, 4, schedule="cosine") == pytest.approx(want)


def test_warm_up_then_cosine_by_hand(workshop: Any) -> None:
    # 10 steps, 40 % warm-up: 1/4, 2/4, 3/4, 1, then (1 + cos(pi k / 6)) / 2 for k = 0..5.
    root = math.sqrt(3) / 2
    want = [0.25, 0.5, 0.75, 1.0, 1.0, (1 + root) / 2, 0.75, 0.5, 0.25, (1 - root) / 2]
    assert rates(workshop, 10, schedule="cosine", warmup_share=0.4) == pytest.approx(want)


def test_warm_up_has_at_least_one_step_and_one_step_is_enough(workshop: Any) -> None:
    # Even the first step trains: the rate is never 0.
    assert rates(workshop, 1, schedule="cosine", warmup_share=0.1) == [1.0]
    assert rates(workshop, 3, schedule="cosine", warmup_share=0.1) == pytest.approx([1.0, 1.0, 0.5])
    assert rates(workshop, 2, schedule="constant", warmup_share=0.99) == pytest.approx([0.5, 1.0])


def test_the_steps_number_sets_the_rate_not_the_number_of_updates(workshop: Any) -> None:
    learner = workshop.learner(steps=10, lr=0.02, schedule="cosine", warmup_share=0.4)
    assert learner.update(workshop.batch(), 2).metrics["lr"] == pytest.approx(0.01)
    # Steps without an update pass.
    assert learner.update(workshop.batch(), 8).metrics["lr"] == pytest.approx(0.01)
    assert learner.policy_version == 2


def test_the_rate_is_what_the_optimizer_uses(workshop: Any) -> None:
    """AdamW's first step moves a weight by lr * g / (|g| + 1e-8)."""
    learner = workshop.learner(lr=0.02, steps=10, warmup_share=0.4)
    before = {name: t.clone() for name, t in learner.weights().items()}
    learner.update(workshop.batch(), 1)
    for name, p in learner.model.named_parameters():
        moved = p.detach() - before[name]
        assert moved.numpy() == pytest.approx((-0.005 * p.grad / (p.grad.abs() + 1e-8)).numpy(), abs=1e-6), name


def test_weight_decay(workshop: Any) -> None:
    plain, decayed = workshop.learner(), workshop.learner(weight_decay=0.1)
    start = {name: t.clone() for name, t in plain.weights().items()}
    plain.update(workshop.batch(), 1)
    decayed.update(workshop.batch(), 1)
    for name, t in plain.weights().items():
        # lr * decay * weight
        assert (t - decayed.weights()[name]).numpy() == pytest.approx((0.01 * 0.1 * start[name]).numpy(), abs=1e-6)


# --- the norm --------------------------------------------------------------------------------------------------------


def norm_of(learner: TorchLearner) -> float:
    return math.sqrt(sum(float((p.grad.double() ** 2).sum()) for p in learner.model.parameters() if p.grad is not None))


def test_max_grad_norm(workshop: Any) -> None:
    free = workshop.learner()
    norm = free.update(workshop.batch(), 1).metrics["grad_norm"]
    assert norm_of(free) == pytest.approx(norm, rel=1e-4)
    bounded = workshop.learner(max_grad_norm=norm / 10)
    # The metric is the norm before clipping.
    assert bounded.update(workshop.batch(), 1).metrics["grad_norm"] == pytest.approx(norm, rel=1e-4)
    assert norm_of(bounded) == pytest.approx(norm / 10, rel=1e-4)
    for a, b in zip(free.model.parameters(), bounded.model.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert b.grad.numpy() == pytest.approx((a.grad / 10).numpy(), abs=1e-6)


def test_gradients_do_not_pile_up(workshop: Any) -> None:
    learner = workshop.learner(lr=1e-12)
    norms = [learner.update(workshop.batch(), 1).metrics["grad_norm"] for _ in range(3)]
    assert norms[1:] == pytest.approx([norms[0]] * 2, rel=1e-4)


# --- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lr", "max_grad_norm", "max_tokens_per_micro_batch"])
def test_options_that_must_be_positive(name: str) -> None:
    with pytest.raises(ValidationError):
        TorchLearner.Options.model_validate({name: 0})


@pytest.mark.parametrize("bad", [{"warmup_share": 1.0}, {"warmup_share": -0.1}, {"schedule": "linear"}, {"lrr": 1}])
def test_bad_options(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TorchLearner.Options.model_validate(bad)


def test_no_kl_no_reference(workshop: Any) -> None:
    assert workshop.learner(kl_coef=0.0).reference is None
    learner = workshop.learner(kl_coef=0.1)
    assert learner.reference is not None
    assert not any(p.requires_grad for p in learner.reference.parameters())
    assert not {p.data_ptr() for p in learner.reference.parameters()} & {p.data_ptr() for p in learner.model.parameters()}


def test_dropout_stays_off(workshop: Any) -> None:
    learner = workshop.learner(lr=1e-12)
    assert learner.model.config.attention_dropout == 0.5
    metrics = [learner.update(workshop.batch(), 1).metrics["engine_gap_mean"] for _ in range(2)]
    assert metrics[0] == pytest.approx(metrics[1], abs=1e-6)


# --- versions, reference, checkpoints --------------------------------------------------------------------------------


def copied(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.clone() for name, t in weights.items()}


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert list(one) == list(other)
    for name, t in one.items():
        assert torch.equal(t, other[name]), name


def test_versions_count_updates(workshop: Any) -> None:
    learner = workshop.learner()
    assert learner.policy_version == 0
    assert [learner.update(workshop.batch(), step).policy_version for step in (1, 4, 9)] == [1, 2, 3]
    assert learner.policy_version == 3


def test_the_reference_stays_the_first_model(workshop: Any) -> None:
    learner = workshop.learner(kl_coef=0.1)
    first = copied(learner.weights())
    # At the start the policy is the reference.
    assert learner.update(workshop.batch(), 1).metrics["kl"] == pytest.approx(0, abs=1e-9)
    assert learner.update(workshop.batch(), 2).metrics["kl"] > 1e-4
    assert_equal(dict(learner.reference.named_parameters()), first)
    assert any(not torch.equal(t, first[name]) for name, t in learner.weights().items())


@pytest.mark.parametrize("options", [{}, {"schedule": "cosine", "warmup_share": 0.3, "weight_decay": 0.1, "max_grad_norm": 0.5}])
def test_a_loaded_learner_goes_on_bit_for_bit(workshop: Any, tmp_path: Path, options: dict[str, Any]) -> None:
    options = {"kl_coef": 0.1, "max_tokens_per_micro_batch": 40} | options
    batches = [workshop.batch(seed=s) for s in range(4)]
    straight = workshop.learner(**options)
    for step in (1, 2):
        straight.update(batches[step - 1], step)
    straight.save(tmp_path)
    saved = copied(straight.weights())
    want = [straight.update(batches[step - 1], step) for step in (3, 4)]

    resumed = workshop.learner(**options)
    initial = copied(resumed.weights())
    resumed.load(tmp_path)
    assert resumed.policy_version == 2
    assert_equal(resumed.weights(), saved)
    got = [resumed.update(batches[step - 1], step) for step in (3, 4)]
    assert_equal(resumed.weights(), straight.weights())
    assert got == want
    # The reference is what the run started from, not the checkpoint.
    assert_equal(dict(resumed.reference.named_parameters()), initial)


def test_loading_takes_back_later_updates(workshop: Any, tmp_path: Path) -> None:
    learner = workshop.learner()
    learner.update(workshop.batch(), 1)
    learner.save(tmp_path)
    want = learner.update(workshop.batch(seed=1), 2)
    weights = copied(learner.weights())
    learner.update(workshop.batch(seed=2), 3)
    learner.load(tmp_path)
    assert learner.update(workshop.batch(seed=1), 2) == want
    assert_equal(learner.weights(), weights)


def test_a_saved_model_is_a_hugging_face_model(workshop: Any, tmp_path: Path) -> None:
    learner = workshop.learner()
    learner.update(workshop.batch(), 1)
    learner.save_model(tmp_path)
    engine = HfEngine(HfEngine.Options(), str(tmp_path))
    assert checksum(engine.weights()) == checksum(learner.weights())
    assert engine.tokenizer.get_vocab() == learner.tokenizer.get_vocab()


def test_a_missing_checkpoint(workshop: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"step-000001' cannot be loaded .*does not exist.*: delete it to resume"):
        workshop.learner().load(tmp_path / "step-000001")


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "junk"])
@pytest.mark.parametrize("name", ["optimizer.safetensors", "learner.json", "model/model.safetensors", "model/config.json"])
def test_a_damaged_checkpoint_leaves_the_version_alone(workshop: Any, tmp_path: Path, name: str, damage: str) -> None:
    learner = workshop.learner()
    learner.update(workshop.batch(), 1)
    learner.save(tmp_path)
    path = tmp_path / name
    content = path.read_bytes()
    path.write_bytes({"truncated": content[: len(content) // 2], "junk": b"junk"}.get(damage, b""))
    if damage == "missing":
        path.unlink()
    fresh = workshop.learner()
    before = copied(fresh.weights())
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        fresh.load(tmp_path)
    assert fresh.policy_version == 0
    assert_equal(fresh.weights(), before)


def test_a_checkpoint_of_another_model(workshop: Any, tmp_path: Path) -> None:
    learner = workshop.learner()
    learner.save(tmp_path)
    shutil.rmtree(tmp_path / "model")
    shutil.copytree(model_path("quickstart"), tmp_path / "model")
    with pytest.raises(CheckpointError, match="the model that is trained has"):
        learner.load(tmp_path)


def test_what_lies_in_a_checkpoint(workshop: Any, tmp_path: Path) -> None:
    """AdamW's moments by hand: after the first step 0.1 g and 0.001 g^2."""
    learner = workshop.learner()
    learner.update(workshop.batch(), 1)
    learner.save(tmp_path)
    tensors = load_file(tmp_path / "optimizer.safetensors")
    parameters = dict(learner.model.named_parameters())
    assert set(tensors) == {f"{key}/{name}" for key in ("exp_avg", "exp_avg_sq") for name in parameters}
    for name, p in parameters.items():
        assert tensors[f"exp_avg/{name}"].numpy() == pytest.approx(0.1 * p.grad.numpy(), rel=1e-4, abs=1e-9)
        assert tensors[f"exp_avg_sq/{name}"].numpy() == pytest.approx(0.001 * p.grad.numpy() ** 2, rel=1e-4, abs=1e-9)
    assert json.loads((tmp_path / "learner.json").read_text()) == {"policy_version": 1, "lr_scale": 1.0}


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_an_update_that_is_not_finite_is_left_out(workshop: Any, bad: float) -> None:
    learner, want = workshop.learner(), workshop.learner()
    assert learner.update(workshop.batch(), 1).metrics["skipped_updates"] == 0.0
    want.update(workshop.batch(), 1)
    broken = workshop.batch(seed=1)
    broken.advantages[0, broken.response_mask[0]] = bad
    report = learner.update(broken, 2)
    assert report.metrics["skipped_updates"] == 1.0
    assert report.policy_version == learner.policy_version == 1
    assert_equal(learner.weights(), want.weights())
    assert learner.update(workshop.batch(seed=2), 3) == want.update(workshop.batch(seed=2), 3)
    assert_equal(learner.weights(), want.weights())


# --- to the engine, in one process -----------------------------------------------------------------------------------


def test_sync_brings_the_engine_to_the_learners_version(workshop: Any) -> None:
    learner = workshop.learner(lr=0.1)
    runtime = InProcessRuntime(HfEngine(HfEngine.Options(), workshop.model), learner, ROLLOUT)
    asks, problems = [Ask(Solver("solver", Solver.Options(template="{question}")), 8, Sampling(12))], [Problem("p", "a")]

    def sample(version: int) -> Any:
        (item,) = runtime.sample(asks, problems, version, (0,))
        return item

    def tokens(item: Any) -> list[list[int]]:
        return [r.token_ids.tolist() for r in item.fetch()[0]]

    before = sample(0)
    plan = [GroupRows(before.groups[0].kept, False, np.linspace(-1, 1, 8), 0, 1.0, 0)]
    assert runtime.update(plan, 1).policy_version == runtime.policy_version == 1
    # The learner's model is not the engine's: nothing moves before the sync.
    assert runtime.engine_version == 0
    with pytest.raises(StaleWeightsError):
        sample(1)
    assert tokens(sample(0)) == tokens(before)
    assert runtime.sync()["seconds"] >= 0
    after = sample(1)
    assert {r.policy_version for r in after.fetch()[0]} == {1} == {runtime.engine_version}
    assert tokens(after) != tokens(before)
    assert_equal(runtime.engine.weights(), learner.weights())
    # And the next update does not reach into the engine.
    held = checksum(runtime.engine.weights())
    runtime.update(plan, 2)
    assert checksum(runtime.engine.weights()) == held


def test_weights_altered_on_the_way_are_an_error(workshop: Any) -> None:
    class Careless(HfEngine):
        def load_weights(self, weights: Any, policy_version: int) -> int:
            return super().load_weights({name: t * 1.0000002 for name, t in weights.items()}, policy_version)

    runtime = InProcessRuntime(Careless(HfEngine.Options(), workshop.model), workshop.learner(), ROLLOUT)
    with pytest.raises(AlteredWeightsError, match="weights altered on the way to the engine"):
        runtime.sync()
    # Another precision is one way to alter them.
    runtime = InProcessRuntime(HfEngine(HfEngine.Options(), workshop.model, "bfloat16"), workshop.learner(), ROLLOUT)
    with pytest.raises(AlteredWeightsError):
        runtime.sync()


def test_an_engines_logprobs_are_the_learners(workshop: Any) -> None:
    """Sampling, batching and training agree on what a token's log-prob is: the first update's ratio is 1."""
    temperature = 0.8
    engine = HfEngine(HfEngine.Options(), workshop.model)
    prompts = [Prompt("p", "v", text="a"), Prompt("q", "v", text="b")]
    requests = [SampleRequest(p, tuple(range(4)), Sampling(10, temperature)) for p in prompts]
    rows = [r for group in engine.sample(requests, 0) for r in group]
    lengths = np.array([len(r.prompt_ids) + len(r.token_ids) for r in rows])
    ids, mask = np.zeros((8, lengths.max()), dtype=np.int64), np.zeros((8, lengths.max()), dtype=bool)
    old = np.zeros((8, lengths.max()), dtype=np.float32)
    for b, r in enumerate(rows):
        ids[b, : lengths[b]] = [*r.prompt_ids, *r.token_ids]
        mask[b, len(r.prompt_ids) : lengths[b]] = True
        old[b, len(r.prompt_ids) : lengths[b]] = r.logprobs
    batch = Batch(
        ids,
        lengths,
        mask,
        old,
        mask.astype(np.float32),
        np.zeros(8, dtype=np.int64),
        np.full(8, temperature, np.float32),
        np.repeat([0, 1], 4),
    )
    metrics = workshop.learner().update(batch, 1).metrics
    assert metrics["engine_gap_max"] < 1e-5
    assert metrics["clipped"] == 0
    assert metrics["loss"] == pytest.approx(-1, abs=1e-5)


def test_a_learner_without_master_weights_refuses_half_precision(workshop: Any) -> None:
    with pytest.raises(ConfigError, match=r"'model\.dtype' is bfloat16: .*float32 master weights"):
        TorchLearner(TorchLearner.Options(), PpoClip(PpoClip.Options()), SETTINGS, workshop.model, "bfloat16", steps=1)
