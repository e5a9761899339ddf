"""Log-probs and entropies of response tokens under a model, without a table of tokens x vocabulary.

The model's decoder gives hidden states; logits are made from them and the output head a part of the vocabulary at a time, and
made again for the gradient. That is right only where logits are the head's output and nothing else, which is found out once for
each model; others are asked for their logits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from harmonyray.errors import first_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CHUNK_ELEMENTS = 1 << 24  # logits at a time: 64 MiB in float32, of which there are two or three at once
T = TypeVar("T")

MIN_CHUNK_WIDTH = 1024  # narrower products would be slow

_CHECKED: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()  # why a model must be asked for its logits; "" if it need not


@dataclass(frozen=True, slots=True)
class NextTokens:
    """Where a model says what comes next: `inputs` are the model's, each [B, T]; `wanted` bool[B, T] marks the M places that are
    looked at, `targets` int[M] are the tokens that come after them and `temperatures` float[M] those that they were drawn at."""

    inputs: Mapping[str, Tensor]
    wanted: Tensor
    targets: Tensor
    temperatures: Tensor


def padded_rows(ids: Tensor, mask: Tensor, temperatures: Tensor) -> NextTokens:
    """The response tokens, row by row, of rows that are padded on the right.

    `ids` int[B, T], `mask` bool[B, T] true on response tokens, never on a row's first, `temperatures` float[B]. The padding comes
    last, so a causal model needs no attention mask.
    """
    assert not mask[:, 0].any(), "a response needs a prompt before it"
    wanted = mask[:, 1:]
    at = temperatures[:, None].expand(wanted.shape)[wanted]
    return NextTokens({"input_ids": ids[:, :-1]}, wanted, ids[:, 1:][wanted], at)


def token_logprobs(
    model: PreTrainedModel, ids: Tensor, mask: Tensor, temperatures: Tensor, *, entropy_grad: bool = False
) -> tuple[Tensor, Tensor]:
    """`next_token_logprobs` of `padded_rows`."""
    return next_token_logprobs(model, padded_rows(ids, mask, temperatures), entropy_grad)


def next_token_logprobs(model: PreTrainedModel, tokens: NextTokens, entropy_grad: bool) -> tuple[Tensor, Tensor]:
    """Log-probs of the targets and entropies (nats), both float32 [M], at the tokens' temperatures. The entropies have a gradient
    with `entropy_grad` only."""
    head = plain_head(model)
    if head is None:
        return _of_logits(whole_logits(model, tokens), tokens.targets, tokens.temperatures, entropy_grad)
    return head_logprobs(hidden_states(model, tokens), head, tokens.targets, tokens.temperatures, entropy_grad)


def hidden_states(model: PreTrainedModel, tokens: NextTokens) -> Tensor:
    """The decoder's last hidden states at the wanted places, [M, H]."""
    states: Tensor = model.get_decoder()(**tokens.inputs, use_cache=False).last_hidden_state
    return states[tokens.wanted]


def whole_logits(model: PreTrainedModel, tokens: NextTokens) -> Tensor:
    """The model's own logits at the wanted places, [M, vocabulary]."""
    first = int(tokens.wanted.any(0).nonzero()[0])
    logits: Tensor = model(**tokens.inputs, use_cache=False, logits_to_keep=tokens.wanted.shape[1] - first).logits
    return logits[tokens.wanted[:, first:]]


def head_logprobs(
    hidden: Tensor, head: nn.Linear, targets: Tensor, temperatures: Tensor, entropy_grad: bool
) -> tuple[Tensor, Tensor]:
    """Log-probs of `targets` int[M] and entropies (nats), both [M], under softmax(head(hidden) / temperatures).

    `hidden` [M, H] in any float type; all that follows is float32 (float64 where `hidden` is).
    """

    def compute(states: Tensor) -> tuple[Tensor, Tensor]:
        logps, entropy = _HeadLogprobs.apply(states, head.weight, head.bias, targets, temperatures, entropy_grad)
        return logps, entropy

    return as_forward(head, compute, hidden)


def as_forward(module: nn.Module, compute: Callable[[Tensor], T], states: Tensor) -> T:
    """`compute(states)` as the module's forward pass. So whoever is hooked to the module sees that it is used, there and back:
    with ZeRO's stage 3 its weight is whole only then."""
    module.forward = compute
    try:
        out: T = module(states)
    finally:
        del module.forward
    return out


def _of_logits(logits: Tensor, targets: Tensor, temperatures: Tensor, entropy_grad: bool) -> tuple[Tensor, Tensor]:
    logps = torch.log_softmax(logits.float() / temperatures[:, None], dim=-1)
    chosen = logps.gather(-1, targets[:, None]).squeeze(-1)
    with torch.set_grad_enabled(entropy_grad and torch.is_grad_enabled()):
        entropy = -(logps.exp() * logps.clamp(min=torch.finfo(logps.dtype).min)).sum(-1)
    return chosen, entropy


# --- whose logits are the head's output and nothing else ---------------------------------------------------------------------


def plain_head(model: PreTrainedModel) -> nn.Linear | None:
    """The model's output head if its logits are head(decoder(ids)), to the bit; else None, with a warning in the log.

    Checked at the first call for a model, by running it on four tokens: with ZeRO's stage 3 that has to be before its weights are
    shared out.
    """
    if model not in _CHECKED:
        try:
            with torch.no_grad():
                _CHECKED[model] = _beyond_head(model)
        except (RuntimeError, ValueError, ImportError) as e:  # kernels that need a GPU, where the weights are not there yet
            _CHECKED[model] = f"the check failed: {first_line(e)}"
        if _CHECKED[model]:
            logging.getLogger(__name__).warning(
                "%s: log-probs are computed from whole logits, which takes more memory, because %s",
                type(model).__name__,
                _CHECKED[model],
            )
    return None if _CHECKED[model] else model.get_output_embeddings()


def _beyond_head(model: PreTrainedModel) -> str:
    """What stands between the decoder's hidden states and the logits beside the head, in words; empty if nothing does."""
    head, decoder = model.get_output_embeddings(), model.get_decoder()
    if type(head) is not nn.Linear or head.weight.shape != (head.out_features, head.in_features):
        return f"its output head is no plain nn.Linear but {head}"
    if head._forward_hooks or head._forward_pre_hooks:
        return "something is hooked to its output head"
    if "forward" in vars(head):
        return "its output head's forward is not its class's own"
    ids = torch.arange(4, device=head.weight.device)[None]
    # The head is made to give out large numbers: a cap or a scale cannot hide behind the small ones of an untrained model.
    planted = torch.linspace(-100, 100, 4 * head.out_features).view(1, 4, -1).to(head.weight)
    received: list[Tensor] = []

    def plant(_: nn.Module, args: tuple[Tensor, ...], __: Tensor) -> Tensor:
        received.append(args[0])
        return planted

    with head.register_forward_hook(plant):
        logits = model(input_ids=ids, use_cache=False).logits
    if not torch.equal(logits.to(planted.dtype), planted):
        return "it changes its logits after the output head"
    hidden = getattr(decoder(input_ids=ids, use_cache=False), "last_hidden_state", None)
    if hidden is None or len(received) != 1 or not torch.equal(received[0], hidden):
        return "its output head is given something else than the decoder's last hidden states"
    return ""


# --- a part of the vocabulary at a time --------------------------------------------------------------------------------------


def chunk_width(num_tokens: int) -> int:
    """How many tokens of the vocabulary are computed at a time."""
    return max(MIN_CHUNK_WIDTH, CHUNK_ELEMENTS // max(1, num_tokens))


def spans(num_tokens: int, vocabulary: int) -> list[slice]:
    """The parts of the vocabulary that are computed one after the other for so many tokens."""
    width = chunk_width(num_tokens)
    return [slice(start, min(start + width, vocabulary)) for start in range(0, vocabulary, width)]


def scaled_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, temperatures: Tensor, span: slice) -> Tensor:
    """[M, width] in the type of `hidden`."""
    out = hidden @ weight[span].to(hidden.dtype).T
    if bias is not None:
        out += bias[span].to(hidden.dtype)
    return out.div_(temperatures)


def _place(targets: Tensor, span: slice) -> tuple[Tensor, Tensor]:
    """Where in the span each target lies, int[M, 1], and whether it does, bool[M, 1]."""
    place = targets[:, None] - span.start
    last = span.stop - span.start - 1
    return place.clamp(0, last), (place >= 0) & (place <= last)


# What is known after some chunks, each [M, 1]: the highest logit m; sum of exp(l - m); sum of exp(l - m) (l - m); the target's
# logit l, once it was met.
Running = tuple[Tensor, Tensor, Tensor, Tensor]


def take_in(running: Running, logits: Tensor, targets: Tensor, span: slice) -> Running:
    """`running` with another chunk, whose memory is used up."""
    before, total, weighted, chosen = running
    place, inside = _place(targets, span)
    chosen = torch.where(inside, logits.gather(1, place), chosen)
    highest = torch.maximum(before, logits.amax(1, keepdim=True))
    drop = before - highest
    shrink = drop.exp()
    weighted, total = shrink * (weighted + drop * total), shrink * total
    powers = logits.sub_(highest).clamp_(min=torch.finfo(logits.dtype).min).exp()  # of -inf, 0 x -inf would be no number
    total = total + powers.sum(1, keepdim=True)
    return highest, total, weighted + logits.mul_(powers).sum(1, keepdim=True), chosen


class _HeadLogprobs(torch.autograd.Function):
    """(log-prob, entropy) [M] of targets. Kept for the gradient: the log of the sum of exponentials and the entropy, no logits.

    With p = softmax(l), l = logits / temperature, the derivative by l_j of log p_t is [j = t] - p_j, that of the entropy
    -p_j (log p_j + entropy).
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, at: Tensor, entropy_grad: bool
    ) -> tuple[Tensor, Tensor]:
        kind = torch.promote_types(hidden.dtype, torch.float32)
        states, at = hidden.to(kind), at.to(kind)[:, None]
        start, zero = torch.full_like(at, torch.finfo(kind).min), torch.zeros_like(at)
        running: Running = (start, zero, zero, zero)
        for span in spans(len(targets), len(weight)):
            running = take_in(running, scaled_logits(states, weight, bias, at, span), targets, span)
        highest, total, weighted, chosen = running
        logps, entropy = (chosen - highest) - total.log(), total.log() - weighted / total
        ctx.save_for_backward(hidden, weight, bias, targets, at, highest + total.log(), entropy)
        ctx.entropy_grad = entropy_grad
        logps, entropy = logps.squeeze(1), entropy.squeeze(1)
        if not entropy_grad:
            ctx.mark_non_differentiable(entropy)
        return logps, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logps: Tensor, grad_entropy: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, at, log_total, entropy = ctx.saved_tensors
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        states, by_logps = hidden.to(at.dtype), grad_logps[:, None]
        of_hidden = torch.zeros_like(states) if needs_hidden else None
        of_weight = torch.empty_like(weight) if needs_weight else None
        of_bias = torch.empty_like(bias) if needs_bias else None
        for span in spans(len(targets), len(weight)):
            # From log-probs to the gradient of the logits, in the same memory.
            logps = scaled_logits(states, weight, bias, at, span).sub_(log_total)
            probs = logps.exp()
            if ctx.entropy_grad:
                grads = probs.mul_(logps.add_(entropy).mul_(grad_entropy[:, None]).add_(by_logps)).neg_()
            else:
                grads = probs.mul_(-by_logps)
            place, inside = _place(targets, span)
            grads.scatter_add_(1, place, by_logps * inside).div_(at)
            if of_hidden is not None:
                of_hidden.addmm_(grads, weight[span].to(at.dtype))
            if of_weight is not None:
                of_weight[span] = grads.T @ states
            if of_bias is not None:
                of_bias[span] = grads.sum(0)
            del logps, probs, grads  # before the next chunk is made
        of_hidden = of_hidden.to(hidden.dtype) if of_hidden is not None else None
        return of_hidden, of_weight, of_bias, None, None, None
