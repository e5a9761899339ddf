"""How the rows of an update are cut into pieces that fit into memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from harmonyray.types import IntArray


def micro_batches(lengths: IntArray, max_tokens: int) -> Iterator[IntArray]:
    """Row indices in batches of similar length whose padded size is at most `max_tokens` (or one row that is longer)."""
    order = np.argsort(lengths, kind="stable")
    start = 0
    for end in range(1, len(order) + 1):
        if end == len(order) or (end + 1 - start) * lengths[order[end]] > max_tokens:
            yield order[start:end]
            start = end
