"""What the tests of `harmonyray.answers` share: one solver for the session, and the recorded data where it is there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harmonyray.answers.equivalence import Equivalence

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"


@pytest.fixture(scope="session")
def equivalence() -> Iterator[Equivalence]:
    # a limit far above what any honest pair takes, so that a busy machine cannot turn a test
    with Equivalence(limit_s=20.0) as shared:
        yield shared


@pytest.fixture(scope="session")
def shared_rows() -> Callable[[str], list[dict[str, Any]]]:
    """Reads a JSON-lines file under shared/data, or skips the test."""

    def rows(name: str) -> list[dict[str, Any]]:
        path = SHARED / name
        if not path.exists():
            pytest.skip(f"no recorded data: {name} is not in shared/data beside the repository")
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    return rows
