"""What each token of a row counts in the loss. numpy only: weights are worked out once, from a whole batch, before it is cut into
micro-batches or dealt to ranks, so neither changes the result.

Every function takes `num_tokens` int[B], the trained tokens of each row, and `part` int[B], the part of the loss it belongs to (a
view's responses, a view's drafts), and gives float[B] such that the loss is the sum over tokens of weight × loss: each part is
averaged on its own, and the parts are summed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from harmonyray.types import FloatArray, IntArray


def token_mean(num_tokens: IntArray, part: IntArray, max_tokens: int) -> FloatArray:
    """All tokens of a part count alike (DAPO, arXiv 2503.14476, section 3.3)."""
    out: FloatArray = 1 / np.bincount(part, weights=num_tokens)[part]
    return out


def seq_mean_token_sum(num_tokens: IntArray, part: IntArray, max_tokens: int) -> FloatArray:
    """The mean over a part's rows of the sum over their tokens: REINFORCE of whole responses."""
    out: FloatArray = 1 / np.bincount(part)[part]
    return out


def seq_mean_token_mean(num_tokens: IntArray, part: IntArray, max_tokens: int) -> FloatArray:
    """All rows of a part count alike, whatever their length (GRPO, arXiv 2402.03300, equation 3)."""
    return seq_mean_token_sum(num_tokens, part, max_tokens) / num_tokens


def seq_mean_token_sum_norm(num_tokens: IntArray, part: IntArray, max_tokens: int) -> FloatArray:
    """As seq_mean_token_sum, over `max_tokens`, a constant of the run: no length enters (Dr. GRPO, arXiv 2503.20783)."""
    return seq_mean_token_sum(num_tokens, part, max_tokens) / max_tokens


AGGREGATIONS: dict[str, Callable[[IntArray, IntArray, int], FloatArray]] = {
    "token-mean": token_mean,
    "seq-mean-token-mean": seq_mean_token_mean,
    "seq-mean-token-sum": seq_mean_token_sum,
    "seq-mean-token-sum-norm": seq_mean_token_sum_norm,
}
