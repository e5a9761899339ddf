"""Greedy tokens against `generate`, log-probs against a teacher-forced forward: every architecture, prompts of mixed length."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from asking import sampled

from harmonyray.engines.hf import HfEngine
from harmonyray.types import Prompt, Rollout, SampleRequest, Sampling

TINY = ["llama", "qwen2_tied", "gpt_neox", "gpt2", "mistral_window", "gemma3_window"]
WORD_PROMPTS = ["a", "b c d", "q w e r t y u i o p a s d f g h", "z x c v b n m", "e e", "k j h g f d s a p o"]
SUMS = ["SOLVE: 52-37\n", "REFRAME: 61-28\n", "SOLVE: ", "SOLVE: 98-81\n12-7=5 4"]
GREEDY = Sampling(24, temperature=0)
MakeEngine = Callable[..., HfEngine]


def ask(texts: list[str], num_samples: int = 1, seed: int = 0, sampling: Sampling = GREEDY) -> list[SampleRequest]:
    return [
        SampleRequest(Prompt(str(i), "solver", text=text), tuple(range(seed + 100 * i, seed + 100 * i + num_samples)), sampling)
        for i, text in enumerate(texts)
    ]


def reference_greedy(engine: HfEngine, prompt_ids: list[int], max_tokens: int) -> list[int]:
    """What transformers' own loop generates for one prompt alone, stop token included."""
    ids = torch.tensor([prompt_ids], device=engine.model.device)
    out = engine.model.generate(  # type: ignore[operator]
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=max_tokens,
        top_k=None,
        temperature=None,
    )
    return out[0, len(prompt_ids) :].tolist()


@torch.no_grad()
def reference_logprobs(engine: HfEngine, rollout: Rollout, temperature: float) -> torch.Tensor:
    """Full distributions at the response positions from one forward over prompt and response, [T, vocabulary]."""
    ids = torch.tensor([rollout.prompt_ids.tolist() + rollout.token_ids.tolist()], device=engine.model.device)
    logits = engine.model(input_ids=ids, use_cache=False).logits[0, len(rollout.prompt_ids) - 1 : -1]
    return torch.log_softmax(logits.double() / temperature, dim=-1).cpu()


@pytest.mark.parametrize("name", ["quickstart", *TINY])
def test_greedy_equals_generate(engine_of: MakeEngine, name: str) -> None:
    engine, texts = engine_of(name), SUMS if name == "quickstart" else WORD_PROMPTS
    got = engine.sample(ask(texts, sampling=Sampling(24, temperature=0)), 0)
    for text, (rollout,) in zip(texts, got, strict=True):
        assert rollout.prompt_ids.tolist() == engine.tokenizer(text)["input_ids"]
        assert rollout.token_ids.tolist() == reference_greedy(engine, rollout.prompt_ids.tolist(), 24), (name, text)
    # The random models are not stuck in one token, or the test would say little.
    assert max(len(set(r.token_ids.tolist())) for (r,) in got) >= 4


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("name", ["quickstart", *TINY])
def test_sampled_logprobs_equal_a_teacher_forced_forward(engine_of: MakeEngine, name: str, temperature: float) -> None:
    engine = engine_of(name)
    texts = SUMS[:2] if name == "quickstart" else WORD_PROMPTS  # what it was taught: elsewhere its logits are huge
    got = engine.sample(ask(texts, num_samples=5, sampling=Sampling(20, temperature)), 0)
    for group in got:
        for rollout in group:
            full = reference_logprobs(engine, rollout, temperature)
            want = full[torch.arange(len(full)), torch.from_numpy(rollout.token_ids)]
            assert torch.from_numpy(rollout.logprobs).double().numpy() == pytest.approx(want.numpy(), abs=1e-5)


@pytest.mark.parametrize("name", TINY)
def test_neighbours_do_not_matter_in_any_architecture(engine_of: MakeEngine, name: str) -> None:
    engine, sampling = engine_of(name), Sampling(16)
    together = engine.sample(ask(WORD_PROMPTS, num_samples=4, sampling=sampling), 0)
    for request, group in zip(ask(WORD_PROMPTS, num_samples=4), together, strict=True):
        (alone,) = engine.sample(sampled([request], sampling), 0)
        assert [r.token_ids.tolist() for r in alone] == [r.token_ids.tolist() for r in group]
