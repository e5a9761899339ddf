"""Rows laid end to end give what padded rows give, and models that mix them up are found out."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from harmonyray.learners.packing import packed_token_logprobs, packs
from harmonyray.learners.token_logprobs import token_logprobs

LENGTHS = torch.tensor([5, 9, 2, 7])
MODELS: dict[str, tuple[Any, Any]] = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "gemma2": (Gemma2Config, Gemma2ForCausalLM),  # asked for its logits, and with a sliding window
}


def make(name: str, attention: str = "sdpa", **options: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    config, model = MODELS[name]
    sizes = {
        "vocab_size": 40,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "pad_token_id": 0,
        "initializer_range": 0.25,
        "attn_implementation": attention,
    }
    out: PreTrainedModel = model(config(**sizes | options)).eval()
    return out


def padded() -> tuple[Tensor, Tensor, Tensor]:
    """Rows of `LENGTHS`: ids, mask, temperatures."""
    inside = torch.arange(9) < LENGTHS[:, None]
    ids = torch.randint(1, 40, (4, 9), generator=torch.Generator().manual_seed(1)) * inside
    mask = inside & (torch.arange(9) >= torch.tensor([2, 4, 1, 6])[:, None])
    return ids, mask, torch.tensor([1.0, 0.5, 2.0, 0.8])


def flat() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    ids, mask, temperatures = padded()
    inside = torch.arange(9) < LENGTHS[:, None]
    return ids[inside], mask[inside], LENGTHS, temperatures


def gradients(model: PreTrainedModel, values: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    model.zero_grad()
    weight = torch.linspace(-1, 2, len(values[0]))
    ((weight * values[0]).sum() + (weight.flip(0) * values[1]).sum()).backward()  # type: ignore[no-untyped-call]
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_like_padded(model: PreTrainedModel) -> None:
    got = packed_token_logprobs(model, *flat(), entropy_grad=True)
    want = token_logprobs(model, *padded(), entropy_grad=True)
    assert len(got[0]) == 3 + 5 + 1 + 1
    for mine, theirs in zip(got, want, strict=True):
        assert mine.detach().numpy() == pytest.approx(theirs.detach().numpy(), abs=1e-5)
    mine, theirs = gradients(model, got), gradients(model, want)
    assert list(mine) == list(theirs)
    for name in theirs:
        rounding = 1e-5 * max(1.0, float(theirs[name].abs().max()))
        assert mine[name].numpy() == pytest.approx(theirs[name].numpy(), abs=rounding, rel=0), name


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", list(MODELS))
def test_packed_rows_give_what_padded_rows_give(name: str, attention: str) -> None:
    model = make(name, attention)
    assert packs(model)
    assert_like_padded(model)


def test_a_sliding_window_stays_within_a_row() -> None:
    model = make("gemma2", sliding_window=3)
    assert packs(model)
    assert_like_padded(model)


def test_one_row_and_an_entropy_without_a_gradient() -> None:
    model, (ids, mask, _, temperatures) = make("llama"), flat()
    row = slice(5, 14)
    got = packed_token_logprobs(model, ids[row], mask[row], torch.tensor([9]), temperatures[1:2])
    want = token_logprobs(model, ids[None, row], mask[None, row], temperatures[1:2])
    assert got[0].tolist() == pytest.approx(want[0].tolist(), abs=1e-6)
    assert got[0].requires_grad and not got[1].requires_grad


def test_a_response_without_a_prompt_is_refused() -> None:
    ids, mask, lengths, temperatures = flat()
    mask[5] = True  # the second row's first token
    with pytest.raises(AssertionError, match="needs a prompt"):
        packed_token_logprobs(make("llama"), ids, mask, lengths, temperatures)


class Positionless(LlamaForCausalLM):
    """Reads no position ids, as a model of convolutions or states would not."""

    def forward(self, input_ids: Tensor, position_ids: Tensor | None = None, **kwargs: Any) -> Any:  # type: ignore[override]
        return super().forward(input_ids, **kwargs)


class Absolute(GPT2LMHeadModel):
    """Keeps rows apart but numbers tokens from the beginning of the whole."""

    def forward(self, input_ids: Tensor, position_ids: Tensor | None = None, **kwargs: Any) -> Any:  # type: ignore[override]
        if position_ids is None:
            return super().forward(input_ids, **kwargs)
        table, starts = self.transformer.wpe.weight, torch.arange(input_ids.shape[1]) - position_ids
        shifted = self.transformer.wte(input_ids) + table[position_ids + starts] - table[position_ids]
        return super().forward(inputs_embeds=shifted, position_ids=position_ids, **kwargs)


def llama_like(kind: type[PreTrainedModel]) -> PreTrainedModel:
    return kind(make("llama").config).eval()


def positionless() -> PreTrainedModel:
    return llama_like(Positionless)


def absolute() -> PreTrainedModel:
    return Absolute(GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=2, n_positions=32, pad_token_id=0)).eval()


def mamba() -> PreTrainedModel:
    return MambaForCausalLM(MambaConfig(vocab_size=40, hidden_size=16, state_size=4, num_hidden_layers=1)).eval()


def chunked() -> PreTrainedModel:
    model = make("llama")
    model.config.attention_chunk_size = 8192
    return model


@pytest.mark.parametrize(
    ("build", "why"),
    [
        (positionless, "a row's logits depend on the row before it"),
        (absolute, "a row's logits depend on its place among the rows"),
        (mamba, "it takes no position ids"),
        (chunked, "it attends in chunks"),
    ],
)
def test_a_model_that_mixes_rows_up_gets_them_padded(build: Any, why: str, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    model = build()
    with caplog.at_level(logging.WARNING, logger="harmonyray.learners.packing"):
        assert_like_padded(model)
        assert not packs(model)
    said = [r.message for r in caplog.records if r.name == "harmonyray.learners.packing"]
    assert len(said) == 1 and why in said[0]
