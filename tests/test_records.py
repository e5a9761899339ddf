"""Rows in and out of the offline verbs: nothing changes on the way to JSON or Parquet, bad rows of every format are told."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmonyray.errors import ProblemError
from harmonyray.records import BadRows, RecordWriter, read_records
from harmonyray.records.columns import json_text
from harmonyray.records.formats import Number, load_json

DEEP = "[" * 500 + "1" + "]" * 500


def column(tmp_path: Path, *cells: str) -> tuple[pa.DataType, list[Any]]:
    """The type and the values of a Parquet column that has these JSON texts as cells ("": the row has no such cell)."""
    rows = [load_json(f'{{"c": {cell}}}')[0] if cell else {} for cell in cells]
    with RecordWriter(str(tmp_path / "o.parquet")) as writer:
        for row in rows:  # one at a time: no chunk knows the next
            writer.write([{"n": Number("1"), **row}])
    table = pq.read_table(tmp_path / "o.parquet")
    assert table["n"].to_pylist() == [1] * len(cells)
    return table.schema.field("c").type, table["c"].to_pylist()


@pytest.mark.parametrize(
    ("cells", "kind", "values"),
    [
        (["4", "2.5"], pa.float64(), [4.0, 2.5]),
        (["4", "4.00", "1e2"], pa.float64(), [4.0, 4.0, 100.0]),
        (["1", "-2"], pa.int64(), [1, -2]),
        (["", "null", "7"], pa.int64(), [None, None, 7]),
        (["9223372036854775807", "1"], pa.int64(), [2**63 - 1, 1]),
        (["1", "9223372036854775808"], pa.string(), ["1", "9223372036854775808"]),
        (["9007199254740993", "0.5"], pa.string(), ["9007199254740993", "0.5"]),  # 2^53 + 1 is no double
        (["0.1", "0.12345678901234567890123"], pa.string(), ["0.1", "0.12345678901234567890123"]),
        (["1e400", "2"], pa.string(), ["1e400", "2"]),
        (["1e99999999999999999999"], pa.string(), ["1e99999999999999999999"]),
        (["-0", "3"], pa.string(), ["-0", "3"]),
        (['"4"', "4"], pa.string(), ["4", "4"]),
        (["true", "false", "null"], pa.bool_(), [True, False, None]),
        (["true", "1"], pa.string(), ["true", "1"]),
        (["null", "null"], pa.string(), [None, None]),
        (["[1, 2]", "[2.5]", "[]", "null"], pa.list_(pa.float64()), [[1.0, 2.0], [2.5], [], None]),
        (['[1, "a"]', "[1]"], pa.list_(pa.string()), [["1", "a"], ["1"]]),
        (["[1.50, null]", "3"], pa.string(), ["[1.50, null]", "3"]),
        (['{"a": 1, "b": "x"}', '{"b": null, "a": 2}'], None, [{"a": 1, "b": "x"}, {"a": 2, "b": None}]),
        (['{"a": 1.0}', '{"b": 2}', "{}"], pa.string(), ['{"a": 1.0}', '{"b": 2}', "{}"]),
        ([DEEP, "[1]"], pa.string(), [DEEP, "[1]"]),
        (['"half \\ud800"', '"\\u0000 é"'], pa.string(), ["half \\ud800", "\u0000 é"]),
    ],
)
def test_parquet_holds_what_was_written(tmp_path: Path, cells: list[str], kind: Any, values: Any) -> None:
    got_kind, got = column(tmp_path, *cells)
    assert kind is None or got_kind == kind
    assert values is None or got == values


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text("aé1", max_size=3)
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab"), inner, max_size=2), max_leaves=6
)


def as_written(value: Any) -> Any:
    """Numbers as text, so that 1 and 1.0, and 1 and true, differ."""
    if isinstance(value, dict):
        return {key: as_written(item) for key, item in value.items()}
    return [as_written(item) for item in value] if isinstance(value, list) else repr(value)


@given(st.lists(VALUES, min_size=1, max_size=4))
def test_json_passes_through_and_parquet_takes_anything(tmp_path_factory: pytest.TempPathFactory, values: list[Any]) -> None:
    folder = tmp_path_factory.mktemp("any")
    texts = [json.dumps(value) for value in values]
    loaded = [load_json(text)[0] for text in texts]
    for out in ("o.jsonl", "o.parquet"):
        with RecordWriter(str(folder / out)) as writer:
            writer.write([{"c": value} for value in loaded])
    written = [json.loads(line)["c"] for line in (folder / "o.jsonl").read_text().splitlines()]
    assert [as_written(value) for value in written] == [as_written(value) for value in values]
    assert len(pq.read_table(folder / "o.parquet")) == len(values)


def test_json_text() -> None:
    text = '{"a": [1.50, -0, 1e400, null, true, {"é": "\\"\\n"}], "b": {}, "c": []}'
    assert json_text(load_json(text)[0]) == text
    deep = "[" * 900 + "]" * 900
    assert json_text(load_json(deep)[0]) == deep
    assert json_text({"d": datetime.date(2026, 1, 2), "e": Decimal("1.10"), "f": b"x", 7: 0.5}) == (
        '{"d": "2026-01-02", "e": 1.10, "f": "x", "7": 0.5}'
    )
    for value in (float("nan"), float("inf"), Decimal("NaN")):
        with pytest.raises(ValueError, match="no JSON number"):
            json_text([value])


def test_columns_of_arrows_own_types(tmp_path: Path) -> None:
    days = [datetime.date(2026, 1, 2), None]
    with RecordWriter(str(tmp_path / "o.parquet"), {"m": ("map", "text", "float")}) as writer:
        writer.write([{"day": day, "both": both, "m": {"x": 1.5}} for day, both in zip(days, [days[0], "no day"], strict=True)])
    table = pq.read_table(tmp_path / "o.parquet")
    assert table.schema.field("day").type == pa.date32()
    assert table.to_pylist() == [
        {"day": days[0], "both": "2026-01-02", "m": [("x", 1.5)]},
        {"day": None, "both": "no day", "m": [("x", 1.5)]},
    ]


@pytest.mark.parametrize("out", ["o.jsonl", "o.parquet"])
def test_after_an_error_there_is_no_file(tmp_path: Path, out: str) -> None:
    (tmp_path / out).write_text("of before")
    with pytest.raises(RuntimeError), RecordWriter(str(tmp_path / out)) as writer:
        writer.write([{"c": 1}])
        raise RuntimeError
    assert (tmp_path / out).read_text() == "of before"
    assert [path.name for path in tmp_path.iterdir()] == [out]


def read(path: Path, skip: bool = True) -> tuple[list[dict[str, Any]], list[int]]:
    bad = BadRows(skip)
    rows = [dict(row.values) for row in read_records(str(path), bad, "grade", "{}", None)]
    return rows, bad.skipped


def test_bad_rows_of_csv(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "in.csv"
    path.write_bytes(b'a,b\n1,2\n1\n\n3,\xff4\n"x"y,5\n"two\nlines",6\n7,8,9\n"never closed,1\n1,2\n')
    rows, skipped = read(path)
    assert rows == [{"a": "1", "b": "2"}, {"a": "two\nlines", "b": "6"}]
    assert skipped == [3, 5, 6, 9, 10]
    told = capsys.readouterr().err
    for message in (
        "line 3: got 1 cells",
        "line 5: the cell",
        "byte 0xff, which is not UTF-8",
        "line 6: not CSV",
        "line 10: not CSV",
    ):
        assert message in told
    with pytest.raises(ProblemError, match="line 3: got 1 cells; expected 2"):
        read(path, skip=False)


@pytest.mark.parametrize(("header", "message"), [(b"a,a\n", "'a' is named twice"), (b"a,\xff\n", "line 1: .*not UTF-8")])
def test_a_bad_header_is_not_skipped(tmp_path: Path, header: bytes, message: str) -> None:
    (tmp_path / "in.csv").write_bytes(header + b"1,2\n")
    with pytest.raises(ProblemError, match=message):
        read(tmp_path / "in.csv")


def test_bad_rows_of_a_json_array(tmp_path: Path) -> None:
    path = tmp_path / "in.json"
    path.write_text('[{"a": 1.0}, 2, {"a": "x"}]')
    rows, skipped = read(path)
    assert (rows, skipped) == ([{"a": "1.0"}, {"a": "x"}], [2])
    for text, message in [
        ('[{"a": 1}', "line 1: not JSON"),
        ("{}", "got an object; expected one array"),
        ('[{"a":\nNaN}]', "NaN is no JSON number"),
        ('{"a": 1}\n{"a": 2}', "named .jsonl"),
    ]:
        path.write_text(text)
        with pytest.raises(ProblemError, match=message):
            read(path)
    path.write_bytes(b'[\n"\xff"]')
    with pytest.raises(ProblemError, match="line 2: byte 2 of the line is 0xff"):
        read(path)


def test_the_place_in_a_cut_off_line(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"a": 1}\n{"id": "x",\n')
    with pytest.raises(ProblemError, match=r"line 2: not JSON: .* at column 12;"):
        read(tmp_path / "in.jsonl", skip=False)
