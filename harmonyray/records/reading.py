"""Rows into the offline verbs: JSON Lines, JSON, CSV and Parquet by extension, standard input as `-`; what becomes of bad ones.

Rows stream, but for a JSON array. No character of a model's output can stop a verb.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from harmonyray.errors import ProblemError
from harmonyray.problems.rows import Row, check_file, read_rows, unreadable
from harmonyray.records.formats import Number, csv_rows, json_array, json_lines
from harmonyray.registry import nearest

STREAM = "-"
PARQUET = ".parquet"
_STDIN = "<stdin>"
_UNPACKERS = {".gz": "zcat", ".bz2": "bzcat", ".xz": "xzcat", ".zst": "zstdcat"}
_LONGEST_SHOWN = 60
_LARGEST_PLAIN_EXPONENT = 50
_SHOWN_FAULTS = 5
_KEPT_FAULTS = 10_000

T = TypeVar("T")


class BadRows:
    """What becomes of a row that cannot be used: its error is raised, or with `skip` it is counted and told to stderr
    (the first few of them). `skipped`: where they stood, line or row numbers, the first 10,000."""

    def __init__(self, skip: bool) -> None:
        self.skip = skip
        self.num_skipped = 0
        self.skipped: list[int] = []
        self.first: ProblemError | None = None

    def report(self, fault: ProblemError, place: str) -> None:
        """Raises `fault`, or counts it; `place` is that of its row ("line 3")."""
        if not self.skip:
            raise fault
        self.num_skipped += 1
        self.first = self.first or fault
        if len(self.skipped) < _KEPT_FAULTS:
            self.skipped.append(int(place.rpartition(" ")[2]))
        if self.num_skipped <= _SHOWN_FAULTS:
            print(f"skipped: {fault}", file=sys.stderr)
        elif self.num_skipped == _SHOWN_FAULTS + 1:
            print("skipped: more (they are counted; --json lists their numbers)", file=sys.stderr)


def read_records(source: str, bad: BadRows, verb: str, example: str, wanted: frozenset[str] | None) -> Iterator[Row]:
    """The rows of a file, or of JSON Lines on standard input for `-`. JSON's numbers are of type `Number`, as written.

    What is no row (a line that is no JSON object, a line of CSV with too few cells) goes to `bad`; `verb` and `example`, which
    shows a row, are for messages; `wanted` are the columns to read (None: all). Raises ProblemError for a file that cannot be
    used.
    """
    if source == STREAM:
        yield from json_lines(_STDIN, sys.stdin.buffer, bad.report, example, f"harmonyray {verb}")
        return
    path = Path(source).expanduser()
    unpacker = _UNPACKERS.get(path.suffix.lower())
    if unpacker is not None:
        raise ProblemError(f"{path} is compressed; expected a file to read as it is: {unpacker} {path} | harmonyray {verb} -")
    check_file(path)
    try:
        if path.suffix.lower() == PARQUET:
            yield from read_rows(path, wanted)
        elif path.suffix.lower() == ".json":
            yield from json_array(str(path), path.read_bytes(), bad.report, example)
        else:
            with path.open("rb") as file:
                is_csv = path.suffix.lower() == ".csv"
                yield from csv_rows(str(path), file, bad.report) if is_csv else json_lines(str(path), file, bad.report, example)
    except OSError as e:
        raise unreadable(path, e) from e


def usable(rows: Iterable[Row], make: Callable[[Row], T], bad: BadRows) -> Iterator[tuple[Row, T]]:
    """The rows with what `make` builds of each; a row that it raises ProblemError for goes to `bad`."""
    for row in rows:
        try:
            made = make(row)
        except ProblemError as e:
            bad.report(e, row.short_place)
        else:
            yield row, made


def no_rows(source: str, bad: BadRows) -> ProblemError:
    """The error for an input without a single row that can be used."""
    name = _STDIN if source == STREAM else source
    if bad.num_skipped:
        return ProblemError(f"{name}: {counted(bad.num_skipped, 'row')} skipped, and none is left to use; the first: {bad.first}")
    return ProblemError(f"{name} has no rows; expected at least one: fill the file or name another")


def no_column(row: Row, column: str, example: str) -> ProblemError:
    """The error for a row without a column that it needs."""
    names = [str(c) for c in row.columns]
    hint = nearest(column, names) if names else ""
    if not hint.startswith("did you mean"):
        hint = f"the row has: {', '.join(names)}" if names else "the row has no columns"
    return ProblemError(f"{row.place}: no column {column!r}; {hint}; expected rows like {example}")


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in lists of `size`, the last one shorter."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def counted(number: int, what: str) -> str:
    """A number of things, for a message: "1 row", "2 rows"."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def scalar_text(row: Row, what: str, value: Any) -> str | None:
    """An answer as text: a text as it is, a number as written (without an exponent where that is short), None for null.
    Raises ProblemError for anything else."""
    if isinstance(value, Number) and ("e" in value or "E" in value):
        value = _decimal(value)
    if value is None or isinstance(value, str):
        return None if value is None else str(value)
    if isinstance(value, Decimal) and abs(value.adjusted()) < _LARGEST_PLAIN_EXPONENT:
        return format(value, "f")
    number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    if not number or (isinstance(value, float) and not math.isfinite(value)):
        raise ProblemError(f"{row.place}: {what} is {shown(value)}; expected a text or a number: correct it")
    return str(value)


def _decimal(number: Number) -> Decimal | str:
    """A number with an exponent; its text if the exponent is out of range."""
    try:
        value = Decimal(number)
    except ArithmeticError:
        return str(number)
    return value if abs(value.adjusted()) < _LARGEST_PLAIN_EXPONENT else str(number)


def shown(value: Any) -> str:
    """A value for a message, cut short."""
    if value is None:
        return "null"
    text = str(value) if isinstance(value, Decimal) else repr(value)
    return text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "..."
