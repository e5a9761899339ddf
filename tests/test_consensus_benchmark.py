"""The functions of benchmarks/consensus.py on a few questions: partitions, and reasons that the pairs themselves prove."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from harmonyray.answers.equivalence import Equivalence

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("consensus")
    sys.path.remove(str(BENCHMARKS))


class Scripted:
    """Both sides of a comparison, saying what they are told: equal pairs here and there, and what there cannot read."""

    def __init__(self, here: list[tuple[str, str]], there: list[tuple[str, str]], unread: str = "") -> None:
        self.here, self.there, self.unread = here, there, unread

    def check(self, pairs: list[tuple[str, str]]) -> list[Any]:
        from harmonyray.answers.equivalence import Verdict

        return [Verdict(pair in self.here or pair[::-1] in self.here, "ok") for pair in pairs]

    def decide(self, pairs: list[tuple[str, str]]) -> list[Any]:
        return self.check(pairs)

    def parse(self, text: str) -> list[str]:
        answer = text.partition("\\boxed{")[2].partition("}")[0]
        return [answer] if answer != self.unread else []

    def equal(self, a: list[str], b: list[str]) -> bool:
        return (*a, *b) in self.there


def differences(benchmark: ModuleType, scripted: Scripted, mine: list[int], other: list[int]) -> dict[tuple[str, str], str]:
    question = ("q", [[benchmark.response(answer) for answer in ("a", "b", "c")]])
    found = benchmark.differences([question], [mine], [other], scripted, scripted)
    return {(item["a"], item["b"]): f"{item['what']}: {item['why']}" for item in found}


def test_a_pair_of_a_third_answer(benchmark: ModuleType) -> None:
    """a = b and b = c here, so a and c are together; there nothing is."""
    scripted = Scripted(here=[("a", "b"), ("b", "c")], there=[("c", "b")], unread="a")
    assert differences(benchmark, scripted, [0, 0, 0], [0, 1, 2]) == {
        ("a", "b"): "joined here only: math-verify reads nothing in one of them",
        ("a", "c"): "joined here only: joined through a third answer",
        ("b", "c"): "joined here only: math-verify says equal the other way round only",
    }
    chain = Scripted(here=[], there=[("a", "b"), ("b", "c")])
    assert differences(benchmark, chain, [0, 1, 2], [0, 0, 0]) == {
        ("a", "b"): "joined by math-verify only: different by exact reading here; math-verify says equal",
        ("a", "c"): "joined by math-verify only: joined through a third answer",
        ("b", "c"): "joined by math-verify only: different by exact reading here; math-verify says equal",
    }


def test_real_answers(benchmark: ModuleType) -> None:
    """Ten answers of one question; naive math-verify reads 1/2, 0.5 and the fraction alike, too."""
    views = [["\\frac{1}{2}", "0.5", "1/2", "7", ""], ["0.5", "1 / 2", "8", "7", "none"]]
    question = ("q", [[benchmark.response(answer) for answer in row] for row in views])
    naive = benchmark.Naive()
    with Equivalence() as equivalence:
        (mine,) = benchmark.ours([question], equivalence)
        other = naive.pairwise(question)
        found = benchmark.differences([question], [mine], [other], equivalence, naive)
    assert mine[0] == mine[1] == mine[2] == mine[5] == mine[6] != mine[3] == mine[8]
    assert mine[4] == other[4] == -1
    assert other[0] == other[1] == other[2] != other[3]
    joined = [(item["a"], item["b"]) for item in found if {item["a"], item["b"]} <= {"\\frac{1}{2}", "0.5", "1/2", "7", "8"}]
    assert joined == []
    assert all(item["why"] for item in found)


def test_the_command_is_printed_whole(benchmark: ModuleType) -> None:
    arguments = ["/somewhere/math.jsonl", "--naive-questions", "3", "--max-answers", "1000", "--out", "benchmarks/results"]
    assert benchmark.command(arguments) == (
        "python benchmarks/consensus.py math.jsonl --naive-questions 3 --max-answers 1000 --out benchmarks/results"
    )


def test_repeated_answers_are_others(benchmark: ModuleType) -> None:
    questions = [("q", [["12", "x+3"], ["1.5", ""]])]
    copies = list(benchmark.repeated(questions, 10))
    assert [sum(len(row) for row in views) for _, views in copies] == [4, 4, 2]
    assert copies[1][1] == [["13", "x+4"], ["1.5", ""]]


def test_the_file_as_a_whole(benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "few.jsonl"
    path.write_text(
        '{"question_id": "q", "view": "a", "answers": ["1", "2"]}\n{"question_id": "q", "view": "b", "answers": ["1.0", ""]}\n'
    )
    arguments = [str(path), "--naive-questions", "0", "--max-answers", "1000", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["consensus.py", *arguments])
    benchmark.main()
    text = (tmp_path / "consensus-few.md").read_text()
    assert "--max-answers 1000" in text
    assert str(tmp_path) not in text
