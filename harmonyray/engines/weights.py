"""Weights as buckets of bytes: how they are cut for a broadcast, where they are received, and the checksum of both ends."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch

ALIGN = 64  # bytes; kernels may compute otherwise (in the last digit) with tensors that lie at odder places
ALONE_BYTES = 8 << 20  # a tensor of this size is sent from where it lies: a copy into a bucket would cost more than it saves
ROW_BYTES = 32 << 10  # the checksum adds up rows of this size
BLOCK_ROWS = 16  # that many at a time, on a CPU: what a core's cache holds


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, shape and dtype of one tensor, as both ends of a broadcast must hold it."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Bucket:
    """Tensors that travel together: tensor i lies `starts[i]` bytes after the bucket's start. `num_bytes` is the bucket's size
    with the gaps that align its tensors."""

    specs: tuple[TensorSpec, ...]
    starts: tuple[int, ...]
    num_bytes: int

    @staticmethod
    def of(specs: Iterable[TensorSpec]) -> Bucket:
        specs, starts, end = tuple(specs), [], 0
        for spec in specs:
            starts.append(-(-end // ALIGN) * ALIGN)
            end = starts[-1] + spec.num_bytes
        return Bucket(specs, tuple(starts), end)


def named_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A model's parameters by name, tied ones once, in the model's order."""
    return {name: p.data for name, p in model.named_parameters()}


def specs(weights: Mapping[str, torch.Tensor]) -> list[TensorSpec]:
    return [TensorSpec(name, tuple(t.shape), t.dtype) for name, t in weights.items()]


def plan_buckets(tensors: Iterable[TensorSpec], bucket_bytes: int) -> list[Bucket]:
    """How tensors travel: large ones (`ALONE_BYTES`, or a whole bucket) alone, the others in order in buckets of at most
    `bucket_bytes` with their gaps."""
    plan: list[Bucket] = []
    open_bucket: list[TensorSpec] = []
    end = 0
    for spec in tensors:
        if spec.num_bytes >= min(ALONE_BYTES, bucket_bytes):
            plan.append(Bucket.of([spec]))
            continue
        start = -(-end // ALIGN) * ALIGN
        if open_bucket and start + spec.num_bytes > bucket_bytes:
            plan.append(Bucket.of(open_bucket))
            open_bucket, start = [], 0
        open_bucket.append(spec)
        end = start + spec.num_bytes
    return [*plan, Bucket.of(open_bucket)] if open_bucket else plan


def raw_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor's bytes in order, uint8[bytes]; a view if the tensor is contiguous."""
    return tensor.detach().contiguous().view(-1).view(torch.uint8)


def pack(bucket: Bucket, weights: Mapping[str, torch.Tensor], out: torch.Tensor | None = None) -> torch.Tensor:
    """The bucket's tensors as one flat uint8 tensor: a single one as it lies in memory, several in (the beginning of) `out`,
    where that is given. What is in the gaps is left as it was."""
    if len(bucket.specs) == 1:
        return raw_bytes(weights[bucket.specs[0].name])
    if out is None:
        out = torch.empty(bucket.num_bytes, dtype=torch.uint8, device=weights[bucket.specs[0].name].device)
    for spec, start in zip(bucket.specs, bucket.starts, strict=True):
        out[start : start + spec.num_bytes].copy_(raw_bytes(weights[spec.name]))
    return out[: bucket.num_bytes]


def unpack(bucket: Bucket, flat: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and tensors of a packed bucket: views of its memory."""
    for spec, start in zip(bucket.specs, bucket.starts, strict=True):
        yield spec.name, flat[start : start + spec.num_bytes].view(spec.dtype).view(spec.shape)


def checksum(weights: Mapping[str, torch.Tensor]) -> int:
    """A 63-bit checksum of every tensor's name, shape, dtype and bytes, in order; equal on CPU and GPU."""
    return combine((spec, digest(weights[spec.name])) for spec in specs(weights))


def combine(digests: Iterable[tuple[TensorSpec, bytes]]) -> int:
    """The checksum of weights whose tensors have these digests."""
    total = hashlib.blake2b(digest_size=8)
    for spec, part in digests:
        total.update(f"{spec.name} {spec.shape} {spec.dtype}".encode() + part)
    return int.from_bytes(total.digest(), "little") >> 1


def digest(tensor: torch.Tensor) -> bytes:
    """16 bytes that say what a tensor's bytes are.

    They are the hash (blake2b) of sums: the tensor's 64-bit words as a matrix with rows of `ROW_BYTES`, its rows and its columns
    added up, wrapping. One altered word alters the sum of its column; of two swapped ones either the columns' sums change or,
    where both are in one column, the rows'. What fills no whole row is hashed as it is.
    """
    raw = raw_bytes(tensor)
    if raw.data_ptr() % 8:
        raw = raw.clone()  # 64-bit words have to lie at multiples of 8
    whole = len(raw) - len(raw) % ROW_BYTES
    hashed = hashlib.blake2b(raw[whole:].cpu().numpy().data, digest_size=16)
    if whole:
        rows = raw[:whole].view(torch.int64).view(-1, ROW_BYTES // 8)
        columns, sums = rows.new_zeros(rows.shape[1]), []
        for block in rows.split(len(rows) if rows.is_cuda else BLOCK_ROWS):
            columns += block.sum(0)
            sums.append(block.sum(1))
        hashed.update(torch.cat([columns, *sums]).cpu().numpy().data)
    return hashed.digest()
