"""Weights as flat buckets of bytes: packing, unpacking and the checksum that both ends of a broadcast compute."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch

WORD_PERIOD = 65521  # positions are weighted modulo this prime, so that swapped words change the checksum


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
    """A 63-bit checksum of names' order, shapes and every byte; equal on CPU and GPU. Any altered or swapped word shows."""
    total = 0
    for i, (name, tensor) in enumerate(weights.items()):
        raw = tensor.detach().contiguous().view(-1).view(torch.uint8)
        words = raw[: len(raw) // 4 * 4].view(torch.int32).to(torch.int64)
        places = torch.arange(len(words), device=words.device) % WORD_PERIOD + 1
        tail = int(raw[len(raw) // 4 * 4 :].to(torch.int64).sum()) if len(raw) % 4 else 0
        part = int((words * places).sum()) + tail + sum(name.encode()) * len(raw)
        total = (total * 1_000_003 + part + i) & ((1 << 63) - 1)
    return total
