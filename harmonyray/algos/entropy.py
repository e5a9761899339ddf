"""What acts on the entropy of the policy's next-token distributions: which tokens are trained, and the band it is kept in.

In the manner of SPINE (arXiv 2511.17938), which trains only the tokens at which a response branches, those of high entropy, and
regularises the entropy there. A fixed share of every response and a linear penalty are this package's choices.
"""

from __future__ import annotations

import torch
from torch import Tensor

from harmonyray.algos.token_rows import places, row_lengths
from harmonyray.config_objective import EntropyBand

_ROUNDING = 1e-9  # 0.1 of 30 are 3 and not 4


def num_top(lengths: Tensor, share: float) -> Tensor:
    """How many tokens of rows of these lengths are trained, int[R]: their share, rounded up."""
    return (lengths.double() * share - _ROUNDING).ceil().long()


def top_entropy(entropy: Tensor, rows: Tensor, share: float) -> Tensor:
    """Whether a token is among its row's `share` of highest entropy, bool[number of tokens]; of equal ones the first."""
    by_entropy = torch.argsort(entropy.detach(), descending=True, stable=True)
    order = by_entropy[torch.argsort(rows[by_entropy], stable=True)]
    out = torch.zeros_like(rows, dtype=torch.bool)
    out[order] = places(rows) < num_top(row_lengths(rows), share)[rows]
    return out


def band_penalty(entropy: Tensor, band: EntropyBand) -> Tensor:
    """How far each entropy lies outside the band, in nats: 0 within it."""
    return (band.low - entropy).clamp(min=0) + (entropy - band.high).clamp(min=0)
