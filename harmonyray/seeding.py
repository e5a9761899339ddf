"""Seeds derived by name: every random choice of a run is a function of the run's seed and of what it is for."""

from __future__ import annotations

import hashlib


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from the parts, e.g. `derive_seed(run_seed, "train", step, problem_id, view, sample)`.

    Equal parts give equal seeds on every machine and Python; 1 and "1" are different parts.
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
