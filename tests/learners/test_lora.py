"""Low-rank adapters: what is trained, what engines and checkpoints get, and that the run's first model stays."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from run_helpers import rows, samples, small_run, steady, weights
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from harmonyray.engines.loading import load_model, weight_shapes
from harmonyray.engines.weights import named_weights, specs
from harmonyray.errors import CheckpointError, ConfigError
from harmonyray.learners import lora
from harmonyray.learners.lora import Adapter, LoraOptions
from harmonyray.learners.torch import TorchLearner

LORA = {"rank": 2, "alpha": 6}  # a scale of 3
SMALL_LORA = ("learner.lora.rank=4", "steps=4", "eval.every=0", "checkpoint.every=2")


def shake_adapter(learner: TorchLearner) -> None:
    """Moves the policy away from the model that the run began with (B is 0 at first)."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in learner.parameters.values():
            p.add_(torch.randn(p.shape, generator=generator), alpha=0.2)


def assert_equal(got: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    assert list(got) == list(want)
    for name, tensor in want.items():
        assert torch.equal(got[name], tensor), name


def test_it_begins_as_the_model_and_has_its_names(workshop: Any) -> None:
    learner = workshop.learner(lora=LORA)
    assert_equal(learner.weights(), named_weights(load_model(workshop.model, "float32")))
    assert specs(learner.weights()) == specs(weight_shapes(workshop.model, "float32"))
    # Two layers of seven linear ones, two matrices each; hidden size 16, MLP 24, one key-value head of 8.
    assert len(learner.parameters) == 28
    assert sum(p.numel() for p in learner.parameters.values()) == 2 * 2 * (2 * (16 + 16) + 2 * (16 + 8) + 3 * (16 + 24))
    assert learner.reference is learner.model


def test_the_gradient_is_that_of_the_whole_weights_through_the_product(workshop: Any) -> None:
    """With W = W0 + 3 B A and G the gradient by W, that by B is 3 G Aᵀ and that by A is 3 Bᵀ G. The KL is to W0, with adapters
    off."""
    learner = workshop.learner(lora=LORA, kl_coef=0.5)
    shake_adapter(learner)
    plain = workshop.learner(kl_coef=0.5)
    plain.model.load_state_dict(learner.weights(), strict=False)
    batch, before = workshop.batch(num_rows=12, seed=3), learner.weights()
    held = {name: p.detach().clone() for name, p in learner.parameters.items()}
    reports = [x.update(batch, 1).metrics for x in (learner, plain)]
    assert reports[0]["kl"] > 0.01
    for name in ("kl", "loss", "policy_loss", "entropy"):
        assert reports[0][name] == pytest.approx(reports[1][name], abs=1e-5)
    whole = dict(plain.model.named_parameters())
    for name, p in learner.parameters.items():
        layer, _, which = name.removesuffix(".default.weight").rpartition(".")
        a, b = (held[f"{layer}.{m}.default.weight"] for m in ("lora_A", "lora_B"))
        g = whole[f"{layer}.weight"].grad
        want = 3 * b.T @ g if which == "lora_A" else 3 * g @ a.T
        assert p.grad.numpy() == pytest.approx(want.numpy(), abs=2e-5), name
    changed = {name for name, w in learner.weights().items() if not torch.equal(w, before[name])}
    assert changed == {f"{name}.weight" for name in learner.adapter.layers}


def test_the_models_own_weights_stay_and_the_broadcast_ones_are_the_policys(workshop: Any, tmp_path: Path) -> None:
    learner, base = workshop.learner(lora=LORA), LlamaForCausalLM.from_pretrained(workshop.model).eval()
    for step in range(1, 4):
        learner.update(workshop.batch(seed=step), step)
    ids = torch.arange(3, 12)[None]
    with learner.adapter.off():
        assert torch.equal(learner.model(input_ids=ids).logits, base(input_ids=ids).logits)
    policy = learner.model(input_ids=ids).logits.detach()
    assert (policy - base(input_ids=ids).logits).abs().max() > 0.01
    learner.save_model(tmp_path / "plain")
    plain, info = AutoModelForCausalLM.from_pretrained(tmp_path / "plain", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert_equal(named_weights(plain), learner.weights())
    assert plain.eval()(input_ids=ids).logits.detach().numpy() == pytest.approx(policy.numpy(), abs=1e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_a_resumed_learner_computes_the_same(workshop: Any, tmp_path: Path, dropout: float) -> None:
    learner = workshop.learner(lora=LORA | {"dropout": dropout})
    for step in (1, 2):
        learner.update(workshop.batch(seed=step), step)
    learner.save(tmp_path / "two")
    assert_equal(named_weights(load_model(str(tmp_path / "two" / "model"), "float32")), learner.weights())
    other = workshop.learner(lora=LORA | {"dropout": dropout})
    torch.rand(5)  # nothing hangs on what else was drawn
    other.load(tmp_path / "two")
    assert_equal(other.weights(), learner.weights())
    for step in (3, 4):
        want = learner.update(workshop.batch(seed=step), step)
        assert other.update(workshop.batch(seed=step), step) == want
    assert_equal(other.weights(), learner.weights())


def test_the_seed_is_the_beginning_and_what_is_dropped(workshop: Any) -> None:
    learners = [workshop.learner(lora=LORA | {"dropout": 0.4}, seed=seed) for seed in (1, 1, 2)]
    beginnings = [{name: p.detach().clone() for name, p in x.parameters.items()} for x in learners]
    assert_equal(beginnings[1], beginnings[0])
    assert all(torch.equal(p, beginnings[0][name]) == ("lora_B" in name) for name, p in beginnings[2].items())  # B is 0
    for learner in learners:  # alike from here on but for what is dropped
        for name, p in learner.parameters.items():
            p.data.copy_(beginnings[0][name])
        shake_adapter(learner)
    gaps = [learner.update(workshop.batch(), 1).metrics["engine_gap_mean"] for learner in learners]
    assert gaps[0] == gaps[1] != pytest.approx(gaps[2], abs=1e-5)


def test_dropout_acts_in_updates_only(workshop: Any) -> None:
    reports = [workshop.learner(lora=LORA | {"dropout": share}) for share in (0.0, 0.5)]
    for learner in reports:
        shake_adapter(learner)
    ids = torch.arange(3, 12)[None]
    logits = [learner.model(input_ids=ids).logits for learner in reports]
    assert torch.equal(*logits)
    gaps = [learner.update(workshop.batch(), 1).metrics["engine_gap_mean"] for learner in reports]
    assert gaps[0] != pytest.approx(gaps[1], abs=1e-3)


def test_an_adapter_of_another_size_is_refused(workshop: Any, tmp_path: Path) -> None:
    workshop.learner(lora=LORA).save(tmp_path)
    for other in (workshop.learner(lora={"rank": 3}), workshop.learner()):
        before = other.weights()
        with pytest.raises(CheckpointError, match="cannot be loaded"):
            other.load(tmp_path)
        assert_equal(other.weights(), before)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["q_prj"], "does not fit the model: Target modules {'q_prj'} not found"),
        (["lm_head"], "names 'lm_head', which has a weight that the model also uses elsewhere"),
        (["q_proj", "embed_tokens"], "names 'model.embed_tokens', which is no linear layer"),
    ],
)
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
def test_layers_that_cannot_have_one(workshop: Any, targets: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        workshop.learner(lora={"target_modules": targets})


def test_chosen_layers(workshop: Any) -> None:
    learner = workshop.learner(lora=LORA | {"target_modules": ["q_proj", "v_proj"]})
    assert [name.rsplit(".", 1)[1] for name in learner.adapter.layers] == ["q_proj", "v_proj"] * 2


def test_without_peft_it_says_what_to_install(workshop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lora.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"PEFT is not installed: pip install 'harmonyray\[lora\]'"):
        workshop.learner(lora=LORA)


def test_a_bias_and_untied_weights_keep_their_names() -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    sizes = {"vocab_size": 24, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    config = Qwen2Config(**sizes, num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=False)
    model = Qwen2ForCausalLM(config)
    want = {name: w.clone() for name, w in named_weights(copy.deepcopy(model)).items()}
    assert "model.layers.0.self_attn.q_proj.bias" in want and "lm_head.weight" in want
    adapter = Adapter(model, LoraOptions(rank=2), 0)
    assert_equal(adapter.merged(named_weights(model)), want)


def test_a_run_with_an_adapter_and_its_resumption(tmp_path: Path) -> None:
    """Engines take the merged weights (the checksum of what they hold is compared), the saved model is a plain one."""
    small_run(tmp_path / "whole", *SMALL_LORA)
    small_run(tmp_path / "parts", *SMALL_LORA, "steps=2")
    small_run(tmp_path / "parts", *SMALL_LORA, resume=True)
    # The shorter run has evaluated at its own end.
    assert len(rows(tmp_path / "whole")) == 4
    assert steady(tmp_path / "parts")[2:] == steady(tmp_path / "whole")[2:]
    assert weights(tmp_path / "parts" / "model") == weights(tmp_path / "whole" / "model")
    assert samples(tmp_path / "parts") == samples(tmp_path / "whole")
    names = {p.name for p in (tmp_path / "whole" / "model").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not any("adapter" in name for name in names)
    assert rows(tmp_path / "whole")[0]["train/kl"] == pytest.approx(0, abs=1e-9)
    assert rows(tmp_path / "whole")[3]["train/kl"] > 1e-7
