"""What methods ask the learner for: by hand, a part of the vocabulary at a time, and row by row however rows are laid out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM

import harmonyray.learners.token_logprobs as module
from harmonyray.learners.token_logprobs import NextTokens, plain_head
from harmonyray.learners.token_statistics import STATISTICS, next_token_statistics
from harmonyray.protocols import TOKEN_STATISTICS

NAMES = ("entropy", "self_certainty")


def test_the_learner_knows_the_names_that_methods_may_use() -> None:
    assert set(STATISTICS) == set(TOKEN_STATISTICS) == set(NAMES)


class HandMade(nn.Module):
    """A model that says the same at every place: logits ln 1, ln 2, ln 5, which its head makes of a 1. `plain` or with something
    after the head."""

    def __init__(self, plain: bool) -> None:
        super().__init__()
        self.head, self.plain, self.calls = nn.Linear(1, 3, bias=False), plain, 0
        self.head.weight.data = torch.tensor([[1.0], [2.0], [5.0]]).log()

    def get_output_embeddings(self) -> nn.Linear:
        return self.head

    def get_decoder(self) -> Any:
        return lambda input_ids, use_cache: SimpleNamespace(last_hidden_state=torch.ones(*input_ids.shape, 1))

    def forward(self, input_ids: Tensor, use_cache: bool, logits_to_keep: int = 0) -> Any:
        logits = self.head(torch.ones(*input_ids.shape, 1))
        return SimpleNamespace(logits=(logits if self.plain else logits + 1)[:, -logits_to_keep:])


@pytest.mark.parametrize("width", [1, 2, 3])
@pytest.mark.parametrize("plain", [True, False])
def test_two_tokens_by_hand(plain: bool, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """p = 1/8, 2/8, 5/8 at temperature 1, and 1/30, 4/30, 25/30 at 1/2. KL(U || p) = -ln 3 - (ln p_1 + ln p_2 + ln p_3) / 3."""
    monkeypatch.setattr(module, "chunk_width", lambda num_tokens: width)
    model: Any = HandMade(plain)
    assert (plain_head(model) is None) != plain
    wanted = torch.tensor([[False, True, True]])
    tokens = NextTokens({"input_ids": torch.tensor([[0, 1, 2]])}, wanted, torch.tensor([2, 0]), torch.tensor([1.0, 0.5]))
    got = next_token_statistics(model, tokens, NAMES)
    assert got["entropy"].tolist() == pytest.approx([0.900256, 0.533962], abs=1e-5)
    assert got["self_certainty"].tolist() == pytest.approx([0.213301, 0.767529], abs=1e-5)
    # As Intuitor writes it, less ln 3: logsumexp(z) - mean(z) = ln 8 - (ln 2 + ln 5) / 3.
    assert float(got["self_certainty"][0]) == pytest.approx(np.log(8) - np.log(10) / 3 - np.log(3), abs=1e-6)
    assert list(next_token_statistics(model, tokens, ["entropy"])) == ["entropy"]


SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "initializer_range": 0.25,
}


@pytest.mark.parametrize("width", [7, 1000])
@pytest.mark.parametrize(("config", "kind"), [(LlamaConfig, LlamaForCausalLM), (Gemma2Config, Gemma2ForCausalLM)])
def test_parts_of_the_vocabulary_are_the_whole(config: Any, kind: Any, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gemma 2 is asked for its logits, which it caps."""
    monkeypatch.setattr(module, "chunk_width", lambda num_tokens: width)
    torch.manual_seed(0)
    model = kind(config(**SIZES)).eval()
    ids = torch.randint(0, 50, (2, 6), generator=torch.Generator().manual_seed(1))
    wanted = torch.tensor([[False, True, True, False, True, True], [False, False, False, True, True, True]])
    at = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 2.0])
    got = next_token_statistics(model, NextTokens({"input_ids": ids}, wanted, ids[wanted], at), NAMES)
    with torch.no_grad():
        logps = torch.log_softmax(model(input_ids=ids).logits[wanted] / at[:, None], -1)
    assert got["entropy"].numpy() == pytest.approx(-(logps.exp() * logps).sum(-1).numpy(), abs=1e-5)
    assert got["self_certainty"].numpy() == pytest.approx(-(logps.mean(-1) + np.log(50)).numpy(), abs=1e-5)
    assert got["self_certainty"].min() > 0.01


def naive_means(directory: str, batch: Any) -> dict[str, list[float]]:
    """Row by row, alone and unpadded."""
    model = LlamaForCausalLM.from_pretrained(directory).eval()
    out: dict[str, list[float]] = {name: [] for name in NAMES}
    for b, n in enumerate(batch.lengths):
        with torch.no_grad():
            logits = model(input_ids=torch.from_numpy(batch.token_ids[b : b + 1, :n])).logits[0].double()
        logps = torch.log_softmax(logits / float(batch.temperatures[b]), -1)[:-1][torch.from_numpy(batch.response_mask[b, 1:n])]
        out["entropy"].append(float(-(logps.exp() * logps).sum(-1).mean()))
        out["self_certainty"].append(float(-(logps.mean(-1) + np.log(logps.shape[-1])).mean()))
    return out


@pytest.mark.parametrize("packing", [False, True])
def test_a_learner_scores_rows_however_they_are_cut(workshop: Any, packing: bool) -> None:
    batch = workshop.batch(num_rows=12, seed=3, temperature=0.7)
    learner = workshop.learner(packing=packing, max_tokens_per_micro_batch=20)
    got, want = learner.score(batch, NAMES), naive_means(workshop.model, batch)
    assert set(got) == set(NAMES)
    for name in NAMES:
        assert got[name] == pytest.approx(np.array(want[name]), abs=1e-5), name
    assert len(set(np.round(got["entropy"], 4))) == 12, "no two rows alike, or they could be mixed up"
    assert all(p.grad is None for p in learner.model.parameters())
    assert learner.policy_version == 0


def test_scores_are_the_present_models(workshop: Any) -> None:
    batch, learner = workshop.batch(seed=4), workshop.learner()
    before = learner.score(batch, ["entropy"])["entropy"]
    learner.update(batch, 1)
    assert abs(learner.score(batch, ["entropy"])["entropy"] - before).max() > 1e-3
