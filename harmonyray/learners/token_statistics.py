"""Statistics of a model's next-token distributions at response tokens, for methods whose reward is made of them.

Like the log-probs, without a table of tokens x vocabulary where logits are the output head's and nothing else; no gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from harmonyray.learners.token_logprobs import (
    NextTokens,
    Running,
    as_forward,
    hidden_states,
    plain_head,
    scaled_logits,
    spans,
    take_in,
    whole_logits,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class _Sums:
    """Of each token's logits l over the whole vocabulary, [M, 1]: the highest m; sum of exp(l - m); sum of exp(l - m) (l - m);
    sum of l. `vocabulary` is how many there are."""

    highest: Tensor
    powers: Tensor
    weighted: Tensor
    plain: Tensor
    vocabulary: int


def _entropy(sums: _Sums) -> Tensor:
    """H(p) = -sum_j p_j ln p_j, nats, in [0, ln vocabulary]."""
    return sums.powers.log() - sums.weighted / sums.powers


def _self_certainty(sums: _Sums) -> Tensor:
    """KL(U || p) = logsumexp(l) - mean(l) - ln vocabulary, nats, from 0; U is uniform over the vocabulary (self-certainty, arXiv
    2502.18581)."""
    return sums.highest + sums.powers.log() - sums.plain / sums.vocabulary - math.log(sums.vocabulary)


STATISTICS: dict[str, Callable[[_Sums], Tensor]] = {"entropy": _entropy, "self_certainty": _self_certainty}


@torch.no_grad()
def next_token_statistics(model: PreTrainedModel, tokens: NextTokens, names: Sequence[str]) -> dict[str, Tensor]:
    """The statistics of these names of p = softmax(logits / temperature) at the wanted places, each [M], float32 (float64 where
    the hidden states are)."""
    head = plain_head(model)
    if head is None:
        return _of(_parts(whole_logits(model, tokens), tokens), tokens, names)
    return as_forward(head, lambda states: _of(_head_parts(states, head, tokens), tokens, names), hidden_states(model, tokens))


def _of(parts: Iterator[tuple[slice, Tensor]], tokens: NextTokens, names: Sequence[str]) -> dict[str, Tensor]:
    sums = _sums(parts, tokens)
    return {name: STATISTICS[name](sums).squeeze(1) for name in names}


def _sums(parts: Iterator[tuple[slice, Tensor]], tokens: NextTokens) -> _Sums:
    """`parts`: spans of the vocabulary with the logits of it, [M, width], at the tokens' temperatures; memory is used up."""
    running: Running | None = None
    for span, logits in parts:
        if running is None:
            zero = torch.zeros_like(logits[:, :1])
            running, plain = (torch.full_like(zero, torch.finfo(zero.dtype).min), zero, zero, zero), zero
        plain = plain + logits.sum(1, keepdim=True)
        running = take_in(running, logits, tokens.targets, span)
    assert running is not None, "a vocabulary has tokens"
    highest, powers, weighted, _ = running
    return _Sums(highest, powers, weighted, plain, span.stop)


def _parts(logits: Tensor, tokens: NextTokens) -> Iterator[tuple[slice, Tensor]]:
    """`logits` [M, vocabulary] that are there already."""
    at = tokens.temperatures[:, None]
    for span in spans(*logits.shape):
        part = logits[:, span]
        kind = torch.promote_types(part.dtype, torch.float32)
        yield span, part.to(kind) / at.to(kind)


def _head_parts(states: Tensor, head: nn.Linear, tokens: NextTokens) -> Iterator[tuple[slice, Tensor]]:
    """Logits made from hidden states [M, H], one span after the other."""
    states = states.to(torch.promote_types(states.dtype, torch.float32))
    for span in spans(len(states), len(head.weight)):
        yield span, scaled_logits(states, head.weight, head.bias, tokens.temperatures[:, None].to(states.dtype), span)
