"""The forms of input and output of `harmonyray vote`: files, streams, ids, one row for each view, and which views a file has."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from run_helpers import write_rows
from vote_helpers import BARE, ROWS, mistake, read, run, vote

from harmonyray.cli import main


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "votes.jsonl", ROWS)


def test_standard_input_to_standard_output(file: Path) -> None:
    done = run("-", "--out", "-", "--json", input=file.read_text())
    assert done.returncode == 0, done.stderr
    *rows, summary = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["label"] for row in rows] == ["4", None, "0.5", None]
    assert summary["num_problems"] == 4


def test_standard_input_in_this_process(file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(file.read_bytes())))
    assert main(["vote", "-", "--out", "-"]) == 0
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 4
    assert "harmonic" in captured.err


@pytest.mark.parametrize("shape", ["struct", "map"])
def test_parquet_in_and_out(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], shape: str) -> None:
    views = pa.map_(pa.string(), pa.list_(pa.string()))
    columns = {"id": pa.array([r["id"] for r in ROWS]), "gold": pa.array([r["gold"] for r in ROWS])}
    if shape == "map":
        columns["views"] = pa.array([list(r["views"].items()) for r in ROWS], views)
    else:
        columns["views"] = pa.array([r["views"] for r in ROWS])
    pq.write_table(pa.table(columns), tmp_path / "in.parquet")
    assert vote(capsys, tmp_path / "in.parquet", "--out", tmp_path / "out.parquet")["accuracy"] == 0.5
    vote(capsys, file, "--out", tmp_path / "out.jsonl")
    rows = [{**row, "scores": dict(row["scores"])} for row in pq.read_table(tmp_path / "out.parquet").to_pylist()]
    assert rows == read(tmp_path / "out.jsonl")
    assert not list(tmp_path.glob(".*"))


def test_ids_keep_their_type_and_odd_texts_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"id": 7, "views": {"s": ["\ud800", "é", 3, 0.5, "\u0000"]}}, {"id": 8, "views": {"s": ["x" * 5000]}}]
    source = write_rows(tmp_path / "odd.jsonl", rows)
    for out in ("o.jsonl", "o.parquet"):
        assert vote(capsys, source, "--out", tmp_path / out)["num_problems"] == 2
    assert [row["id"] for row in read(tmp_path / "o.jsonl")] == [7, 8]
    assert set(read(tmp_path / "o.jsonl")[0]["scores"]) == {"é", "3", "0.5"}
    assert pq.read_table(tmp_path / "o.parquet")["id"].to_pylist() == [7, 8]


def test_a_reader_that_leaves_is_no_failure(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "many.jsonl", [{**ROWS[0], "id": i} for i in range(4000)])
    command = f"{sys.executable} -m harmonyray vote {source} --out - | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["label"] == "4"


def test_more_problems_than_a_chunk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_rows(tmp_path / "many.jsonl", [{**ROWS[i % 4], "id": i} for i in range(1000)])
    summary = vote(capsys, source, "--out", tmp_path / "o.parquet", "--selector", "reliability")
    assert summary["num_problems"] == 1000
    assert pq.read_table(tmp_path / "o.parquet")["id"].to_pylist() == list(range(1000))


def long_rows(rows: list[dict[str, Any]], key: str = "question_id") -> list[dict[str, Any]]:
    """A row for each problem and view, view by view."""
    return [{key: row["id"], "view": view, "answers": row["views"][view], "gold": row["gold"]} for view in "sr" for row in rows]


@pytest.mark.parametrize("key", ["id", "question_id"])
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_row_for_each_view(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str, suffix: str) -> None:
    rows = long_rows(ROWS, key)
    source = tmp_path / f"long.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), source)
    else:
        write_rows(source, rows)
    long = vote(capsys, source, "--out", tmp_path / "long-out.jsonl")
    wide = vote(capsys, file, "--out", tmp_path / "wide-out.jsonl")
    assert read(tmp_path / "long-out.jsonl") == read(tmp_path / "wide-out.jsonl")
    assert {**long, "wall_seconds": 0} == {**wide, "wall_seconds": 0}


def test_rows_for_each_view_that_do_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = long_rows(ROWS)
    twice = write_rows(tmp_path / "twice.jsonl", [*rows, rows[0]])
    assert "line 9: view 's' of id 'a' was there already" in mistake(capsys, twice)
    other = write_rows(tmp_path / "other.jsonl", [*rows, {**rows[0], "view": "t", "gold": "5"}])
    assert "line 9: the gold of id 'a' is '5', but '4' in line 1" in mistake(capsys, other)
    unnamed = write_rows(tmp_path / "unnamed.jsonl", [*rows, {**rows[0], "view": None}])
    assert "line 9: column 'view' is null" in mistake(capsys, unnamed)
    lacking = write_rows(tmp_path / "lacking.jsonl", rows[:-1])
    assert "line 4: view 'r' is missing" in mistake(capsys, lacking)
    assert vote(capsys, lacking, "--skip-bad")["skipped"] == [4]


def test_most_rows_decide_the_views(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = {"id": "odd", "views": {"x": ["1"]}}
    source = write_rows(tmp_path / "odd.jsonl", [odd, *ROWS * 5])
    assert "line 1: view 'x' is not one of s, r, the views of most rows" in mistake(capsys, source)
    summary = vote(capsys, source, "--skip-bad", "--out", tmp_path / "o.jsonl")
    assert (summary["num_problems"], summary["skipped"]) == (20, [1])
    assert [row["id"] for row in read(tmp_path / "o.jsonl")] == list("abcd") * 5
    even = write_rows(tmp_path / "even.jsonl", [odd, ROWS[0]])  # of equally many the first
    assert vote(capsys, even, "--skip-bad")["skipped"] == [2]


def test_null_views_are_empty_in_parquet_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"id": 1, "views": {"s": ["1"], "r": ["1"]}}, {"id": 2, "views": {"s": ["1"], "r": None}}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "null.parquet")
    assert vote(capsys, tmp_path / "null.parquet", "--selector", "majority")["coverage"] == 1.0
    assert "line 2: view 'r' is null" in mistake(capsys, write_rows(tmp_path / "null.jsonl", rows))


def test_ids_of_any_kind_in_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "ids.jsonl"
    ids = ['"a"', "7", "12345678901234567890", "4.50", '"7"', "1" * 5000]
    source.write_text("".join(f'{{"id": {text}, "views": {{"s": ["1"]}}}}\n' for text in ids))
    vote(capsys, source, "--out", tmp_path / "o.parquet")
    assert pq.read_table(tmp_path / "o.parquet")["id"].to_pylist() == [text.strip('"') for text in ids]
    vote(capsys, source, "--out", tmp_path / "o.jsonl")
    assert [line.split(", ")[0].removeprefix('{"id": ') for line in (tmp_path / "o.jsonl").read_text().splitlines()] == ids


def test_numbers_are_answers_as_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "n.jsonl"
    long = "9" * 10_000  # more digits than Python turns into a number
    source.write_text(f'{{"id": 1, "views": {{"s": [4.00, 1e3, 1e400, -0, {long}]}}}}\n')
    vote(capsys, source, "--out", tmp_path / "o.jsonl")
    assert list(read(tmp_path / "o.jsonl")[0]["scores"]) == ["4.00", "1000", "1e400", "-0", long]


def test_a_tie_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first sample of every view counts as simultaneous; of equals the smaller text is first, whatever the order of views."""
    one, two = {"s": ["2", "9"], "r": ["1", "9"]}, {"r": ["1", "9"], "s": ["2", "9"]}
    for views in (one, two):
        source = write_rows(tmp_path / "t.jsonl", [{"id": 1, "views": views}, {"id": 2, "views": {"s": ["5"], "r": ["5"]}}])
        summary = vote(capsys, source, "--selector", "arithmetic", "-o", "min_score=0", "--out", tmp_path / "o.jsonl")
        assert [(row["label"], row["tie"]) for row in read(tmp_path / "o.jsonl")] == [("9", False), ("5", False)]
        assert summary["num_ties"] == 0
        source = write_rows(tmp_path / "t.jsonl", [{"id": 1, "views": {name: row[:1] for name, row in views.items()}}])
        summary = vote(capsys, source, "--selector", "arithmetic", "--out", tmp_path / "o.jsonl")
        assert [(row["label"], row["tie"]) for row in read(tmp_path / "o.jsonl")] == [("1", True)]
        assert summary["num_ties"] == 1


def test_gold_under_another_name_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{**row, "answer": "4"} for row in BARE]
    assert main(["vote", str(write_rows(tmp_path / "v.jsonl", rows))]) == 0
    assert "there is a column 'answer': did you mean 'gold'?" in capsys.readouterr().err


def test_some_problems_with_gold_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_rows(tmp_path / "v.jsonl", ROWS)
    problems = write_rows(tmp_path / "p.jsonl", [{"id": "a", "question": "?", "answer": "5"}])
    summary = vote(capsys, source, "--problems", problems)  # a's own gold is 4: the file's 5 goes before it
    assert (summary["num_gold"], summary["num_in_problems"], summary["accuracy"]) == (4, 1, 0.25)
    assert main(["vote", str(source), "--problems", str(problems)]) == 0
    assert "1 of 4 ids found in --problems" in capsys.readouterr().out
    other = write_rows(tmp_path / "q.jsonl", [{"id": "z", "question": "?", "answer": "5"}])
    message = mistake(capsys, source, "--problems", other, "--out", tmp_path / "o.jsonl")
    assert "0 of 4 ids found; ids here are like 'a', there like 'z'" in message
    assert not (tmp_path / "o.jsonl").exists()
