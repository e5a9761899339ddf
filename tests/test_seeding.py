"""Seeds by name: equal parts give equal seeds everywhere and for ever, different ones different seeds."""

from __future__ import annotations

import hashlib
import itertools
import subprocess
import sys

import pytest

from harmonyray.seeding import derive_seed

# Worked out with `printf "%s" "(0,)" | b2sum -l 64` and the like, read little-endian, halved.
PARTS: list[tuple[tuple[int | str, ...], bytes]] = [
    ((0,), b"(0,)"),
    ((0, "train", 1, "p1", "solver", 0), b"(0, 'train', 1, 'p1', 'solver', 0)"),
    ((0, "eval", "a'b", "solver", 3), b"(0, 'eval', \"a'b\", 'solver', 3)"),
]


@pytest.mark.parametrize(("parts", "text"), PARTS)
def test_a_seed_is_half_of_a_64_bit_blake2b_of_the_parts(parts: tuple[int | str, ...], text: bytes) -> None:
    digest = hashlib.blake2b(text, digest_size=8).digest()
    assert derive_seed(*parts) == sum(byte << (8 * i) for i, byte in enumerate(digest)) // 2


def test_pinned() -> None:
    """A change here changes every run that anyone has made."""
    assert derive_seed(0, "train", 1, "p1", "solver", 0) == 7_114_746_175_164_005_588


def test_seeds_fit_where_they_go() -> None:
    seeds = [derive_seed("x", i) for i in range(2000)]
    assert all(0 <= s < 2**63 for s in seeds)
    assert max(seeds) > 2**62  # all 63 bits are used
    assert len({s % 2 for s in seeds}) == 2


def test_parts_that_look_alike_are_not() -> None:
    parts: list[tuple[int | str, ...]] = [
        (1, 2),
        (2, 1),
        (12,),
        ("12",),
        (1, "2"),
        ("1", 2),
        ("1, 2",),
        (1, 2, ""),
        (),
        ("",),
        ("a", "b"),
        ("ab",),
        ("a', 'b",),
    ]
    seeds = [derive_seed(*p) for p in parts]
    assert len(set(seeds)) == len(parts)


def test_no_two_samples_of_a_run_share_a_seed() -> None:
    keys = itertools.product(["train", "eval"], range(1, 6), [f"p{i}" for i in range(10)], ["solver", "reframer"], range(16))
    seeds = [derive_seed(0, *key) for key in keys]
    assert len(set(seeds)) == len(seeds) == 2 * 5 * 10 * 2 * 16


def test_another_process_with_another_hash_seed_agrees() -> None:
    code = "from harmonyray.seeding import derive_seed; print(derive_seed(3, 'train', 'x'))"
    for hash_seed in ("0", "1"):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONHASHSEED": hash_seed})
        assert int(done.stdout) == derive_seed(3, "train", "x")
