"""The table "What counts as equal" of docs/vote.md, every example of it."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

from harmonyray.answers.equivalence import Equivalence

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "vote.md").read_text(encoding="utf-8")


def examples() -> list[tuple[str, str, bool]]:
    """(answer, answer, whether they are equal): neighbours in a group of a cell; groups are parted by semicolons."""
    section = TEXT.partition("## What counts as equal")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| ")][1:]
    cells = [(cell, equal) for _, yes, no in rows for cell, equal in ((yes, True), (no, False))]
    groups = [(re.findall(r"`([^`]+)`", group), equal) for cell, equal in cells for group in cell.split(";")]
    return [(a, b, equal) for answers, equal in groups for a, b in pairwise(answers)]


def test_there_are_examples_of_both() -> None:
    assert [sum(equal is wanted for _, _, equal in examples()) > 12 for wanted in (True, False)] == [True, True]


@pytest.fixture(scope="module")
def equivalence():  # type: ignore[no-untyped-def]
    with Equivalence() as opened:
        yield opened


@pytest.mark.parametrize(("a", "b", "equal"), examples())
def test_an_example_of_the_docs(equivalence: Equivalence, a: str, b: str, equal: bool) -> None:
    assert equivalence.equal(a, b) is equal
    assert equivalence.equal(b, a) is equal
