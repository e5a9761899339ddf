"""Log-probs and entropies of response tokens under a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def token_logprobs(
    model: PreTrainedModel, ids: Tensor, mask: Tensor, temperatures: Tensor, entropy_gradient: bool = False
) -> tuple[Tensor, Tensor]:
    """Log-probs and entropies (nats) of the response tokens, both [number of them], row by row, at `temperatures` float[B].

    `ids` int[B, T] right-padded, `mask` bool[B, T] true on response tokens. The padding comes last, so a causal model needs
    no attention mask. Only the positions from the first response token on are projected to the vocabulary.
    The entropies have a gradient only with `entropy_gradient`.
    """
    first = int(mask.any(0).nonzero()[0])
    assert first > 0, "a response needs a prompt before it"
    logits = model(input_ids=ids[:, :-1], use_cache=False, logits_to_keep=ids.shape[1] - first).logits
    wanted = mask[:, first:]
    at = temperatures[:, None].expand(wanted.shape)[wanted][:, None]
    logps = torch.log_softmax(logits[wanted].float() / at, dim=-1)
    chosen = logps.gather(-1, ids[:, first:][wanted].unsqueeze(-1)).squeeze(-1)
    with torch.set_grad_enabled(entropy_gradient and torch.is_grad_enabled()):
        entropy = -(logps.exp() * logps).sum(-1)
    return chosen, entropy
