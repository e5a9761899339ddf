"""A tiny random model with dropout in its config (which training must not switch on), and batches for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from deepspeed_ranks import Ranks
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from harmonyray.algos.losses.ppo_clip import PpoClip
from harmonyray.config_objective import ObjectiveOptions, ObjectiveSettings
from harmonyray.learners.torch import TorchLearner
from harmonyray.types import Batch

VOCABULARY = 24


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The directory of a two-layer Llama with tied embeddings and a vocabulary of 24."""
    directory = tmp_path_factory.mktemp("learner-model")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.25,
        attention_dropout=0.5,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    words = {"<pad>": 0, "<eos>": 1, "<bos>": 2} | {chr(ord("a") + i): 3 + i for i in range(VOCABULARY - 3)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<pad>")), eos_token="<eos>", pad_token="<pad>"
    )
    tokenizer.save_pretrained(directory)
    return str(directory)


class Workshop:
    """Makes learners on the tiny model, and batches of made-up rollouts."""

    def __init__(self, model: str) -> None:
        self.model = model

    def learner(
        self,
        clip: float = 0.2,
        steps: int = 10,
        kl_coef: float = 0.005,
        objective: dict[str, Any] | None = None,
        loss: Any = None,
        seed: int = 0,
        **options: Any,
    ) -> TorchLearner:
        """A constant rate of 0.01, no warm-up, PPO's loss against the engine's log-probs, unless told otherwise."""
        wanted = {"kl_coef": kl_coef, "importance": {"type": "none"}} | (objective or {})
        settings = ObjectiveSettings(ObjectiveOptions.model_validate(wanted), (1.0, 1.0, 1.0), 8)
        chosen = {"lr": 0.01, "schedule": "constant", "warmup_share": 0.0, "max_grad_norm": 1e9} | options
        policy_loss = loss or PpoClip(PpoClip.Options(clip_low=min(clip, 1.0), clip_high=clip))
        checked = TorchLearner.Options.model_validate(chosen)
        return TorchLearner(checked, policy_loss, settings, self.model, "float32", steps, seed)

    def batch(self, num_rows: int = 9, num_views: int = 2, seed: int = 0, temperature: float = 1.0) -> Batch:
        """Rows of different prompt and response lengths. The engine's log-probs are near the model's and a bit off, so that
        ratios lie on both sides of the clip."""
        rng = np.random.default_rng(seed)
        prompts, responses = rng.integers(1, 7, num_rows), rng.integers(1, 9, num_rows)
        lengths = prompts + responses
        shape = (num_rows, int(lengths.max()))
        ids, mask = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=bool)
        for b in range(num_rows):
            ids[b, : lengths[b]] = rng.integers(3, VOCABULARY, lengths[b])
            mask[b, prompts[b] : lengths[b]] = True
        old = np.where(mask, naive_logprobs(self.model, ids, lengths, temperature) + rng.normal(0, 0.3, shape), 0)
        advantages = np.where(mask, rng.normal(0, 1, (num_rows, 1)), 0)
        view = np.sort(rng.integers(0, num_views, num_rows))
        return Batch(
            ids,
            lengths,
            mask,
            old.astype(np.float32),
            advantages.astype(np.float32),
            view,
            np.full(num_rows, temperature, np.float32),
            np.arange(num_rows) // 2,
        )


@torch.no_grad()
def naive_logprobs(directory: str | Path, ids: np.ndarray, lengths: np.ndarray, temperature: float) -> np.ndarray:
    """Log-prob of each token given those before it, one row at a time without padding; 0 elsewhere, float64[B, T]."""
    model = LlamaForCausalLM.from_pretrained(directory).eval()
    out = np.zeros(ids.shape)
    for b, n in enumerate(lengths):
        logits = model(input_ids=torch.from_numpy(ids[b : b + 1, :n])).logits[0].double() / temperature
        for t in range(1, n):
            out[b, t] = float(torch.log_softmax(logits[t - 1], -1)[ids[b, t]])
    return out


@pytest.fixture
def workshop(tiny_model: str) -> Workshop:
    return Workshop(tiny_model)


@pytest.fixture(scope="session")
def ranks() -> Iterator[dict[int, Ranks]]:
    """DeepSpeed learners: one process, and two that belong together. They leave nothing in shared memory."""
    before = set(Path("/dev/shm").glob("deepspeed*"))
    started = {1: Ranks(1), 2: Ranks(2)}
    yield started
    for each in started.values():
        each.close()
    assert not any(process.is_alive() for each in started.values() for process in each.processes)
    assert set(Path("/dev/shm").glob("deepspeed*")) <= before
