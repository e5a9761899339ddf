"""Rows out of the texts of JSON Lines, JSON arrays and CSV for the offline verbs; numbers stay as they are written.

A line or a row that cannot be used goes to `report` and the rest is read on. What columns mean is not decided here.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from harmonyray.errors import ProblemError
from harmonyray.problems.rows import Row

Report = Callable[[ProblemError, str], None]  # of a fault and the short place where it is ("line 3")
_PARQUET, _GZIP = b"PAR1", b"\x1f\x8b"


class Number(str):
    """A JSON number exactly as it is written, of any length."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


class _NotJson(Exception):
    """A constant that JSON does not have."""


def load_json(text: str) -> tuple[Any, str, int]:
    """The value of a JSON text with its numbers as `Number`; or what is wrong with it, and the line (from 1)."""
    try:
        return json.loads(text, parse_float=Number, parse_int=Number, parse_constant=_refuse), "", 0
    except json.JSONDecodeError as e:
        return None, f"{e.msg} at column {e.colno}", e.lineno
    except _NotJson as e:
        return None, f"{e} is no JSON number (a missing value is null, a text has quotes)", 1
    except RecursionError:
        return None, "it is nested too deeply", 1


def _refuse(name: str) -> Any:
    raise _NotJson(name)


def json_lines(origin: str, lines: Iterable[bytes], report: Report, example: str, command: str = "") -> Iterator[Row]:
    """The rows of JSON Lines, blank lines left out; `example` shows a row in messages. `command`: what reads a standard input,
    which has no extension to go by, for the advice on other formats. Raises ProblemError for Parquet or gzip bytes."""
    array = f"; an array's objects one to a line: jq -c '.[]' FILE | {command} -, or name the file" if command else ""
    for number, raw in enumerate(lines, 1):
        if number == 1 and raw.startswith(_PARQUET):
            raise ProblemError(f"{origin} is Parquet; expected JSON Lines: name the file, {command or 'renamed to'} FILE.parquet")
        if number == 1 and raw.startswith(_GZIP):
            raise ProblemError(f"{origin} is compressed (gzip); expected JSON Lines: zcat FILE | {command or 'harmonyray ...'} -")
        place = f"line {number}"
        try:
            row = _json_line(origin, place, raw, example, array if number == 1 else "")
        except ProblemError as e:
            report(e, place)
            continue
        if row is not None:
            yield row


def _json_line(origin: str, place: str, raw: bytes, example: str, how: str) -> Row | None:
    try:
        line = raw.decode("utf-8-sig" if place == "line 1" else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError as e:
        raise ProblemError(f"{origin}, {place}: {_not_utf8(e.start + 1, raw[e.start])}") from None
    if not line.strip():
        return None
    value, fault, _ = load_json(line)
    array = line.lstrip().startswith("[")
    if fault:
        hint = (how or " (a file that is one JSON array is named .json)") if array else ""
        raise ProblemError(f"{origin}, {place}: not JSON: {fault}; expected one JSON object per line{hint}: repair the line")
    return _object_row(origin, place, value, example, how if array else "")


def json_array(origin: str, text: bytes, report: Report, example: str) -> Iterator[Row]:
    """The rows of a JSON array. Raises ProblemError for a text that is none: nothing of it can be used."""
    try:
        value, fault, line = load_json(text.decode("utf-8-sig"))
    except UnicodeDecodeError as e:
        line, column = text.count(b"\n", 0, e.start) + 1, e.start - text.rfind(b"\n", 0, e.start)
        raise ProblemError(f"{origin}, line {line}: {_not_utf8(column, text[e.start])}") from None
    if fault:
        hint = "; one object per line is named .jsonl" if fault.startswith("Extra data") else ""
        raise ProblemError(f"{origin}, line {line}: not JSON: {fault}; expected one array of objects{hint}: repair the file")
    if not isinstance(value, list):
        raise ProblemError(f"{origin}: got {_json_type(value)}; expected one array of objects, [{{...}}, ...]")
    for number, item in enumerate(value, 1):
        try:
            row = _object_row(origin, f"row {number}", item, example)
        except ProblemError as e:
            report(e, f"row {number}")
        else:
            yield row


def _object_row(origin: str, place: str, value: Any, example: str, how: str = "") -> Row:
    if not isinstance(value, dict):
        raise ProblemError(
            f"{origin}, {place}: got {_json_type(value)}; expected an object with named columns, {example}{how}: repair it"
        )
    return Row(origin, place, value, tuple(value))


def _json_type(value: Any) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def csv_rows(origin: str, lines: Iterable[bytes], report: Report) -> Iterator[Row]:
    """The rows of CSV whose first row is the header. Raises ProblemError for a header that cannot be used."""
    texts = (raw.decode("utf-8-sig" if n == 0 else "utf-8", "surrogateescape") for n, raw in enumerate(lines))
    reader = csv.reader(texts, strict=True)
    header: list[str] | None = None
    start = 1
    while True:
        place = f"line {start}"
        try:
            cells = next(reader, None)
            if cells is None:
                return
            if cells:
                _check_cells(cells, header)
        except (csv.Error, ProblemError) as e:
            fault = e if isinstance(e, ProblemError) else _NOT_CSV.format(e)
            error = ProblemError(f"{origin}, {place}: {fault}")
            if header is None:
                raise error from None
            report(error, place)
            cells = []
        start = reader.line_num + 1
        if cells and header is not None:
            yield Row(origin, place, dict(zip(header, cells, strict=True)), header)
        elif cells:
            header = cells


_NOT_CSV = (
    'not CSV: {}; expected comma-separated cells, quoted with " where they hold commas, quotes (doubled: "") or line ends: '
    "repair the row"
)


def _check_cells(cells: Sequence[str], header: Sequence[str] | None) -> None:
    for cell in cells:
        broken = next((c for c in cell if "\udc80" <= c <= "\udcff"), None)  # what "surrogateescape" leaves of a byte
        if broken is not None:
            raise ProblemError(f"the cell {cell[:20]!r} has the byte {ord(broken) - 0xDC00:#04x}, {_UTF8}")
    if header is None:
        twice = [name for n, name in enumerate(cells) if name in cells[:n]]
        if twice:
            raise ProblemError(f"column {twice[0]!r} is named twice in the header; rename one of the two")
    elif len(cells) != len(header):
        raise ProblemError(
            f"got {len(cells)} cells; expected {len(header)}, one per column of the header: quote cells that hold commas, or "
            "repair the row"
        )


_UTF8 = "which is not UTF-8; expected UTF-8: save the file in that encoding"


def _not_utf8(column: int, byte: int) -> str:
    return f"byte {column} of the line is {byte:#04x}, {_UTF8}"
