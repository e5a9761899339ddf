"""Rows in and out of the offline verbs: JSON Lines, JSON, CSV and Parquet by extension, standard input and output as `-`.

One row or one chunk of rows is held at a time. What the columns mean is the verbs' own business. Model output passes
through here as it is: no character of it can stop a verb.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from decimal import Decimal
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from harmonyray.errors import ConfigError, ProblemError, UserError
from harmonyray.problems.rows import Row, check_file, jsonl_row, read_rows, unreadable

STREAM = "-"
_STDIN = Path("<stdin>")
_JSONL = (".jsonl", ".ndjson")
_LONGEST_SHOWN = 60
_LARGEST_PLAIN_EXPONENT = 50
_SHOWN_FAULTS = 5

T = TypeVar("T")


class BadRows:
    """What becomes of a row that cannot be used: its error is raised, or with `skip` it is counted and told to stderr
    (the first few of them)."""

    def __init__(self, skip: bool) -> None:
        self.skip = skip
        self.num_skipped = 0

    def report(self, fault: ProblemError) -> None:
        """Raises `fault`, or counts it."""
        if not self.skip:
            raise fault
        self.num_skipped += 1
        if self.num_skipped <= _SHOWN_FAULTS:
            print(f"skipped: {fault}", file=sys.stderr)
        elif self.num_skipped == _SHOWN_FAULTS + 1:
            print("skipped: more (they are counted only)", file=sys.stderr)


def read_records(source: str, make: Callable[[Row], T], bad: BadRows, example: str, wanted: frozenset[str] | None) -> Iterator[T]:
    """What `make` builds of each row of a file, or of JSON Lines on standard input for `-`.

    A line that is no JSON object, and a row that `make` raises ProblemError for, go to `bad`; `example` shows a row in
    messages; `wanted` are the columns to read (None: all). Raises ProblemError for a file that cannot be used.
    """
    path = _STDIN if source == STREAM else Path(source).expanduser()
    rows: Iterable[Row]
    if source == STREAM:
        rows = _json_lines(path, sys.stdin.buffer, bad, example)
    else:
        check_file(path)
        rows = _file_lines(path, bad, example) if path.suffix.lower() in _JSONL else read_rows(path, wanted)
    for row in rows:
        try:
            made = make(row)
        except ProblemError as e:
            bad.report(e)
        else:
            yield made


def _file_lines(path: Path, bad: BadRows, example: str) -> Iterator[Row]:
    try:
        with path.open("rb") as file:
            yield from _json_lines(path, file, bad, example)
    except OSError as e:
        raise unreadable(path, e) from e


def _json_lines(path: Path, lines: Iterable[bytes], bad: BadRows, example: str) -> Iterator[Row]:
    for number, raw in enumerate(lines, 1):
        try:
            row = jsonl_row(path, number, raw, example)
        except ProblemError as e:
            bad.report(e)
            continue
        if row is not None:
            yield row


def no_rows(source: str, bad: BadRows) -> None:
    """Raises ProblemError for an input without a single row; one whose rows were all skipped is no error."""
    if not bad.num_skipped:
        name = _STDIN if source == STREAM else source
        raise ProblemError(f"{name} has no rows; expected at least one: fill the file or name another")


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in lists of `size`, the last one shorter."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def scalar_text(row: Row, what: str, value: Any) -> str | None:
    """An answer as text: a text as it is, a number as written, None for null. Raises ProblemError for anything else."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, Decimal) and abs(value.adjusted()) < _LARGEST_PLAIN_EXPONENT:
        return format(value, "f")
    number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    if not number or (isinstance(value, float) and not math.isfinite(value)):
        raise ProblemError(f"{row.place}: {what} is {shown(value)}; expected a text or a number: correct it")
    return str(value)


def shown(value: Any) -> str:
    """A value for a message, cut short."""
    if value is None:
        return "null"
    text = str(value) if isinstance(value, Decimal) else repr(value)
    return text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "..."


def check_out(out: str | None, source: str) -> None:
    """Raises ConfigError where results cannot be written: an unknown extension, no such folder, the input itself."""
    if out is None or out == STREAM:
        return
    path = Path(out).expanduser()
    if path.suffix.lower() not in (*_JSONL, ".parquet"):
        raise ConfigError(f"--out {out!r}: expected a name ending in .jsonl, .ndjson or .parquet, or - for standard output")
    check_folder("--out", path)
    if source != STREAM and path.exists() and Path(source).expanduser().exists() and path.samefile(Path(source).expanduser()):
        raise ConfigError(f"--out {out!r} is the input itself: name another file")


def check_folder(option: str, path: Path) -> None:
    """Raises ConfigError unless `path` names a file in a folder that can be written to."""
    if path.is_dir() or not path.absolute().parent.is_dir() or not os.access(path.absolute().parent, os.W_OK):
        raise ConfigError(f"{option} '{path}': expected the name of a file in a folder that exists and can be written to")


class RecordWriter(AbstractContextManager["RecordWriter"]):
    """Writes rows to JSON Lines or Parquet by extension, to standard output for `-`, or nowhere for None.

    A file appears under its name when it is whole; after an error there is none. `schema`: Parquet's pyarrow schema for
    the first rows (None: inferred from them).
    """

    def __init__(self, out: str | None, schema: Callable[[Sequence[Mapping[str, Any]]], Any] | None = None) -> None:
        self._path = Path(out).expanduser() if out not in (None, STREAM) and out is not None else None
        self._stream = out == STREAM
        self._schema = schema
        self._parquet: Any = None
        self._file: Any = None
        self._temporary = self._path.with_name(f".{self._path.name}.part") if self._path is not None else None
        if self._temporary is not None and self._temporary.suffixes[-2:-1] != [".parquet"]:
            self._file = self._temporary.open("wb")

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Appends rows. Raises UserError for rows that one Parquet file cannot hold."""
        if self._stream:
            sys.stdout.flush()
            sys.stdout.buffer.writelines(_line(row) for row in rows)
            sys.stdout.buffer.flush()
        elif self._file is not None:
            self._file.writelines(_line(row) for row in rows)
        elif self._temporary is not None:
            self._write_parquet(rows)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._temporary is None or self._path is None:
            return
        try:
            if self._file is None and self._parquet is None and kind is None:
                self._write_parquet([])
        finally:
            for handle in (self._file, self._parquet):
                if handle is not None:
                    handle.close()
        if kind is None:
            self._temporary.replace(self._path)
        else:
            self._temporary.unlink(missing_ok=True)

    def _write_parquet(self, rows: Sequence[Mapping[str, Any]]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        clean = [{key: _for_parquet(value) for key, value in row.items()} for row in rows]
        try:
            if self._parquet is None:
                schema = self._schema(clean) if self._schema is not None else pa.Table.from_pylist(clean).schema
                self._parquet = pq.ParquetWriter(self._temporary, schema)
            self._parquet.write_table(pa.Table.from_pylist(clean, schema=self._parquet.schema))
        except pa.ArrowException as e:
            raise UserError(f"{self._path}: the rows do not fit into one Parquet table ({e}); write .jsonl instead") from e


def _line(row: Mapping[str, Any]) -> bytes:
    """A row as a line of JSON in UTF-8; half a surrogate pair, which UTF-8 cannot hold, stays an escape."""
    try:
        return (json.dumps(row, ensure_ascii=False, default=_plain) + "\n").encode("utf-8")
    except UnicodeEncodeError:
        return (json.dumps(row, default=_plain) + "\n").encode("ascii")


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return (
            int(value) if value == value.to_integral_value() and abs(value.adjusted()) < _LARGEST_PLAIN_EXPONENT else float(value)
        )
    return str(value)


def _for_parquet(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, Decimal):
        return _plain(value)
    if isinstance(value, Mapping):
        return {_for_parquet(key): _for_parquet(item) for key, item in value.items()}
    return [_for_parquet(item) for item in value] if isinstance(value, list) else value
