"""Tiny random models of several architectures, saved like any Hugging Face model, and the engines on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)
from vllm_process import VllmProcess

from harmonyray.engines.hf import HfEngine

WORDS = [chr(c) for c in range(ord("a"), ord("z") + 1)]
PAD, EOS, BOS = 0, 1, 2
CHAT_TEMPLATE = (
    "{{ bos_token }} {% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)
SMALL: dict[str, Any] = {
    "vocab_size": 32,
    "pad_token_id": PAD,
    "eos_token_id": EOS,
    "bos_token_id": BOS,
    "initializer_range": 0.25,
}
LAYERS: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
CONFIGS: dict[str, Any] = {
    "llama": LlamaConfig(**SMALL, **LAYERS, num_key_value_heads=2),
    # vLLM on a CPU computes attention with heads of 32, 64, ... elements only.
    "llama_wide_heads": LlamaConfig(**SMALL, **LAYERS, num_key_value_heads=2, head_dim=32),
    "qwen2_tied": Qwen2Config(**SMALL, **LAYERS, num_key_value_heads=1, tie_word_embeddings=True),
    "gpt_neox": GPTNeoXConfig(**SMALL, **LAYERS),
    "gpt2_wide": GPT2Config(**SMALL, n_embd=128, n_layer=2, n_head=4, n_positions=128),
    "gpt2": GPT2Config(**SMALL, n_embd=32, n_layer=2, n_head=4, n_positions=128),
    # Windows shorter than the prompts, so that the window matters.
    "mistral_window": MistralConfig(**SMALL, **LAYERS, num_key_value_heads=2, sliding_window=5),
    "gemma3_window": Gemma3TextConfig(
        **SMALL,
        **LAYERS,
        num_key_value_heads=1,
        head_dim=8,
        sliding_window=5,
        layer_types=["sliding_attention", "full_attention"],
        tie_word_embeddings=False,
    ),
}


def word_tokenizer(adds_bos: bool) -> PreTrainedTokenizerFast:
    """One token a word: letters, roles, specials; with or without a leading bos."""
    vocab = {word: i for i, word in enumerate(["<pad>", "<eos>", "<bos>", "user", "assistant", "<unk>", *WORDS])}
    core = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if adds_bos:
        core.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", BOS)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", unk_token="<unk>"
    )


SaveModel = Callable[..., str]


@pytest.fixture(scope="session")
def save_model(tmp_path_factory: pytest.TempPathFactory) -> SaveModel:
    """`save_model("llama")` -> the directory of a model with random weights, the same in every session."""
    saved: dict[tuple[Any, ...], str] = {}

    def save(name: str, seed: int = 0, adds_bos: bool = False, chat: bool = False, stop_ids: tuple[int, ...] = (EOS,)) -> str:
        key = (name, seed, adds_bos, chat, stop_ids)
        if key not in saved:
            directory: Path = tmp_path_factory.mktemp(name)
            torch.manual_seed(seed)
            model = AutoModelForCausalLM.from_config(CONFIGS[name])
            model.generation_config.eos_token_id = list(stop_ids)
            model.save_pretrained(directory)
            tokenizer = word_tokenizer(adds_bos)
            tokenizer.chat_template = CHAT_TEMPLATE if chat else None
            tokenizer.save_pretrained(directory)
            saved[key] = str(directory)
        return saved[key]

    return save


MakeEngine = Callable[..., HfEngine]


@pytest.fixture(scope="session")
def engine_of(save_model: SaveModel) -> MakeEngine:
    """`engine_of("llama", max_batch_rows=4)`; "quickstart" is the shipped model. Do not change what it returns."""
    engines: dict[tuple[Any, ...], HfEngine] = {}

    def make(name: str, max_batch_rows: int = 512) -> HfEngine:
        key = (name, max_batch_rows)
        if key not in engines:
            path = name if name == "quickstart" else save_model(name)
            engines[key] = HfEngine(HfEngine.Options(max_batch_rows=max_batch_rows), path)
        return engines[key]

    return make


@pytest.fixture(scope="session")
def vllm_process() -> Iterator[VllmProcess]:
    """One process with vLLM for the whole session: importing it takes ten seconds, and changes its process for good."""
    process = VllmProcess()
    yield process
    process.close()


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
