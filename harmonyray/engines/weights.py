"""Weights as buckets of bytes: how they are cut for a broadcast, where they are received, and the checksum of both ends."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from xxhash import xxh3_128_digest

ALIGN = 64  # bytes; kernels may compute otherwise (in the last digit) with tensors that lie at odder places
FEW_WORDS, NARROW, WIDE = 1 << 10, 1 << 7, 1 << 13  # of the checksum's matrices: what needs none, and how wide they are
BLOCK_WORDS = 1 << 16  # words that are added up at a time on a CPU: what a core's cache holds


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
    """How tensors travel: in order, in buckets of at most `bucket_bytes` with their gaps; one that fills a bucket, alone."""
    plan: list[Bucket] = []
    open_bucket: list[TensorSpec] = []
    end = 0
    for spec in tensors:
        start = -(-end // ALIGN) * ALIGN
        if open_bucket and start + spec.num_bytes > bucket_bytes:
            plan.append(Bucket.of(open_bucket))
            open_bucket, start = [], 0
        open_bucket.append(spec)
        end = start + spec.num_bytes
    return [*plan, Bucket.of(open_bucket)] if open_bucket else plan


def lay_out(model: torch.nn.Module) -> None:
    """Moves a model's parameters next to each other in memory, aligned as in buckets, so that a bucket of any size is sent from
    where it lies. To be called before an optimizer is made; values, names and devices stay as they are."""
    everything = list(model.parameters())
    for device in {p.device for p in everything}:
        own = [p for p in everything if p.device == device]
        whole = Bucket.of(TensorSpec("", tuple(p.shape), p.dtype) for p in own)
        room = torch.empty(whole.num_bytes, dtype=torch.uint8, device=device)
        for p, (_, place) in zip(own, unpack(whole, room), strict=True):
            p.data = place.copy_(p.data)


def raw_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor's bytes in order, uint8[bytes]; a view if the tensor is contiguous."""
    return tensor.detach().contiguous().view(-1).view(torch.uint8)


def pack(bucket: Bucket, weights: Mapping[str, torch.Tensor], out: torch.Tensor | None = None) -> torch.Tensor:
    """The bucket's tensors as one flat uint8 tensor: where they are if they lie as the bucket says (see `lay_out`), else in (the
    beginning of) `out`, where that is given. What is in the gaps is left as it was."""
    if (there := in_place(bucket, weights)) is not None:
        return there
    if out is None:
        out = torch.empty(bucket.num_bytes, dtype=torch.uint8, device=weights[bucket.specs[0].name].device)
    for spec, start in zip(bucket.specs, bucket.starts, strict=True):
        out[start : start + spec.num_bytes].copy_(raw_bytes(weights[spec.name]))
    return out[: bucket.num_bytes]


def in_place(bucket: Bucket, weights: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
    """The memory that the bucket's tensors share if they lie there as the bucket says, uint8[bytes]; else None."""
    first = weights[bucket.specs[0].name]
    if len(bucket.specs) == 1:
        return raw_bytes(first)
    memory = first.untyped_storage()
    for spec, start in zip(bucket.specs, bucket.starts, strict=True):
        tensor = weights[spec.name]
        together = tensor.untyped_storage().data_ptr() == memory.data_ptr() and tensor.is_contiguous()
        if not together or tensor.data_ptr() != first.data_ptr() + start:
            return None
    begin = first.data_ptr() - memory.data_ptr()
    flat = torch.empty(0, dtype=torch.uint8, device=first.device)
    return flat.set_(memory, begin, (bucket.num_bytes,))  # type: ignore[call-overload]


def unpack(bucket: Bucket, flat: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and tensors of a packed bucket: views of its memory."""
    for spec, start in zip(bucket.specs, bucket.starts, strict=True):
        yield spec.name, flat[start : start + spec.num_bytes].view(spec.dtype).view(spec.shape)


def checksum(weights: Mapping[str, torch.Tensor]) -> int:
    """A 63-bit checksum of every tensor's name, shape, dtype and bytes, in order; another one on a GPU than on a CPU."""
    return combine((spec, digest(weights[spec.name])) for spec in specs(weights))


def combine(digests: Iterable[tuple[TensorSpec, bytes]]) -> int:
    """The checksum of weights whose tensors have these digests."""
    total = hashlib.blake2b(digest_size=8)
    for spec, part in digests:
        total.update(f"{spec.name} {spec.shape} {spec.dtype}".encode() + part)
    return int.from_bytes(total.digest(), "little") >> 1


def digest(tensor: torch.Tensor) -> bytes:
    """16 bytes that say what a tensor's bytes are: on a CPU their hash (XXH3), on a GPU the hash (blake2b) of sums over 64-bit
    words (see `_fold`). The two differ: both ends of a broadcast have to use the same kind of memory."""
    raw = raw_bytes(tensor)
    return xxh3_128_digest(raw.numpy().data) if raw.device.type == "cpu" else gpu_digest(raw)


def gpu_digest(raw: torch.Tensor) -> bytes:
    """The digest of uint8[bytes] as a GPU computes it; the same on a CPU."""
    if raw.data_ptr() % 8:
        raw = raw.clone()  # 64-bit words have to lie at multiples of 8
    whole = len(raw) - len(raw) % 8
    hashed = hashlib.blake2b(raw[whole:].cpu().numpy().data, digest_size=16)
    hashed.update(torch.cat(_fold(raw[:whole].view(torch.int64))).cpu().numpy().data)
    return hashed.digest()


def _fold(words: torch.Tensor) -> list[torch.Tensor]:
    """At most a few thousand words that differ if one of `words` int64[n] is altered or two are swapped.

    The words are laid out as a matrix, and its columns and rows added up, wrapping; these sums are then folded in their turn. One
    altered word alters the sum of its column by the same amount. Of two swapped ones either two columns' sums change, by an
    amount and its negative, or, where both are in one column, two rows' do; and so on in the next fold.
    """
    if len(words) <= FEW_WORDS:
        return [words]
    width = WIDE if len(words) >= 8 * WIDE else NARROW
    num_rows = len(words) // width
    rows, rest = words[: num_rows * width].view(num_rows, width), words[num_rows * width :]
    columns, sums = words.new_zeros(width), []
    for block in rows.split(num_rows if words.is_cuda else max(1, BLOCK_WORDS // width)):
        columns += block.sum(0)
        sums.append(block.sum(1))
    if len(rest):
        columns[: len(rest)] += rest
        sums.append(rest.sum().view(1))
    return [*_fold(columns), *_fold(torch.cat(sums))]
