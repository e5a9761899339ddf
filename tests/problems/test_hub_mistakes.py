"""Mistakes with the hub source: each gives one message that names the place, the fault and the fix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hub_helpers import CANARY, SCHEMAS, folder, hub

from harmonyray.errors import ConfigError, ProblemError
from harmonyray.problems.hub import HubSource
from harmonyray.registry import make_options
from harmonyray.types import Problem

pytestmark = pytest.mark.usefixtures("own_cache")


def message(source: HubSource) -> str:
    with pytest.raises(ProblemError) as caught:
        source.problems()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"split": "test"}, ["there is no split 'test'", "it has 'train'", "set problems.split"]),
        ({"split": "train", "question_column": "Qestion"}, ["no column 'Qestion'", "did you mean 'Question'", "question_column"]),
        ({"split": "train", "category_column": "Subdomian"}, ["no row has the column 'Subdomian'", "mean 'Subdomain'"]),
        ({"split": "train", "wrong_answer_columns": ["Incorrect Answer 4"]}, ["'Incorrect Answer 4'", "'Incorrect Answer 1'"]),
        ({"split": "train", "only": {"Subdomain": "Botany"}}, ["only={'Subdomain': 'Botany'}", "Subdomain is one of Optics"]),
        ({"split": "train", "only": {"Sub": "x"}}, ["no row has the column 'Sub'", "Set only"]),
        ({"split": "train", "revision": "v1"}, ["has no revisions"]),
    ],
)
def test_wrong_split_and_columns(tmp_path: Path, options: dict[str, Any], parts: list[str]) -> None:
    at = folder(tmp_path / "gpqa", SCHEMAS["gpqa_diamond"], "train")
    text = message(hub(name="gpqa_diamond", dataset=str(at), **options))
    assert [part for part in parts if part not in text] == [], text


def test_several_splits_have_to_be_told_apart(tmp_path: Path) -> None:
    at = folder(tmp_path / "two", [{"question": "a?"}], "train")
    folder(at, [{"question": "b?"}], "test")
    assert "has the splits train, test" in message(hub(dataset=str(at)))
    assert hub(dataset=str(at), split="test").problems() == [Problem("two/test/0", "b?")]


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b'{"question": "caf\xe9"}\n', ["row 1", "not UTF-8"]),
        (b'{"question": "q?", "answer": "canary-77c1"}\n{"question": "r?", "ans', ["cannot be read", "repair the files"]),
        (b"", ["no rows"]),
        (b'{"id": "a", "question": "q?"}\n{"id": "a", "question": "r?"}\n', ["row 2", "id 'a' was given to row 1 already"]),
        (b'{"id": "a", "question": ""}\n', ["row 1", "empty"]),
        (b'{"id": "a", "text": "q?"}\n', ["no column 'question'"]),
        (b'{"question": "q?", "options": ["a"]}\n', ["row 1", "1 choices"]),
    ],
)
def test_broken_files(tmp_path: Path, content: bytes, parts: list[str]) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "test.jsonl").write_bytes(content)
    text = message(hub(dataset=str(tmp_path / "set"), split="test"))
    assert [part for part in parts if part not in text] == [], text
    assert CANARY not in text and str(tmp_path / "set") in text


def test_broken_csv(tmp_path: Path) -> None:
    (tmp_path / "set.csv").write_bytes(b"question,answer\ncaf\xe9,2\n")
    assert "not UTF-8" in message(hub(dataset=str(tmp_path / "set.csv")))


@pytest.mark.parametrize(
    ("row", "options", "part"),
    [
        ({"answer": "E"}, {}, "is 'E'; expected a letter from A to C"),
        ({"answer": 3}, {"answer_index_from": 0}, "is '3'; of 3 choices, expected a position from 0 to 2"),
        ({"answer": 0}, {"answer_index_from": 1}, "is '0'; of 3 choices, expected a position from 1 to 3"),
        ({"answer": "C"}, {"answer_index_from": 1}, "is 'C'; of 3 choices, expected a position"),
        ({"answer": "no hashes"}, {"answer_after": "####"}, "has nothing after '####'"),
        ({"answer": "####  "}, {"answer_after": "####"}, "has nothing after '####'"),
        ({"answer": None}, {"answer_column": "answer"}, "no answer in column 'answer' (1 of 2"),
    ],
)
def test_answers_out_of_range(tmp_path: Path, row: dict[str, Any], options: dict[str, Any], part: str) -> None:
    first = {"0": {"answer": 0}, "1": {"answer": 1}}.get(str(options.get("answer_index_from")), {"answer": "A"})
    first = {"answer": "#### A"} if "answer_after" in options else first
    rows = [{"question": "q?", "options": ["x", "y", "z"], **r} for r in (first, row)]
    at = folder(tmp_path / "set", rows, parquet=False)
    with pytest.raises(ProblemError) as caught:
        hub(dataset=str(at), split="test", **options).gold()
    assert part in str(caught.value) and "row 2" in str(caught.value)


def test_an_empty_cell_among_the_choices(tmp_path: Path) -> None:
    rows = [dict(SCHEMAS["gpqa_diamond"][0], **{"Incorrect Answer 2": None})]
    text = message(hub(name="gpqa_diamond", dataset=str(folder(tmp_path / "set", rows, "train"))))
    assert "row 1: no choice in column 'Incorrect Answer 2'" in text


def test_places_that_hold_no_data(tmp_path: Path) -> None:
    assert "no such file or folder" in message(hub(dataset=str(tmp_path / "nothing")))
    assert "no such file or folder" in message(hub(dataset="./nothing"))
    assert "cannot be read" in message(hub(dataset=str(tmp_path)))
    (tmp_path / "notes.txt").write_text("x")
    assert "extension '.txt'" in message(hub(dataset=str(tmp_path / "notes.txt")))
    (tmp_path / "x.jsonl").write_text('{"question": "q?"}\n')
    assert "no configurations" in message(hub(dataset=str(tmp_path / "x.jsonl"), config="main"))


@pytest.mark.parametrize(
    ("values", "error", "expected"),
    [
        ({}, ConfigError, "name a benchmark"),
        ({"name": "math50"}, ProblemError, "no benchmark is called 'math50': did you mean 'math500'"),
        ({"name": "gsm8k", "splt": "test"}, ConfigError, r"unknown option 'problems\.splt': did you mean 'split'"),
        ({"name": "gsm8k", "question_column": "answer"}, ConfigError, "question_column and answer_column both name"),
        ({"name": "gpqa_diamond", "category_column": "Correct Answer"}, ConfigError, "the column of the gold answers"),
        ({"name": "gpqa_diamond", "options_column": "x"}, ConfigError, "both give choices"),
        (
            {"name": "gpqa_diamond", "answer_column": ""},
            ConfigError,
            "answer_column is '': name its column",
        ),
        ({"dataset": "x/y", "answer_column": "", "wrong_answer_columns": ["no"]}, ConfigError, "answer_column is ''"),
        ({"name": "gpqa_diamond", "answer_index_from": 0}, ConfigError, "do not go together"),
        ({"name": "math500", "only": {"answer": "2"}}, ConfigError, "only names 'answer', the column of the gold answers"),
        ({"name": "math500", "rewording_columns": ["answer"]}, ConfigError, "rewording_columns names 'answer'"),
    ],
)
def test_bad_options(values: dict[str, Any], error: type[Exception], expected: str) -> None:
    with pytest.raises(error, match=expected):
        make_options("problems", "hub", "problems", values)
