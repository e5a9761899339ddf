"""Reading problem sets from files: formats, ids, choices, gold kept apart, and every kind of bad file."""

from __future__ import annotations

import gc
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harmonyray.errors import ConfigError, ProblemError
from harmonyray.problems.file import FileSource
from harmonyray.registry import make_options, resolve
from harmonyray.types import GoldAnswer, Problem

BENCH = Path(__file__).resolve().parents[3] / "shared" / "data" / "bench"
ROWS: list[dict[str, Any]] = [
    {"id": "a", "question": "1+1?", "answer": "2", "level": 3},
    {"id": "b", "question": "2·3,\n“six”?", "answer": "6", "level": 4},
]
PROBLEMS = [Problem("a", "1+1?"), Problem("b", "2·3,\n“six”?")]
GOLD = {"a": GoldAnswer("a", "2"), "b": GoldAnswer("b", "6")}


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


# --- formats ---


def as_jsonl(folder: Path) -> Path:
    return write(folder, "\ufeff\n" + jsonl(*ROWS).replace("\n", "\r\n") + "  \n\n")


def as_ndjson(folder: Path) -> Path:
    return write(folder, jsonl(*ROWS).rstrip("\n"), "set.NDJSON")


def as_json(folder: Path) -> Path:
    return write(folder, "\ufeff" + json.dumps(ROWS, indent=1), "set.json")


def as_csv(folder: Path) -> Path:
    return write(folder, '\ufeffid,question,answer,level\r\na,1+1?,2,3\r\n\r\nb,"2·3,\n“six”?",6,4\r\n', "set.csv")


def as_parquet(folder: Path) -> Path:
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "set.parquet")
    return folder / "set.parquet"


@pytest.mark.parametrize("make", [as_jsonl, as_ndjson, as_json, as_csv, as_parquet])
def test_every_format_gives_the_same_problems(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    read_from = source(make(tmp_path))
    assert read_from.problems() == PROBLEMS
    assert read_from.gold() == GOLD


@pytest.mark.parametrize("make", [as_jsonl, as_ndjson, as_json, as_csv, as_parquet])
def test_every_format_names_a_missing_column(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    text = message(source(make(tmp_path), question_column="Question").problems)
    assert "no column 'Question'" in text and "did you mean 'question'" in text


def test_home_and_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, jsonl(*ROWS))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert source(Path("~/set.jsonl")).problems() == PROBLEMS
    assert source(Path("set.jsonl")).problems() == PROBLEMS


# --- options ---


@pytest.mark.parametrize(("limit", "num"), [(None, 2), (1, 1), (2, 2), (99, 2)])
def test_limit(tmp_path: Path, limit: int | None, num: int) -> None:
    read_from = read(tmp_path, *ROWS, limit=limit)
    assert read_from.problems() == PROBLEMS[:num]
    assert list(read_from.gold()) == ["a", "b"][:num]


def test_rows_past_the_limit_are_not_looked_at(tmp_path: Path) -> None:
    path = write(tmp_path, jsonl(*ROWS) + "{broken")
    assert source(path, limit=2).problems() == PROBLEMS
    assert "line 3" in message(source(path).problems)


def test_columns_by_other_names(tmp_path: Path) -> None:
    read_from = read(
        tmp_path,
        {"key": 7, "q": "Which?", "gold": "B", "opts": ["x", "y"], "sort": "choice", "id": "no", "answer": "no"},
        {"key": 8, "q": "How many?", "gold": 5, "opts": None, "sort": "number"},
        id_column="key",
        question_column="q",
        answer_column="gold",
        options_column="opts",
        kind_column="sort",
    )
    assert read_from.problems() == [Problem("7", "Which?", "choice", ("x", "y")), Problem("8", "How many?", "number")]
    assert read_from.gold() == {"7": GoldAnswer("7", "B"), "8": GoldAnswer("8", "5")}


@pytest.mark.parametrize("kind", ["math", "number", "choice"])
def test_kind_of_all_rows(tmp_path: Path, kind: str) -> None:
    assert [p.kind for p in read(tmp_path, *ROWS, kind=kind).problems()] == [kind, kind]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"limit": 0}, r"'problems\.limit'.*greater than 0"),
        ({"limit": -1}, r"'problems\.limit'.*greater than 0"),
        ({"path": ""}, r"'problems\.path'"),
        ({"kind": "maths"}, r"'problems\.kind'.*'math', 'number' or 'choice'"),
        ({"question_colum": "q"}, r"unknown option 'problems\.question_colum': did you mean 'question_column'"),
        ({"question_column": "answer"}, r"question_column and answer_column both name column 'answer'"),
        ({"id_column": "answer"}, r"id_column and answer_column both name column 'answer'"),
        ({"kind_column": "options"}, r"options_column and kind_column both name column 'options'"),
    ],
)
def test_bad_options_are_refused(values: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        make_options("problems", "file", "problems", {"path": "set.jsonl", **values})


def test_registry_name_leads_here() -> None:
    assert resolve("problems", "file") is FileSource


# --- ids ---


@pytest.mark.parametrize(("value", "expected"), [("x", "x"), (7, "7"), (0, "0"), (1.5, "1.5"), ("é/1", "é/1")])
def test_ids_become_text(tmp_path: Path, value: Any, expected: str) -> None:
    assert read(tmp_path, {"id": value, "question": "q"}).problems()[0].id == expected


@pytest.mark.parametrize("extra", [{}, {"id": None}])
def test_ids_are_generated_where_no_row_has_one(tmp_path: Path, extra: dict[str, Any]) -> None:
    read_from = read(tmp_path, *({"question": f"q{i}", "answer": str(i), **extra} for i in range(3)))
    assert [p.id for p in read_from.problems()] == ["set/0", "set/1", "set/2"]
    assert {k: g.text for k, g in read_from.gold().items()} == {"set/0": "0", "set/1": "1", "set/2": "2"}


# --- multiple choice ---


def test_a_list_of_options_makes_a_row_multiple_choice(tmp_path: Path) -> None:
    read_from = read(
        tmp_path, {"id": 1, "question": "q", "options": ["x", "y"], "answer": "B"}, {"id": 2, "question": "q", "answer": "3"}
    )
    assert read_from.problems() == [Problem("1", "q", "choice", ("x", "y")), Problem("2", "q")]
    assert [p.choices for p in source(tmp_path / "set.jsonl", options_column="").problems()] == [(), ()]


def test_options_in_csv_and_parquet(tmp_path: Path) -> None:
    table = 'id,question,options,answer\n1,q,"[""x"", ""y""]",A\n2,r,[],5\n3,s,,6\n'
    rows = [
        {"id": 1, "question": "q", "options": ["x", "y"]},
        {"id": 2, "question": "r", "options": []},
        {"id": 3, "question": "s"},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "set.parquet")
    expected = [Problem("1", "q", "choice", ("x", "y")), Problem("2", "r"), Problem("3", "s")]
    assert source(write(tmp_path, table, "set.csv")).problems() == expected
    assert source(tmp_path / "set.parquet").problems() == expected


@pytest.mark.parametrize(
    ("answer", "letter"),
    [("A", "A"), ("c", "C"), (" (B). ", "B"), ("five", "B"), ("B five", None), ("D", None), (1, None), ("twice", None)],
)
def test_gold_of_multiple_choice_is_a_letter(tmp_path: Path, answer: Any, letter: str | None) -> None:
    read_from = read(
        tmp_path,
        {"id": "q1", "question": "q", "options": ["two", "five", "twice", "twice"][: 3 + (answer == "twice")], "answer": answer},
    )
    if letter is not None:
        assert read_from.gold() == {"q1": GoldAnswer("q1", letter)}
    else:
        assert "expected a letter from A to " in message(read_from.gold)


# --- gold apart ---

CANARY = "canary-9f3a71"


@pytest.mark.parametrize("name", ["set.jsonl", "set.json", "set.csv", "set.parquet"])
def test_problems_hold_no_gold(tmp_path: Path, name: str) -> None:
    rows = [{"id": f"p{i}", "question": f"q{i}", "answer": f"{CANARY}-{i}"} for i in range(3)]
    path = tmp_path / name
    if name.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif name.endswith("csv"):
        write(tmp_path, "id,question,answer\n" + "".join(f"{r['id']},{r['question']},{r['answer']}\n" for r in rows), name)
    else:
        write(tmp_path, json.dumps(rows) if name.endswith("json") else jsonl(*rows), name)
    read_from = source(path)
    gold = read_from.gold()
    assert [g.text for g in gold.values()] == [f"{CANARY}-{i}" for i in range(3)]
    problems = read_from.problems()
    assert CANARY.encode() not in pickle.dumps((read_from, problems))
    assert CANARY not in reachable_text([read_from, problems])
    assert CANARY in reachable_text([gold])  # the search does find what is there


def reachable_text(roots: list[Any]) -> str:
    """All strings that can be reached from `roots` through instances and containers (not through classes or modules)."""
    seen: set[int] = set()
    texts, stack = [], list(roots)
    while stack:
        item = stack.pop()
        if id(item) in seen or isinstance(item, type) or type(item).__name__ in ("module", "function"):
            continue
        seen.add(id(item))
        if isinstance(item, str):
            texts.append(item)
        stack.extend(gc.get_referents(item))
    return "\n".join(texts)


def test_a_broken_line_is_not_quoted(tmp_path: Path) -> None:
    path = write(tmp_path, '{"question": "q", "answer": "' + CANARY + '", }\n')
    with pytest.raises(ProblemError) as caught:
        source(path).problems()
    error: BaseException | None = caught.value
    while error is not None:
        assert CANARY not in str(error) and CANARY not in str(vars(error))
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize("extra", [{}, {"answer": None}, {"answer": " "}])
def test_no_answers_no_gold(tmp_path: Path, extra: dict[str, Any]) -> None:
    read_from = read(tmp_path, {"id": "a", "question": "q", **extra}, {"id": "b", "question": "r", **extra})
    assert len(read_from.problems()) == 2
    assert read_from.gold() == {}


@pytest.mark.parametrize(
    ("literal", "expected"),
    [
        ('"025"', "025"), ("25", "25"), ("0.1", "0.1"), ("142.0", "142.0"), ("-3", "-3"), ("1e2", "100"),
        ("1e999999999", "1E+999999999"),
        ("567890123456789012345.678901234567890", "567890123456789012345.678901234567890"), ('" 7"', " 7"),
    ],
)  # fmt: skip
def test_gold_keeps_every_digit(tmp_path: Path, literal: str, expected: str) -> None:
    path = write(tmp_path, '{"id": "a", "question": "q", "answer": ' + literal + "}")
    assert source(path).gold() == {"a": GoldAnswer("a", expected)}


@pytest.mark.parametrize("literal", ["true", "[1]", '{"a": 1}', "NaN", "Infinity"])
def test_gold_of_no_use(tmp_path: Path, literal: str) -> None:
    path = write(tmp_path, '{"id": "a", "question": "q", "answer": ' + literal + "}")
    assert source(path).problems() == [Problem("a", "q")]
    assert "line 1: the answer in column 'answer' is" in message(source(path).gold)


def test_some_answers_are_an_error_of_gold_only(tmp_path: Path) -> None:
    read_from = read(tmp_path, *ROWS, {"id": "c", "question": "q"})
    assert len(read_from.problems()) == 3
    text = message(read_from.gold)
    assert "line 3: no answer in column 'answer' (1 of 3 problems have none)" in text


def test_a_misspelled_answer_column_is_no_missing_gold(tmp_path: Path) -> None:
    text = message(read(tmp_path, *ROWS, answer_column="answr").gold)
    assert "no row has the column 'answr'; did you mean 'answer'" in text


def test_gold_in_another_file_by_id(tmp_path: Path) -> None:
    gold = write(tmp_path, "answer,id\n6,b\n9,z\n2,a\n", "gold.csv")
    read_from = read(tmp_path, *({**row, "answer": "wrong"} for row in ROWS), gold_path=str(gold))
    assert read_from.gold() == GOLD
    assert source(tmp_path / "set.jsonl", gold_path=str(gold), limit=1).gold() == {"a": GOLD["a"]}


def test_gold_in_another_file_by_row(tmp_path: Path) -> None:
    gold = write(tmp_path, "answer\n2\n6\n", "gold.csv")
    rows = [{"question": "1+1?"}, {"question": "2*3?"}]
    assert {k: g.text for k, g in read(tmp_path, *rows, gold_path=str(gold)).gold().items()} == {"set/0": "2", "set/1": "6"}
    assert {k: g.text for k, g in read(tmp_path, *rows, gold_path=str(gold), limit=1).gold().items()} == {"set/0": "2"}
    assert "2 rows for 1 problems" in message(read(tmp_path, rows[0], gold_path=str(gold)).gold)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("id,answer\na,2\n", "no row has the id 'b' in column 'id' (1 of 2 problems"),
        ("answer\n2\n6\n", "no row has the id 'a' in column 'id' (2 of 2 problems"),
        ("id,answer\na,2\na,3\nb,6\n", "line 3: id 'a' was given to line 2 already"),
        ("id,anwser\na,2\nb,6\n", "no row has the column 'answer'; did you mean 'anwser'"),
        ("id,answer\na,2\nb,\n", "line 3: no answer in column 'answer'"),
        ("id,answer\n", "has no rows; expected the gold answers"),
        ("", "has no rows; expected the gold answers"),
    ],
)
def test_bad_gold_file(tmp_path: Path, content: str, expected: str) -> None:
    gold = write(tmp_path, content, "gold.csv")
    read_from = read(tmp_path, *({"id": row["id"], "question": row["question"]} for row in ROWS), gold_path=str(gold))
    assert len(read_from.problems()) == 2
    text = message(read_from.gold)
    assert expected in text and "gold.csv" in text


def test_missing_gold_file(tmp_path: Path) -> None:
    assert "no such file" in message(read(tmp_path, *ROWS, gold_path=str(tmp_path / "gold.csv")).gold)


# --- real sets ---

REAL = {
    "aime2024": (30, "math", 0), "amc": (83, "math", 0), "coreward_rewrite_pairs_500": (500, "math", 0),
    "gpqa_diamond": (198, "math", 0), "gsm8k_test": (1319, "math", 0), "math500": (500, "math", 0),
    "mmlu_pro_1400": (1400, "choice", 10),
}  # fmt: skip


@pytest.mark.parametrize("name", REAL)
def test_real_sets(name: str) -> None:
    path = BENCH / f"{name}.jsonl"
    if not path.is_file():
        pytest.skip(f"the shared data is not here: {path}")
    num, kind, most_choices = REAL[name]
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    read_from = source(path)
    problems = read_from.problems()
    assert [(p.id, p.text, p.choices) for p in problems] == [(r["id"], r["question"], tuple(r.get("options", ()))) for r in rows]
    assert (len(problems), {p.kind for p in problems}, max(len(p.choices) for p in problems)) == (num, {kind}, most_choices)
    assert read_from.gold() == {r["id"]: GoldAnswer(r["id"], r["answer"]) for r in rows}
