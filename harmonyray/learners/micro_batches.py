"""How the rows of an update are dealt to ranks, and cut into pieces that fit into memory."""

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


def shares(lengths: IntArray, num_ranks: int, group_of_row: IntArray) -> list[IntArray]:
    """Each rank's rows, indices in rising order [num_ranks], every row once and the rows of a group on one rank.

    Groups go by falling number of tokens to the rank that has the fewest so far (longest processing time first, Graham 1969), so
    that no two ranks differ by more tokens than the largest group has. Ties go to the group that comes first and to the lower
    rank. **A rank gets no rows where there are fewer groups than ranks**: the caller has to handle that.

    `lengths` int[B] in tokens; `group_of_row` int[B], any numbers. Raises ValueError without a rank.
    """
    if num_ranks < 1:
        raise ValueError(f"rows cannot be dealt to {num_ranks} ranks: expected 1 or more")
    _, first_row, group = np.unique(group_of_row, return_index=True, return_inverse=True)
    tokens = np.bincount(group, weights=lengths, minlength=len(first_row))
    rank_of_group = np.zeros(len(first_row), dtype=np.int64)
    loads = np.zeros(num_ranks)
    for g in np.lexsort((first_row, -tokens)):
        rank = int(loads.argmin())
        rank_of_group[g] = rank
        loads[rank] += tokens[g]
    return [np.flatnonzero(rank_of_group[group] == rank) for rank in range(num_ranks)]
