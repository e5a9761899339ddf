"""Categories, rewordings, rows picked by value, forms of answers, and the columns that are taken without being named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harmonyray.errors import ConfigError, ProblemError
from harmonyray.problems.file import FileSource
from harmonyray.registry import make_options
from harmonyray.types import Problem

BENCH = Path(__file__).resolve().parents[3] / "shared" / "data" / "bench"
ROWS: list[dict[str, Any]] = [
    {"id": "a", "question": "1+1?", "answer": "2", "level": 3, "subject": "sums"},
    {"id": "b", "question": "2*3?", "answer": "6", "level": 4, "subject": "products"},
    {"id": "c", "question": "2+3?", "answer": "5", "level": 3, "subject": "sums"},
]


def read(folder: Path, *rows: dict[str, Any], **options: Any) -> FileSource:
    path = folder / "set.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return FileSource(FileSource.Options(path=str(path), **options))


def fault(source: FileSource) -> str:
    with pytest.raises(ProblemError) as caught:
        source.problems()
        source.gold()
    return str(caught.value)


# --- categories ---


@pytest.mark.parametrize(
    ("value", "category"),
    [
        (3, "level 3"),
        ("3", "level 3"),
        (3.0, "3.0"),
        ("Level 3", "Level 3"),
        (" hard ", "hard"),
        (None, ""),
        ("", ""),
        (-1, "-1"),
    ],
)
def test_a_number_alone_says_what_it_counts(tmp_path: Path, value: Any, category: str) -> None:
    (problem,) = read(tmp_path, {"question": "q", "level": value}, category_column="level").problems()
    assert problem.category == category


def test_category_of_csv_and_parquet(tmp_path: Path) -> None:
    (tmp_path / "set.csv").write_text("question,level\nq,3\n")
    pq.write_table(pa.Table.from_pylist([{"question": "q", "level": 3}]), tmp_path / "set.parquet")
    for name in ("set.csv", "set.parquet"):
        source = FileSource(FileSource.Options(path=str(tmp_path / name), category_column="level"))
        assert [p.category for p in source.problems()] == ["level 3"]


def test_category_is_taken_by_name_or_ignored(tmp_path: Path) -> None:
    row = {"question": "q", "category": "physics"}
    assert read(tmp_path, row).problems()[0].category == "physics"
    assert read(tmp_path, row, category_column="").problems()[0].category == ""
    assert "no row has the column 'categry'; did you mean 'category'" in fault(read(tmp_path, row, category_column="categry"))
    assert "is [1]; expected a text or a number" in fault(read(tmp_path, {"question": "q", "category": [1]}))


# --- rewordings ---


def test_rewordings_by_column(tmp_path: Path) -> None:
    row = {"question": "q", "short": "s", "long": "l l"}
    (problem,) = read(tmp_path, row, rewording_columns=["long", "short"]).problems()
    assert problem.rewordings == {"long": "l l", "short": "s"}
    assert read(tmp_path, row).problems()[0].rewordings == {}


@pytest.mark.parametrize(
    ("rows", "part"),
    [
        ([{"r": "x"}, {"r": ""}], "line 2: the rewording in column 'r' is empty"),
        ([{"r": "x"}, {}], "line 2: the rewording in column 'r' is missing or null"),
        ([{"r": 5}], "line 1: the rewording in column 'r' is 5"),
        ([{"re": "x"}], "no row has the column 'r'"),
    ],
)
def test_a_rewording_that_is_not_there(tmp_path: Path, rows: list[dict[str, Any]], part: str) -> None:
    assert part in fault(read(tmp_path, *({"question": "q", **row} for row in rows), rewording_columns=["r"]))


@pytest.mark.parametrize(
    ("value", "expected"), [({"a": "x"}, {"a": "x"}), ('{"a": "x"}', {"a": "x"}), (None, {}), ("", {}), ({"a": None}, {})]
)
def test_rewordings_by_name(tmp_path: Path, value: Any, expected: dict[str, str]) -> None:
    row = {"question": "q", "rewordings": value}
    assert read(tmp_path, row).problems()[0].rewordings == expected
    assert read(tmp_path, row, rewording_columns=[]).problems()[0].rewordings == {}


@pytest.mark.parametrize("value", [["x"], "x", {"a": ""}, {"a": 5}, 7])
def test_rewordings_by_name_that_are_none(tmp_path: Path, value: Any) -> None:
    assert "expected texts by name" in fault(read(tmp_path, {"question": "q", "rewordings": value}))


# --- rows by value ---


@pytest.mark.parametrize(
    ("only", "ids"),
    [
        ({"level": 3}, ["a", "c"]),
        ({"level": "3"}, ["a", "c"]),
        ({"level": [4, 9]}, ["b"]),
        ({"level": 3, "subject": "sums"}, ["a", "c"]),
        ({}, ["a", "b", "c"]),
    ],
)
def test_only(tmp_path: Path, only: dict[str, Any], ids: list[str]) -> None:
    source = read(tmp_path, *ROWS, only=only)
    assert [p.id for p in source.problems()] == list(source.gold()) == ids
    assert [p.id for p in read(tmp_path, *ROWS, only=only, limit=1).problems()] == ids[:1]


def test_only_with_generated_ids_and_gold_by_row(tmp_path: Path) -> None:
    (tmp_path / "gold.csv").write_text("answer\n2\n6\n5\n")
    rows = [{"question": r["question"], "level": r["level"]} for r in ROWS]
    source = read(tmp_path, *rows, only={"level": 4}, gold_path=str(tmp_path / "gold.csv"))
    assert {k: g.text for k, g in source.gold().items()} == {"set/1": "6"}
    (tmp_path / "gold.csv").write_text("answer\n6\n")
    assert "1 rows for 1 problems" in fault(source)


def test_only_that_leaves_nothing(tmp_path: Path) -> None:
    text = fault(read(tmp_path, *ROWS, only={"level": 7}))
    assert "no row is left by only={'level': 7}; there level is one of 3, 4:" in text
    assert "no row has the column 'levl'; did you mean 'level'" in fault(read(tmp_path, *ROWS, only={"levl": 7}))


# --- answers ---


@pytest.mark.parametrize(("answer", "expected"), [("so\n#### 18", "18"), ("#### a #### 1,000 ", "1,000"), ("####\n-3\n", "-3")])
def test_answer_after(tmp_path: Path, answer: str, expected: str) -> None:
    source = read(tmp_path, {"id": "a", "question": "q", "answer": answer}, answer_after="####")
    assert source.gold()["a"].text == expected


@pytest.mark.parametrize(("index_from", "answer", "letter"), [(0, 0, "A"), (0, "2", "C"), (1, 1, "A"), (1, 3.0, "C")])
def test_answer_by_position(tmp_path: Path, index_from: int, answer: Any, letter: str) -> None:
    path = tmp_path / "set.parquet"
    pq.write_table(pa.Table.from_pylist([{"id": "a", "question": "q", "options": ["x", "y", "z"], "answer": answer}]), path)
    source = FileSource(FileSource.Options(path=str(path), answer_index_from=index_from))
    assert source.gold()["a"].text == letter


def test_answers_can_be_left_alone(tmp_path: Path) -> None:
    assert read(tmp_path, {"question": "q", "answer": [1]}, answer_column="").gold() == {}


def test_floats_of_parquet_are_written_short(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"id": ["a", "b", "c"], "question": ["q"] * 3, "answer": [142.0, 0.5, 1e300]}), tmp_path / "set.parquet"
    )
    source = FileSource(FileSource.Options(path=str(tmp_path / "set.parquet")))
    assert [g.text for g in source.gold().values()] == ["142", "0.5", "1e+300"]


# --- columns that nobody named ---


def test_the_normal_form_needs_no_options(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "question": "q", "kind": "choice", "choices": ["x", "y"], "category": "c", "rewordings": {"r": "Q"}},
        {"id": "b", "question": "q", "kind": "number"},
        {"id": "c", "question": "q"},
    ]
    assert read(tmp_path, *rows).problems() == [
        Problem("a", "q", "choice", ("x", "y"), "c", {"r": "Q"}),
        Problem("b", "q", "number"),
        Problem("c", "q", "math"),
    ]
    assert [p.kind for p in read(tmp_path, *rows[1:], kind="choice").problems()] == ["number", "choice"]
    assert [p.kind for p in read(tmp_path, *rows[1:], kind="choice", kind_column="").problems()] == ["choice", "choice"]
    assert "'essay'; expected one of math, number, choice" in fault(read(tmp_path, {"question": "q", "kind": "essay"}))


def test_a_column_that_is_named_is_no_default_of_another_meaning(tmp_path: Path) -> None:
    rows = [{"question": "q", "category": "5", "choices": "6"}]
    source = read(tmp_path, *rows, answer_column="category", id_column="choices")
    assert source.problems() == [Problem("6", "q")]
    assert source.gold()["6"].text == "5"


@pytest.mark.parametrize("options", [{"only": {"answer": "2"}}, {"category_column": "answer"}, {"rewording_columns": ["answer"]}])
def test_a_problem_must_not_depend_on_its_answer(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="the column of the gold answers"):
        make_options("problems", "file", "problems", {"path": "x.jsonl", **options})


# --- real sets ---


@pytest.mark.parametrize(
    ("name", "options", "kind", "num", "num_categories"),
    [
        ("math500", {"category_column": "level"}, "math", 500, 5),
        ("math500", {"category_column": "subject", "only": {"level": 5}}, "math", 134, 7),
        ("gpqa_diamond", {"kind": "choice"}, "choice", 198, 0),
        ("mmlu_pro_1400", {}, "choice", 1400, 14),
        ("mmlu_pro_1400", {"only": {"category": ["law", "math"]}}, "choice", 200, 2),
        ("coreward_rewrite_pairs_500", {"rewording_columns": ["rewritten"], "category_column": "level"}, "math", 500, 5),
    ],
)
def test_real_sets(name: str, options: dict[str, Any], kind: str, num: int, num_categories: int) -> None:
    path = BENCH / f"{name}.jsonl"
    if not path.is_file():
        pytest.skip(f"the shared data is not here: {path}")
    source = FileSource(FileSource.Options(path=str(path), **options))
    problems = source.problems()
    assert (len(problems), len(source.gold()), {p.kind for p in problems}) == (num, num, {kind})
    assert len({p.category for p in problems} - {""}) == num_categories
    assert all((set(p.rewordings) == {"rewritten"}) == ("rewording_columns" in options) for p in problems)
