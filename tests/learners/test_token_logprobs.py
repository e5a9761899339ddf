"""Log-probs from hidden states in parts of the vocabulary: values, gradients, memory, and the models that it is not right for."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

import harmonyray.learners.token_logprobs as module
from harmonyray.learners.token_logprobs import head_logprobs, plain_head, token_logprobs

VOCABULARY = 50
BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "learner_memory.py"
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "pad_token_id": 0, "initializer_range": 0.25}
SMALL = {"vocab_size": VOCABULARY} | SIZES | HEADS


@pytest.fixture(params=[7, 25, 1000], ids=["8 chunks", "2 chunks", "1 chunk"])
def chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "chunk_width", lambda num_tokens: request.param)


def llama(tied: bool = False, **options: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SMALL | {"tie_word_embeddings": tied} | options)).eval()


def rows() -> tuple[Tensor, Tensor, Tensor]:
    """Three rows: ids, mask, temperatures."""
    ids = torch.randint(1, VOCABULARY, (3, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(3, 9, dtype=torch.bool)
    mask[0, 3:7], mask[1, 2:9], mask[2, 8:] = True, True, True
    return ids, mask, torch.tensor([1.0, 0.5, 2.0])


def whole(logits: Tensor, targets: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    logps = torch.log_softmax(logits.float() / at[:, None], -1)
    return logps[torch.arange(len(targets)), targets], -(logps.exp() * logps).sum(-1)


def naive(model: PreTrainedModel, ids: Tensor, mask: Tensor, temperatures: Tensor) -> tuple[Tensor, Tensor]:
    wanted = mask[:, 1:]
    logits = model(input_ids=ids).logits[:, :-1][wanted]
    return whole(logits, ids[:, 1:][wanted], temperatures[:, None].expand(wanted.shape)[wanted])


def objective(logps: Tensor, entropy: Tensor) -> Tensor:
    """One that no two tokens count alike in."""
    weight = torch.linspace(-1, 2, len(logps))
    return (weight * logps).sum() + (weight.flip(0) * entropy).sum()


def gradients(model: nn.Module, value: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    value.backward()  # type: ignore[no-untyped-call]
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(got: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    """To 1e-5 of the largest, or of 1."""
    assert list(got) == list(want)
    for name in want:
        rounding = 1e-5 * max(1.0, float(want[name].abs().max()))
        assert got[name].numpy() == pytest.approx(want[name].numpy(), abs=rounding, rel=0), name


# --- by hand -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 2, 3])
def test_one_token_by_hand(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """Logits ln 1, ln 2, ln 5 at temperature 1: probabilities 1/8, 2/8, 5/8. At 1/2 their squares: 1/30, 4/30, 25/30."""
    monkeypatch.setattr(module, "chunk_width", lambda num_tokens: width)
    head = nn.Linear(1, 3)
    with torch.no_grad():
        head.weight[:] = torch.tensor([[0.0], [2.0], [5.0]]).clamp(min=1).log()
        head.bias.zero_()
    hidden, targets = torch.ones(2, 1, requires_grad=True), torch.tensor([2, 1])
    logps, entropy = head_logprobs(hidden, head, targets, torch.tensor([1.0, 0.5]), True)
    assert logps.exp().tolist() == pytest.approx([5 / 8, 4 / 30], abs=1e-6)
    assert entropy.tolist() == pytest.approx([0.900256, 0.533962], abs=1e-5)  # -sum p ln p
    logps[0].backward()  # d log p_2 / d bias = [j = 2] - p_j
    assert head.bias.grad.tolist() == pytest.approx([-1 / 8, -2 / 8, 3 / 8], abs=1e-6)


# --- against whole logits ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("tied", [True, False])
def test_values_and_gradients_are_those_of_whole_logits(tied: bool) -> None:
    model = llama(tied)
    assert plain_head(model) is model.lm_head
    want = naive(model, *rows())
    got = token_logprobs(model, *rows(), entropy_grad=True)
    for mine, theirs in zip(got, want, strict=True):
        assert mine.detach().numpy() == pytest.approx(theirs.detach().numpy(), abs=1e-5)
    names = gradients(model, objective(*want))
    assert ("lm_head.weight" in names) != tied
    assert_same_gradients(gradients(model, objective(*got)), names)


@pytest.mark.usefixtures("chunks")
def test_a_bias_and_a_frozen_head() -> None:
    model = llama()
    model.lm_head = nn.Linear(16, VOCABULARY)
    want = gradients(model, objective(*naive(model, *rows())))
    assert_same_gradients(gradients(model, objective(*token_logprobs(model, *rows(), entropy_grad=True))), want)
    model.lm_head.requires_grad_(False)
    for name in ("lm_head.weight", "lm_head.bias"):
        del want[name]
    assert_same_gradients(gradients(model, objective(*token_logprobs(model, *rows(), entropy_grad=True))), want)
    with torch.no_grad():
        assert not token_logprobs(model, *rows())[0].requires_grad


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("entropy_grad", [True, False])
def test_gradcheck(entropy_grad: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    head = nn.Linear(4, 30).double()
    hidden = torch.randn(5, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    targets, at = torch.tensor([0, 6, 7, 29, 24]), torch.tensor([1.0, 0.5, 2.0, 1.0, 0.8])

    def values(hidden: Tensor, weight: Tensor, bias: Tensor) -> Any:
        return module._HeadLogprobs.apply(hidden, weight, bias, targets, at, entropy_grad)

    assert torch.autograd.gradcheck(values, (hidden, head.weight, head.bias))


@pytest.mark.usefixtures("chunks")
def test_bfloat16_is_computed_in_float32() -> None:
    """As good as float32 on the rounded numbers: products are not rounded again. Gradients come in the type of the weights."""
    head = nn.Linear(16, VOCABULARY).bfloat16()
    hidden = torch.randn(20, 16, generator=torch.Generator().manual_seed(2)).bfloat16().requires_grad_()
    targets, at = torch.arange(20), torch.full((20,), 0.7)
    got = head_logprobs(hidden, head, targets, at, True)
    exact, states = nn.Linear(16, VOCABULARY), hidden.detach().float().requires_grad_()
    exact.load_state_dict(head.state_dict())
    want = whole(exact(states), targets, at)
    for mine, theirs in zip(got, want, strict=True):
        assert mine.dtype == torch.float32
        assert mine.detach().numpy() == pytest.approx(theirs.detach().numpy(), abs=1e-5)
    objective(*got).backward()  # type: ignore[no-untyped-call]
    objective(*want).backward()  # type: ignore[no-untyped-call]
    for low, high in ((hidden, states), (head.weight, exact.weight), (head.bias, exact.bias)):
        assert low.grad is not None and high.grad is not None
        assert low.grad.dtype == torch.bfloat16
        assert torch.equal(low.grad, high.grad.bfloat16()) or (low.grad - high.grad).abs().max() <= 2**-8 * high.grad.abs().max()


@pytest.mark.usefixtures("chunks")
def test_large_logits_do_not_overflow() -> None:
    head = nn.Linear(1, VOCABULARY, bias=False)
    with torch.no_grad():
        head.weight[:] = torch.linspace(-5e4, 5e4, VOCABULARY)[:, None]
    hidden = torch.tensor([[1.0], [-1.0]], requires_grad=True)
    logps, entropy = head_logprobs(hidden, head, torch.tensor([VOCABULARY - 1, 1]), torch.ones(2), True)
    assert logps.tolist() == pytest.approx([0, -1e5 / 49], abs=0.05)
    assert entropy.tolist() == [0, 0]
    (logps.sum() + entropy.sum()).backward()  # type: ignore[no-untyped-call]
    assert hidden.grad is not None and head.weight.grad is not None
    assert hidden.grad.isfinite().all() and head.weight.grad.isfinite().all()


def test_an_entropy_without_a_gradient_unless_asked_for() -> None:
    model = llama()
    assert not token_logprobs(model, *rows())[1].requires_grad
    assert token_logprobs(model, *rows(), entropy_grad=True)[1].requires_grad
    assert not token_logprobs(odd_head(), *rows())[1].requires_grad  # asked for its logits


# --- memory --------------------------------------------------------------------------------------------------------------------


class Largest(TorchDispatchMode):
    """Notes how many elements the largest tensor has that any operation gives out."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **kwargs or {})
        for tensor in out if isinstance(out, tuple) else (out,):
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


def test_logits_are_never_there_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "chunk_width", lambda num_tokens: 100)
    head, hidden = nn.Linear(4, 1000), torch.randn(300, 4, requires_grad=True)
    targets, at = torch.zeros(300, dtype=torch.int64), torch.ones(300)
    seen: list[int] = []
    for compute in (head_logprobs, lambda hidden, head, targets, at, _: whole(head(hidden), targets, at)):
        with Largest() as largest:
            objective(*compute(hidden, head, targets, at, True)).backward()  # type: ignore[no-untyped-call]
        seen.append(largest.elements)
    assert seen == [300 * 100, 300 * 1000]


def test_chunks_are_of_a_size() -> None:
    assert module.chunk_width(4096) * 4096 == module.CHUNK_ELEMENTS
    assert module.chunk_width(10**9) == module.MIN_CHUNK_WIDTH
    assert [(s.start, s.stop) for s in module.spans(2**14, 2500)] == [(0, 1024), (1024, 2048), (2048, 2500)]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from Linux' /proc")
def test_a_process_needs_less_than_half_the_memory() -> None:
    command = [sys.executable, str(BENCHMARK), "--tokens", "1024", "--vocabulary", "64000", "--rows", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    brief = json.loads(done.stdout.splitlines()[-1])
    assert brief["1024 x 64000 naive"] > 4 * 1024 * 64000 / 1e6  # a table of float32 at the least
    assert brief["1024 x 64000 chunks"] < brief["1024 x 64000 naive"] / 2


# --- models that it is not right for -------------------------------------------------------------------------------------------


SCALED = GraniteConfig(**SMALL | {"logits_scaling": 4.0})
MULTIPLIED = CohereConfig(**SMALL | {"logit_scale": 0.5})
CAPPED = Gemma2Config(**SMALL | {"initializer_range": 0.001})  # logits so small that the cap of 30 hardly changes them


def odd_head() -> LlamaForCausalLM:
    model = llama()
    model.lm_head = nn.Sequential(model.lm_head, nn.Tanh())
    return model


def hooked() -> LlamaForCausalLM:
    model = llama()
    model.lm_head.register_forward_hook(lambda _, __, out: out * 2)
    return model


def own_forward() -> LlamaForCausalLM:
    model = llama()
    linear = model.lm_head.forward
    model.lm_head.forward = lambda states: linear(states) * 2
    return model


def cannot_be_tried() -> LlamaForCausalLM:
    class NoKernel(LlamaForCausalLM):
        def forward(self, input_ids: Tensor, **kwargs: Any) -> Any:
            if input_ids.shape == (1, 4):  # the check's four tokens
                raise RuntimeError("no kernel for this place")
            return super().forward(input_ids, **kwargs)

    return NoKernel(llama().config)


def other_input() -> LlamaForCausalLM:
    class Doubled(LlamaForCausalLM):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            with self.lm_head.register_forward_pre_hook(lambda _, given: (given[0] * 2,)):
                return super().forward(*args, **kwargs)

    return Doubled(llama().config)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: GraniteForCausalLM(SCALED), "changes its logits after the output head"),
        (lambda: Gemma2ForCausalLM(CAPPED), "changes its logits after the output head"),
        (lambda: CohereForCausalLM(MULTIPLIED), "changes its logits after the output head"),
        (odd_head, "no plain nn.Linear but Sequential"),
        (hooked, "something is hooked to its output head"),
        (own_forward, "its output head's forward is not its class's own"),
        (cannot_be_tried, "the check failed: no kernel for this place"),
        (other_input, "given something else than the decoder's last hidden states"),
    ],
)
def test_a_model_that_does_more_is_asked_for_its_logits(
    make: Callable[[], PreTrainedModel], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    model = make().eval()
    with caplog.at_level(logging.WARNING):
        got = token_logprobs(model, *rows(), entropy_grad=True)
        token_logprobs(model, *rows())
    said = [r.message for r in caplog.records if r.name == "harmonyray.learners.token_logprobs"]
    assert len(said) == 1 and why in said[0]
    want = naive(model, *rows())
    for mine, theirs in zip(got, want, strict=True):
        assert mine.detach().numpy() == pytest.approx(theirs.detach().numpy(), abs=1e-6)
    assert_same_gradients(gradients(model, objective(*got)), gradients(model, objective(*want)))


def test_the_check_leaves_nothing_behind(caplog: pytest.LogCaptureFixture) -> None:
    model = llama()
    assert plain_head(model) is model.lm_head
    assert not model.lm_head._forward_hooks
    assert all(p.grad is None for p in model.parameters())
    assert caplog.records == []


def test_words_that_cannot_be_said_leave_the_entropy_a_number() -> None:
    """A head whose bias is -inf for half of its words: as if they were not there."""
    torch.manual_seed(0)
    hidden, head = torch.randn(5, 4), torch.nn.Linear(4, 6)
    few = torch.nn.Linear(4, 3)
    with torch.no_grad():
        few.weight.copy_(head.weight[:3])
        few.bias.copy_(head.bias[:3])
        head.bias[3:] = -torch.inf
    targets, at = torch.tensor([0, 1, 2, 1, 0]), torch.full((5,), 0.7)
    got, want = head_logprobs(hidden, head, targets, at, False), head_logprobs(hidden, few, targets, at, False)
    plain = module._of_logits(head(hidden), targets, at, False)
    for a, b, c in zip(got, want, plain, strict=True):
        assert torch.allclose(a, b, atol=1e-6)
        assert torch.allclose(c, b, atol=1e-6)
