"""Importance weights between the engine that drew the tokens and the learner: their log-probs differ by other kernels, rounding
and lag, and without weights the gradient is another policy's.

Sources: truncation, arXiv 1802.01561, section 4.1; masking in place of it, IcePop (Ling Team, "Every Step Evolves", arXiv
2510.18855).
"""

from __future__ import annotations

import torch
from torch import Tensor

from harmonyray.algos.token_rows import row_sums
from harmonyray.config_objective import ImportanceOptions


def importance_weights(
    logprobs: Tensor, engine_logprobs: Tensor, rows: Tensor, importance: ImportanceOptions
) -> tuple[Tensor, Tensor]:
    """The weight of every token, and whether it was truncated or masked; both [number of tokens], without gradient.

    `level` sequence: the ratio of a token is that of its whole response, the product of the tokens'.
    """
    log_ratio = (logprobs - engine_logprobs).detach()
    if importance.level == "sequence":
        log_ratio = row_sums(log_ratio, rows)[rows]
    ratio = log_ratio.exp()
    if importance.type == "truncate":
        return ratio.clamp(max=importance.high), ratio > importance.high
    outside = (ratio < importance.low) | (ratio > importance.high)
    return torch.where(outside, 0.0, ratio), outside
