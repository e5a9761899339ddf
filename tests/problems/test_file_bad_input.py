"""Files that hold no usable problem set: each fault gives one message that names the place, the fault and the fix."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harmonyray.errors import ProblemError
from harmonyray.problems.file import FileSource
from harmonyray.types import Problem

ROWS: list[dict[str, Any]] = [
    {"id": "a", "question": "1+1?", "answer": "2", "level": 3},
    {"id": "b", "question": "2·3,\n“six”?", "answer": "6", "level": 4},
]


def jsonl(*rows: Any) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def source(path: Path, **options: Any) -> FileSource:
    return FileSource(FileSource.Options(path=str(path), **options))


def write(folder: Path, content: str | bytes, name: str = "set.jsonl") -> Path:
    path = folder / name
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return path


def read(folder: Path, *rows: Any, **options: Any) -> FileSource:
    return source(write(folder, jsonl(*rows)), **options)


def message(call: Callable[[], object]) -> str:
    with pytest.raises(ProblemError) as caught:
        call()
    return str(caught.value)


GOOD = '{"id": "a", "question": "q"}\n'
BAD_LINES: list[tuple[str, str | bytes, list[str]]] = [
    ("broken-json", GOOD + "\n{'id': 1}\n", ["line 3", "not JSON", "expected one JSON object per line"]),
    ("cut-off", GOOD + '{"id": "b", "quest', ["line 2", "not JSON"]),
    ("array-in-jsonl", "[\n{}\n]", ["line 1", "named .json"]),
    ("too-deep", GOOD + "[" * 100_000, ["line 2", "nested too deeply"]),
    ("huge-integer", '{"question": "q", "id": ' + "9" * 5000 + "}", ["line 1", "digits"]),
    ("huge-exponent", '{"question": "q", "id": 1e99999999999999999999}', ["line 1", "not JSON", "a number"]),
    ("latin-1", GOOD.encode() + '{"question": "caf\u00e9"}'.encode("latin-1"), ["line 2", "0xe9", "not UTF-8"]),
    ("utf-16", GOOD.encode("utf-16"), ["line 1", "not UTF-8"]),
    ("list", GOOD + '["q"]', ["line 2", "got an array", "expected an object"]),
    ("string", '"q"', ["line 1", "got a string", "expected an object"]),
    ("number", "5", ["line 1", "got a number", "expected an object"]),
    ("null", "null", ["line 1", "got null", "expected an object"]),
    ("no-question", '{"id": 1, "questions": "q"}', ["line 1", "no column 'question'", "mean 'questions'", "Set question_column"]),
    ("no-question-later", GOOD + '{"id": "b", "text": "q"}', ["line 2", "no column 'question'", "expected one of: id, text"]),
    ("no-columns", "{}", ["line 1", "no column 'question'", "no columns"]),
    ("empty-question", GOOD + '{"id": "b", "question": " \\n"}', ["line 2", "empty"]),
    ("null-question", GOOD + '{"id": "b", "question": null}', ["line 2", "missing or null", "expected a text"]),
    ("number-question", '{"id": "b", "question": 5}', ["line 1", "is 5", "expected a text"]),
    ("surrogate", '{"id": "b", "question": "a\\ud800"}', ["line 1", "'question'", "surrogate"]),
    ("surrogate-id", '{"id": "\\udfff", "question": "a"}', ["line 1", "'id'", "surrogate"]),
    ("empty", "", ["has no rows", "expected at least one problem"]),
    ("blank", "\n \n", ["has no rows", "expected at least one problem"]),
    ("duplicate", GOOD + "\n" + GOOD, ["line 3", "'a'", "line 1 already"]),
    ("duplicate-as-text", '{"id": 1, "question": "q"}\n{"id": "1", "question": "q"}', ["line 2", "'1'", "line 1 already"]),
    ("some-ids", GOOD + '{"question": "q"}', ["line 2", "no id in column 'id'", "line 1 has one"]),
    ("empty-id", '{"id": "", "question": "q"}', ["line 1", "the id in column 'id' is ''"]),
    ("list-id", '{"id": [1], "question": "q"}', ["line 1", "is [1]"]),
    ("true-id", '{"id": true, "question": "q"}', ["line 1", "is True"]),
    ("text-options", '{"question": "q", "options": "A or B"}', ["line 1", "'options'", "'A or B'", "options_column to ''"]),
    ("number-options", '{"question": "q", "options": [1, 2]}', ["line 1", "[1, 2]", "list of texts"]),
    ("dict-options", '{"question": "q", "options": {"A": "x"}}', ["line 1", "list of texts"]),
    ("blank-option", '{"question": "q", "options": ["a", ""]}', ["line 1", "none of them empty"]),
    ("one-option", '{"question": "q", "options": ["a"]}', ["line 1", "1 choices", "expected 2 to 26"]),
    ("27-options", json.dumps({"question": "q", "options": ["a"] * 27}), ["line 1", "27 choices", "expected 2 to 26"]),
]  # fmt: skip


@pytest.mark.parametrize(("content", "parts"), [c[1:] for c in BAD_LINES], ids=[c[0] for c in BAD_LINES])
def test_bad_lines(tmp_path: Path, content: str | bytes, parts: list[str]) -> None:
    read_from = source(write(tmp_path, content))
    for call in (read_from.problems, read_from.gold):
        text = message(call)
        assert str(tmp_path / "set.jsonl") in text
        assert [part for part in parts if part not in text] == [], text
        assert "\n" not in text and len(text) < 500 + len(str(tmp_path))


BAD_TABLES = [
    ("set.json", '{"data": []}', ["got an object", "expected one array"]),
    ("set.json", jsonl(*ROWS), ["line 2", "not JSON", "named .jsonl"]),
    ("set.json", '[\n{"question": "q"},\n{]', ["line 3", "not JSON"]),
    ("set.json", '[{"question": "q"}, 5]', ["row 2", "got a number", "expected an object"]),
    ("set.json", "", ["line 1", "not JSON"]),
    ("set.json", "[]", ["has no rows"]),
    ("set.csv", "", ["has no rows"]),
    ("set.csv", "id,question\n", ["has no rows"]),
    ("set.csv", "id,question\na,q\n\nb,q,r\n", ["line 4", "got 3 cells", "expected 2"]),
    ("set.csv", 'id,question\na,"two\nlines"\nb\n', ["line 4", "got 1 cells", "expected 2"]),
    ("set.csv", 'id,question\na,q\nb,"never closed\n', ["line 3", "not CSV"]),
    ("set.csv", "id,question,id\na,q,b\n", ["line 1", "'id' is named twice"]),
    ("set.csv", "id,question\na,\n", ["line 2", "empty"]),
    ("set.csv", 'id,question\na,"x\ny"\na,q\n', ["line 4", "line 2 already"]),
    ("set.csv", b"id,question\na,caf\xe9\n", ["line 2", "0xe9", "not UTF-8"]),
    ("set.parquet", b"", ["not a readable Parquet file"]),
    ("set.parquet", b"PAR1 nothing of the kind PAR1", ["set.parquet"]),
]


@pytest.mark.parametrize(("name", "content", "parts"), BAD_TABLES)
def test_bad_tables(tmp_path: Path, name: str, content: str | bytes, parts: list[str]) -> None:
    text = message(source(write(tmp_path, content, name)).problems)
    assert str(tmp_path / name) in text
    assert [part for part in parts if part not in text] == [], text


def test_bad_parquet_rows(tmp_path: Path) -> None:
    path = tmp_path / "set.parquet"
    pq.write_table(pa.table({"id": ["a", "b"], "question": ["q", None]}), path)
    assert "row 2: the question in column 'question' is missing or null" in message(source(path).problems)
    broken = _invalid_utf8()
    pq.write_table(pa.table({"question": broken}), path)
    assert "not UTF-8" in message(source(path).problems)
    pq.write_table(pa.table({"text": ["q"], "other": ["r"]}), path)
    assert "row 1: no column 'question' with the question; expected one of: other, text" in message(source(path).problems)
    pq.write_table(pa.table({"question": pa.array([], pa.string())}), path)
    assert "has no rows" in message(source(path).problems)


def _invalid_utf8() -> pa.Array:
    """A string array whose second text is not UTF-8."""
    return pa.StringArray.from_buffers(2, pa.py_buffer(b"\0\0\0\0\x02\0\0\0\x04\0\0\0"), pa.py_buffer(b"ok\xff\xfe"))


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"id_column": "ids"}, ["no row has the column 'ids'", "did you mean 'id'", "Set id_column"]),
        ({"options_column": "choices"}, ["no row has the column 'choices'", "Set options_column"]),
        ({"kind_column": "kind"}, ["no row has the column 'kind'", "Set kind_column"]),
        ({"kind_column": "level"}, ["line 1", "is 3", "math, number, choice"]),
    ],
)
def test_columns_that_are_not_there(tmp_path: Path, options: dict[str, Any], parts: list[str]) -> None:
    text = message(read(tmp_path, *ROWS, **options).problems)
    assert [part for part in parts if part not in text] == [], text


def test_choices_against_the_kind_column(tmp_path: Path) -> None:
    row = {"question": "q", "options": ["a", "b"], "sort": "math"}
    assert "2 choices but column 'sort' says 'math'" in message(read(tmp_path, row, kind_column="sort").problems)
    assert read(tmp_path, row, kind_column="sort", options_column="").problems() == [Problem("set/0", "q", "math")]


def test_paths_that_are_no_problem_file(tmp_path: Path) -> None:
    write(tmp_path, GOOD, "problems.jsonl")
    missing = message(source(tmp_path / "problem.jsonl").problems)
    assert "no such file" in missing and "did you mean 'problems.jsonl'" in missing
    assert "folder does not exist" in message(source(tmp_path / "no" / "x.jsonl").problems)
    folder = message(source(tmp_path).problems)
    assert "is a directory" in folder and "problems.jsonl" in folder
    for name, got in (("set.txt", "'.txt'"), ("set", "no extension"), ("set.jsonl.gz", "'.gz'")):
        text = message(source(write(tmp_path, GOOD, name)).problems)
        assert got in text and "expected one of .jsonl, .ndjson, .json, .csv, .parquet" in text
    assert "no such file" in message(source(Path("bad\0name.jsonl")).problems)
    assert "cannot be looked at" in message(source(tmp_path / ("x" * 5000 + ".jsonl")).problems)
    os.mkfifo(tmp_path / "pipe.jsonl")
    assert "expected a regular file" in message(source(tmp_path / "pipe.jsonl").problems)


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, GOOD)

    def refuse(self: Path, *args: Any, **kwargs: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)  # root may read everything, so modes would not do
    assert f"{path} cannot be read (Permission denied)" in message(source(path).problems)
