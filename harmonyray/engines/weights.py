"""Weights as flat buckets of bytes: packing, unpacking and the checksum that both ends of a broadcast compute."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch

CHUNK_BYTES = 1 << 24  # the checksum's scratch memory is five times this, whatever the size of a tensor


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, shape and dtype of one tensor, as both ends of a broadcast must hold it."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def named_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A model's parameters by name, tied ones once, in the model's order."""
    return {name: p.data for name, p in model.named_parameters()}


def specs(weights: Mapping[str, torch.Tensor]) -> list[TensorSpec]:
    return [TensorSpec(name, tuple(t.shape), t.dtype) for name, t in weights.items()]


def plan_buckets(tensors: Iterable[TensorSpec], bucket_bytes: int) -> list[list[TensorSpec]]:
    """Tensors in order, cut so that a bucket holds at most `bucket_bytes` (or one tensor that is larger)."""
    buckets: list[list[TensorSpec]] = []
    room = 0
    for spec in tensors:
        if not buckets or spec.num_bytes > room:
            buckets.append([])
            room = bucket_bytes
        buckets[-1].append(spec)
        room -= spec.num_bytes
    return buckets


def pack(bucket: list[TensorSpec], weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The bucket's tensors as one flat uint8 tensor."""
    return torch.cat([weights[s.name].detach().contiguous().view(-1).view(torch.uint8) for s in bucket])


def unpack(bucket: list[TensorSpec], flat: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and tensors of a packed bucket (copies: a slice may not be aligned to its dtype)."""
    start = 0
    for spec in bucket:
        piece = flat[start : start + spec.num_bytes].clone()
        yield spec.name, piece.view(spec.dtype).view(spec.shape)
        start += spec.num_bytes


def checksum(weights: Mapping[str, torch.Tensor]) -> int:
    """A 63-bit checksum of every tensor's name, shape, dtype and bytes, in order; equal on CPU and GPU.

    Any one altered word and any two swapped ones show.
    """
    total = 0
    for name, tensor in weights.items():
        label = zlib.crc32(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        total = (total * 1_000_003 + _weighted_words(tensor) + label) & ((1 << 63) - 1)
    return total


def _weighted_words(tensor: torch.Tensor) -> int:
    """The sum over a tensor's 32-bit words of word × position (from 1), which wraps at 64 bits; zeros fill the last word."""
    raw = tensor.detach().contiguous().view(-1).view(torch.uint8)
    total, first = 0, 1
    for chunk in raw.split(CHUNK_BYTES):
        # Padding copies, so the words are aligned even where the tensor is not.
        words = torch.nn.functional.pad(chunk, (0, -len(chunk) % 4)).view(torch.int32).to(torch.int64)
        total += int((words * torch.arange(first, first + len(words), device=words.device)).sum())
        first += len(words)
    return total
