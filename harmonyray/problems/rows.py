"""Rows out of JSON Lines, JSON, CSV and Parquet files, each with the place it stands at.

What the values mean is not decided here (see `columns.py`). Every fault of a file is a ProblemError that names the file, the
line or row, what was got, what was expected and the fix; no message quotes a line, for it may hold a reference answer.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from harmonyray.errors import ProblemError
from harmonyray.registry import nearest

PARQUET_BATCH = 1024
EXAMPLE = '{"id": ..., "question": ...}'

Reader = Callable[[Path, "frozenset[str] | None"], Iterator["Row"]]


@dataclass(frozen=True, slots=True)
class Row:
    """One row. `origin` is the file or data set, `place` is for messages ("FILE, line 3"), `short_place` without the origin;
    `columns` are all column names, `values` may hold only the wanted ones; `index` counts the rows of the origin from 0, where
    that is known."""

    origin: str
    short_place: str
    values: Mapping[str, Any]
    columns: Sequence[str]
    index: int = -1

    @property
    def place(self) -> str:
        return f"{self.origin}, {self.short_place}"

    def only(self, columns: frozenset[str], index: int) -> Row:
        """The row with the values of these columns alone, as number `index` of its origin."""
        values = {k: v for k, v in self.values.items() if k in columns}
        return Row(self.origin, self.short_place, values, self.columns, index)


def read_rows(path: Path, wanted: frozenset[str] | None) -> Iterator[Row]:
    """The rows of `path`, read by its extension, one at a time; `wanted` are the columns the caller may look at (None: all).

    Blank lines are skipped. Raises ProblemError for a file that is missing, no regular file, unreadable, of an unknown
    type, or malformed.
    """
    reader = check_file(path)
    try:
        yield from reader(path, wanted)
    except OSError as e:
        raise unreadable(path, e) from e


def check_file(path: Path) -> Reader:
    """The reader for `path`. Raises ProblemError for a file that is missing, no regular file, or of an unknown type."""
    reader = READERS.get(path.suffix.lower())
    try:
        if path.is_dir():
            raise ProblemError(f"{path} is a directory; expected a file: name one of the files in it ({_listing(path)})")
        if not path.exists():
            raise ProblemError(
                f"no such file: {path} (looked in {path.parent.absolute()}; there: {_listing(path.parent, path.name)})"
            )
        if not path.is_file():
            raise ProblemError(f"{path} is neither a file nor a directory; expected a regular file")
    except (OSError, ValueError) as e:
        raise ProblemError(f"{str(path)!r} cannot be looked at ({e}); expected the path of a readable file") from e
    if reader is None:
        got = f"extension {path.suffix!r}" if path.suffix else "no extension"
        raise ProblemError(f"{path} has {got}; expected one of {', '.join(READERS)}: rename or convert the file")
    return reader


def unreadable(path: Path, error: OSError) -> ProblemError:
    """The error for a file that the system does not let us read."""
    return ProblemError(
        f"{path} cannot be read ({error.strerror or error}); expected a readable file: check its permissions and that it is whole"
    )


def problem_files(folder: Path) -> list[str]:
    """The names of the files in `folder` that could hold problems, in order; [] if it cannot be looked into."""
    try:
        shown = [p for p in folder.iterdir() if not p.name.startswith(".")]
        return sorted(p.name for p in shown if p.suffix.lower() in READERS and p.is_file())
    except OSError:
        return []


def _listing(folder: Path, near: str = "") -> str:
    """Files of `folder` that could have been meant, for a message."""
    if not folder.is_dir():
        return "the folder does not exist either"
    names = problem_files(folder)
    if not names:
        return "no problem files"
    if near:
        return nearest(near, names[:50])
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _decoded_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Line numbers (from 1) and lines with their line ends. Raises ProblemError at the first byte that is not UTF-8."""
    with path.open("rb") as f:
        for number, raw in enumerate(f, 1):
            yield number, _decode(path, number, raw)


def _decode(path: Path, number: int, raw: bytes) -> str:
    try:
        return raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as e:
        raise ProblemError(
            f"{path}, line {number}: byte {e.start + 1} of the line is {raw[e.start]:#04x}, "
            "which is not UTF-8; expected UTF-8: save the file in that encoding"
        ) from None


def _load_json(text: str) -> tuple[Any, str, int]:
    """The value of a JSON text; or what is wrong with it and the line (from 1). Fractions stay exact, as Decimal."""
    try:
        return json.loads(text, parse_float=Decimal), "", 0
    except json.JSONDecodeError as e:
        return None, f"{e.msg} at column {e.colno}", e.lineno
    except RecursionError:
        return None, "it is nested too deeply", 1
    except ArithmeticError:
        return None, "a number with an exponent that is out of range", 1
    except ValueError as e:  # an integer of more digits than Python converts
        return None, str(e), 1


def jsonl_row(path: Path, number: int, raw: bytes, example: str = EXAMPLE) -> Row | None:
    """The row of line `number` (from 1) of a JSON Lines file, None for a blank line. `example` shows a row in messages.

    Raises ProblemError for a line that is not UTF-8, not JSON, or no object.
    """
    line = _decode(path, number, raw)
    if not line.strip():
        return None
    value, fault, _ = _load_json(line)
    if fault:
        hint = " (a file that is one JSON array is named .json)" if line.lstrip().startswith("[") else ""
        raise ProblemError(f"{path}, line {number}: not JSON: {fault}; expected one JSON object per line{hint}: repair the line")
    return _object_row(path, f"line {number}", value, example)


def _read_jsonl(path: Path, wanted: frozenset[str] | None) -> Iterator[Row]:
    with path.open("rb") as f:
        for number, raw in enumerate(f, 1):
            row = jsonl_row(path, number, raw)
            if row is not None:
                yield row


def _read_json(path: Path, wanted: frozenset[str] | None) -> Iterator[Row]:
    value, fault, line = _load_json("".join(text for _, text in _decoded_lines(path)))
    if fault:
        hint = "; one object per line is named .jsonl" if fault.startswith("Extra data") else ""
        raise ProblemError(f"{path}, line {line}: not JSON: {fault}; expected one array of objects{hint}: repair the file")
    if not isinstance(value, list):
        raise ProblemError(f"{path}: got {_json_type(value)}; expected one array of objects, [{{...}}, ...]: keep only the array")
    for number, item in enumerate(value, 1):
        yield _object_row(path, f"row {number}", item)


def _object_row(path: Path, short_place: str, value: Any, example: str = EXAMPLE) -> Row:
    if not isinstance(value, dict):
        raise ProblemError(
            f"{path}, {short_place}: got {_json_type(value)}; expected an object with named columns, {example}: repair it"
        )
    return Row(str(path), short_place, value, tuple(value))


def _json_type(value: Any) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _read_csv(path: Path, wanted: frozenset[str] | None) -> Iterator[Row]:
    reader = csv.reader((line for _, line in _decoded_lines(path)), strict=True)
    header: list[str] | None = None
    start = 1
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as e:
            raise ProblemError(
                f'{path}, line {start}: not CSV: {e}; expected comma-separated cells, quoted with " where they hold '
                'commas, quotes (doubled: "") or line ends: repair the row'
            ) from e
        if cells is None:
            return
        place, start = f"line {start}", reader.line_num + 1
        if not cells:
            continue
        if header is None:
            header = cells
            twice = sorted({name for name in header if header.count(name) > 1})
            if twice:
                raise ProblemError(f"{path}, {place}: column {twice[0]!r} is named twice in the header; rename one of the two")
            continue
        if len(cells) != len(header):
            raise ProblemError(
                f"{path}, {place}: got {len(cells)} cells; expected {len(header)}, one per column of the header: "
                "quote cells that hold commas, or repair the row"
            )
        yield Row(str(path), place, dict(zip(header, cells, strict=True)), header)


def _read_parquet(path: Path, wanted: frozenset[str] | None) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            columns = tuple(file.schema_arrow.names)
            for batch in file.iter_batches(
                batch_size=PARQUET_BATCH, columns=[c for c in columns if wanted is None or c in wanted]
            ):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(str(path), f"row {number}", values, columns)
    except UnicodeDecodeError as e:
        where = f"rows {number + 1} to {number + PARQUET_BATCH}"
        raise ProblemError(f"{path}, {where}: a text is not UTF-8 ({e.reason}); expected UTF-8: write the file again") from None
    except pa.ArrowException as e:
        raise ProblemError(f"{path}: not a readable Parquet file ({e}); expected Parquet: write the file again") from e


READERS: dict[str, Reader] = {
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
