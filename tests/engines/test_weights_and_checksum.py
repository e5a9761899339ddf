"""Packing, bucket plans, and what the checksum must notice."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harmonyray.engines.hf import HfEngine
from harmonyray.engines.weights import (
    NARROW,
    WIDE,
    Bucket,
    TensorSpec,
    checksum,
    combine,
    digest,
    gpu_digest,
    in_place,
    lay_out,
    named_weights,
    pack,
    plan_buckets,
    raw_bytes,
    specs,
    unpack,
)

MakeEngine = Callable[..., HfEngine]
Weights = dict[str, torch.Tensor]

MIXED: Weights = {
    "odd.bf16": torch.arange(7, dtype=torch.bfloat16),
    "matrix.f32": torch.linspace(-3, 3, 15).reshape(3, 5),
    "scalar.f32": torch.tensor(2.5),
    "odd.u8": torch.tensor([1, 2, 3], dtype=torch.uint8),
    "empty.f32": torch.zeros(0, 4),
    "half.f16": torch.tensor([[1.5], [-2.5], [0.0]], dtype=torch.float16),
    "flags": torch.tensor([True, False, True, True, False]),
    "big.f64": torch.arange(40, dtype=torch.float64),
    "last.bf16": torch.tensor([3.0], dtype=torch.bfloat16),
}

Digest = Callable[[torch.Tensor], bytes]


def sizes(buckets: list[Bucket]) -> list[list[int]]:
    return [[s.num_bytes for s in bucket.specs] for bucket in buckets]


def spec(num_bytes: int) -> TensorSpec:
    return TensorSpec(f"t{num_bytes}", (num_bytes,), torch.uint8)


# --- buckets ---------------------------------------------------------------------------------------------------------


def test_specs_name_shape_dtype_and_bytes() -> None:
    by_name = {s.name: s for s in specs(MIXED)}
    assert list(by_name) == list(MIXED)
    assert by_name["matrix.f32"] == TensorSpec("matrix.f32", (3, 5), torch.float32)
    assert {name: s.num_bytes for name, s in by_name.items()} == {
        "odd.bf16": 14,
        "matrix.f32": 60,
        "scalar.f32": 4,
        "odd.u8": 3,
        "empty.f32": 0,
        "half.f16": 6,
        "flags": 5,
        "big.f64": 320,
        "last.bf16": 2,
    }


def test_plan_by_hand() -> None:
    """Every tensor begins at a multiple of 64 bytes, all in their order, and one larger than a bucket goes alone."""
    tensors = [spec(n) for n in (60, 64, 3, 500, 10, 200, 64, 64, 64)]
    plan = plan_buckets(tensors, 256)
    assert sizes(plan) == [[60, 64, 3], [500], [10], [200], [64, 64, 64]]
    assert [b.starts for b in plan] == [(0, 64, 128), (0,), (0,), (0,), (0, 64, 128)]
    assert [b.num_bytes for b in plan] == [131, 500, 10, 200, 192]
    assert sizes(plan_buckets(tensors, 1)) == [[n] for n in (60, 64, 3, 500, 10, 200, 64, 64, 64)]
    assert sizes(plan_buckets(tensors, 10_000)) == [[60, 64, 3, 500, 10, 200, 64, 64, 64]]
    # A full bucket is used to the last byte.
    assert sizes(plan_buckets([spec(64), spec(192), spec(1)], 256)) == [[64, 192], [1]]
    assert plan_buckets([], 10) == []


@given(st.lists(st.integers(0, 400), max_size=30), st.integers(1, 500))
def test_plan_keeps_everything_aligned_and_within_size(num_bytes: list[int], limit: int) -> None:
    tensors = [TensorSpec(str(i), (n,), torch.uint8) for i, n in enumerate(num_bytes)]
    buckets = plan_buckets(tensors, limit)
    assert [s for bucket in buckets for s in bucket.specs] == tensors
    for bucket in buckets:
        assert bucket.num_bytes <= limit or len(bucket.specs) == 1
        assert all(start % 64 == 0 for start in bucket.starts)
        ends = [start + s.num_bytes for start, s in zip(bucket.starts, bucket.specs, strict=True)]
        assert all(end <= start < end + 64 for end, start in pairwise_ends(ends, bucket.starts))
        assert ends[-1] == bucket.num_bytes
    # No two neighbours would have fitted into one.
    for a, b in pairwise(buckets):
        assert -(-a.num_bytes // 64) * 64 + b.specs[0].num_bytes > limit


def pairwise_ends(ends: list[int], starts: tuple[int, ...]) -> list[tuple[int, int]]:
    """Each tensor's end with the start of the next."""
    return list(zip(ends[:-1], starts[1:], strict=True))


@pytest.mark.parametrize("bucket_bytes", [1, 3, 16, 64, 100, 1 << 20])
def test_round_trip(bucket_bytes: int) -> None:
    got: Weights = {}
    for bucket in plan_buckets(specs(MIXED), bucket_bytes):
        flat = pack(bucket, MIXED)
        assert flat.dtype == torch.uint8
        assert flat.shape == (bucket.num_bytes,)
        got.update(unpack(bucket, flat))
    assert got.keys() == MIXED.keys()
    for name, want in MIXED.items():
        assert got[name].dtype == want.dtype
        assert got[name].shape == want.shape
        assert torch.equal(got[name], want), name
    assert checksum({name: got[name] for name in MIXED}) == checksum(MIXED)


def test_round_trip_of_views_and_special_values() -> None:
    base = torch.tensor([[float("nan"), float("inf"), -0.0], [1e-45, -1.0, 3.0]])
    weights = {"transposed": base.T, "every.second": torch.arange(10.0)[::2], "offset": torch.arange(7, dtype=torch.bfloat16)[1:]}
    (bucket,) = plan_buckets(specs(weights), 1000)
    got = dict(unpack(bucket, pack(bucket, weights)))
    assert torch.equal(got["transposed"].contiguous().view(torch.int32), base.T.contiguous().view(torch.int32))
    assert got["every.second"].tolist() == [0, 2, 4, 6, 8]
    assert got["offset"].tolist() == [1, 2, 3, 4, 5, 6]
    assert checksum(got) == checksum(weights)


def test_a_tensor_alone_is_sent_from_where_it_lies_and_several_from_one_place() -> None:
    weights = {"large": torch.zeros(10), "a": torch.ones(2), "b": torch.full((3,), 2.0)}
    together = Bucket.of(specs(weights)[1:])
    assert pack(Bucket.of(specs(weights)[:1]), weights).data_ptr() == weights["large"].data_ptr()
    room = torch.full((500,), 7, dtype=torch.uint8)
    flat = pack(together, weights, room)
    assert (flat.data_ptr(), len(flat)) == (room.data_ptr(), 64 + 12)
    assert room[64 + 12 :].unique().tolist() == [7]
    got = dict(unpack(together, flat))
    assert (got["a"].tolist(), got["b"].tolist()) == ([1, 1], [2, 2, 2])
    assert got["b"].data_ptr() == room.data_ptr() + 64


def test_a_model_that_is_laid_out_is_sent_from_where_it_lies_in_buckets_of_any_size() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(5, 7), torch.nn.Linear(7, 3, bias=False), torch.nn.Embedding(9, 3, dtype=torch.bfloat16)
    )
    model.tied = model[1]
    before = {name: tensor.clone() for name, tensor in named_weights(model).items()}
    lay_out(model)
    weights = named_weights(model)
    assert checksum(weights) == checksum(before)
    for bucket_bytes in (1, 100, 256, 10_000):
        for bucket in plan_buckets(specs(weights), bucket_bytes):
            flat = pack(bucket, weights)
            assert flat.data_ptr() == weights[bucket.specs[0].name].data_ptr()
            assert all(torch.equal(got, before[name]) for name, got in unpack(bucket, flat))
    assert in_place(Bucket.of(specs(before)), before) is None
    swapped = Bucket.of(reversed(specs(weights)[:2]))
    assert in_place(swapped, weights) is None
    model[0].bias.data.fill_(4)
    assert weights["0.bias"].tolist() == [4] * 7, "still the model's own"


# --- the checksum ----------------------------------------------------------------------------------------------------


def copied(weights: Weights) -> Weights:
    return {name: t.clone() for name, t in weights.items()}


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """The memory of a contiguous tensor, writable."""
    return tensor.view(-1).view(torch.uint8)


def test_equal_weights_have_equal_checksums(engine_of: MakeEngine) -> None:
    weights = engine_of("quickstart").weights()
    assert checksum(weights) == checksum(copied(weights))
    assert 0 <= checksum(weights) < 1 << 63
    # It depends on values, not on where they lie in memory.
    assert checksum({"a": torch.arange(12.0).reshape(3, 4).T}) == checksum({"a": torch.arange(12.0).reshape(3, 4).T.contiguous()})


@given(st.data())
def test_one_flipped_bit_shows(data: st.DataObject) -> None:
    altered = copied(MIXED)
    name = data.draw(st.sampled_from([n for n, t in MIXED.items() if t.numel() and t.dtype != torch.bool]))
    raw = as_bytes(altered[name])
    i = data.draw(st.integers(0, len(raw) - 1))
    raw[i] ^= 1 << data.draw(st.integers(0, 7))
    assert checksum(altered) != checksum(MIXED)


def test_one_flipped_bit_in_a_model_shows(engine_of: MakeEngine) -> None:
    weights = engine_of("quickstart").weights()
    sent = checksum(weights)
    names = list(weights)
    for name in (names[0], names[7], names[-1]):
        altered = dict(weights) | {name: weights[name].clone()}
        raw = as_bytes(altered[name])
        for i in (0, len(raw) // 2, len(raw) - 1):
            raw[i] ^= 1
            assert checksum(altered) != sent
            raw[i] ^= 1
        assert checksum(altered) == sent


@given(st.data())
def test_two_swapped_words_show(data: st.DataObject) -> None:
    n = data.draw(st.integers(2, 50))
    words = torch.tensor(data.draw(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=n, max_size=n)), dtype=torch.int32)
    i, j = data.draw(st.integers(0, n - 1)), data.draw(st.integers(0, n - 1))
    swapped = words.clone()
    swapped[i], swapped[j] = words[j], words[i]
    assert (checksum({"a": swapped}) == checksum({"a": words})) == torch.equal(words, swapped)


@pytest.mark.parametrize("digest", [digest, lambda tensor: gpu_digest(raw_bytes(tensor))], ids=["cpu", "gpu"])
@pytest.mark.parametrize("distance", [1, 2**16, 65521, 2 * 65521, 2**22, 2**22 + 1])
def test_swapped_words_show_at_any_distance(distance: int, digest: Digest) -> None:
    words = torch.zeros(2**22 + 10, dtype=torch.int32)
    words[3] = 1
    other = torch.zeros_like(words)
    other[3 + distance] = 1
    assert digest(words) != digest(other)


def test_what_a_gpu_sums_up_shows_a_flipped_bit_anywhere() -> None:
    """Also in the last bytes, which fill no word, and in memory that does not begin at a word."""
    for start in (0, 4):
        raw = torch.arange(20_005, dtype=torch.int32).view(torch.uint8)[start : 80_003 + start]
        sent = gpu_digest(raw)
        for i in (0, 7, 8, 40_000, 79_999, 80_000, 80_002):
            raw[i] ^= 1
            assert gpu_digest(raw) != sent
            raw[i] ^= 1
        assert gpu_digest(raw) == sent


@pytest.mark.parametrize("digest", [digest, lambda tensor: gpu_digest(raw_bytes(tensor))], ids=["cpu", "gpu"])
@pytest.mark.parametrize("num_words", [1024, 1025, 1 << 12, 8 * WIDE - 1, 8 * WIDE, 9 * WIDE + 77, 40 * WIDE])
@given(data=st.data())
def test_swaps_and_changes_in_the_matrices_of_sums_show(num_words: int, digest: Digest, data: st.DataObject) -> None:
    """Matrices of both widths, with and without a rest: within a row, a column, and whatever the next fold puts together. The
    words are equal but for the pair, and their highest bits count, too."""
    words = torch.zeros(num_words, dtype=torch.int64)
    i = data.draw(st.integers(0, num_words - 1))
    steps = (1, 2, NARROW, NARROW + 1, NARROW * NARROW, WIDE, WIDE + 1, 8 * WIDE, WIDE * NARROW)
    j = data.draw(
        st.sampled_from([k for k in (*(i + step for step in steps), *(i - step for step in steps)) if 0 <= k < num_words])
    )
    value = data.draw(st.sampled_from([1, -1, 1 << 31, 1 << 32, -(1 << 63), 1 << 62]))
    words[i] = value
    swapped = torch.zeros_like(words)
    swapped[j] = value
    assert len({digest(words), digest(swapped), digest(torch.zeros_like(words))}) == 3
    halves = words.view(torch.int32).clone()
    halves[2 * i], halves[2 * i + 1] = int(halves[2 * i + 1]), int(halves[2 * i])
    assert (digest(halves) == digest(words)) == torch.equal(halves, words.view(torch.int32))


def test_the_checksum_combines_digests_in_order() -> None:
    weights = {"a": torch.arange(3.0), "b": torch.arange(4.0)}
    parts = [(s, digest(weights[s.name])) for s in specs(weights)]
    assert combine(parts) == checksum(weights) != combine(parts[::-1])
    assert len(parts[0][1]) == 16


def test_the_bytes_after_the_last_whole_word_have_an_order() -> None:
    for one, other in (([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 6, 5]), ([1, 2, 3], [1, 3, 2]), ([0, 7], [7, 0])):
        a, b = (torch.tensor(x, dtype=torch.uint8) for x in (one, other))
        assert checksum({"a": a}) != checksum({"a": b})


def test_swapped_tensors_show() -> None:
    a, b = torch.arange(6.0), torch.arange(6.0) * 2
    sent = checksum({"layers.12.w": a, "layers.21.w": b})
    assert checksum({"layers.12.w": b, "layers.21.w": a}) != sent
    # Names count too, also where one is a rearrangement of the other.
    assert checksum({"layers.21.w": a, "layers.12.w": b}) != sent
    assert checksum({"layers.21.w": b, "layers.12.w": a}) != sent
    assert checksum({"layers.12.w": a}) != sent


def test_shape_and_dtype_count() -> None:
    flat = torch.arange(6.0)
    seen = [checksum({"a": t}) for t in (flat, flat.reshape(2, 3), flat.reshape(3, 2), flat.view(torch.int32))]
    assert len(set(seen)) == 4
    assert checksum({"a": torch.zeros(3)}) != checksum({"a": torch.zeros(4)})
    assert checksum({}) != checksum({"a": torch.zeros(0)})


def test_tensors_that_are_not_aligned_to_words() -> None:
    tensor = torch.arange(9, dtype=torch.bfloat16)
    assert checksum({"a": tensor[1:]}) == checksum({"a": tensor[1:].clone()})


def test_tied_embeddings_count_once(engine_of: MakeEngine) -> None:
    model = engine_of("qwen2_tied").model
    weights = named_weights(model)
    assert len({t.data_ptr() for t in weights.values()}) == len(weights)
    assert sum(t.numel() for t in weights.values()) == model.num_parameters()
    assert not any(t.requires_grad for t in weights.values())
    # The same values in a model that is not tied are another set of weights.
    assert checksum(weights) != checksum(weights | {"lm_head.weight": weights["model.embed_tokens.weight"]})
