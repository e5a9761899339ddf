"""Flat tokens, row after row, and the row that each belongs to: `rows` int[number of tokens], 0, 0, ..., 1, ... without a gap."""

from __future__ import annotations

import torch
from torch import Tensor


def row_lengths(rows: Tensor) -> Tensor:
    """The number of tokens of each row, int[R]."""
    return torch.bincount(rows)


def places(rows: Tensor) -> Tensor:
    """The place of each token in its row, from 0, int[number of tokens]."""
    lengths = row_lengths(rows)
    return torch.arange(len(rows), device=rows.device) - (lengths.cumsum(0) - lengths)[rows]


def row_sums(values: Tensor, rows: Tensor) -> Tensor:
    """The sum of each row's tokens, [R]. By way of a padded matrix: adding in place has no fixed order on a GPU."""
    lengths = row_lengths(rows)
    padded = values.new_zeros(len(lengths), int(lengths.max()))
    return padded.index_put((rows, places(rows)), values).sum(1)


def sums_to_end(values: Tensor, rows: Tensor) -> Tensor:
    """For each token the sum of its own value and those after it in its row, [number of tokens]."""
    lengths, place = row_lengths(rows), places(rows)
    padded = values.new_zeros(len(lengths), int(lengths.max())).index_put((rows, place), values)
    return padded.flip(1).cumsum(1).flip(1)[rows, place]


def row_means(values: Tensor, rows: Tensor) -> Tensor:
    """The mean of each row's tokens, [R]."""
    return row_sums(values, rows) / row_lengths(rows)
