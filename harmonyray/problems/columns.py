"""What the columns of a problem row mean: ids, questions, choices and, apart from them, reference answers.

Every function raises ProblemError that names the place, what was got, what was expected and the fix.
"""

from __future__ import annotations

import json
import math
import string
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from harmonyray.errors import ProblemError
from harmonyray.problems.rows import Row
from harmonyray.registry import nearest

KINDS = ("math", "number", "choice")
LETTERS = string.ascii_uppercase
_LONGEST_SHOWN = 60
_LARGEST_PLAIN_EXPONENT = 50


def read_question(row: Row, column: str) -> str:
    """The question of one row, exactly as written."""
    if column not in row.columns:
        raise ProblemError(f"{row.place}: no column {column!r} with the question; {_nearest(column, row)} Set question_column")
    text = row.values[column]
    if not isinstance(text, str):
        raise ProblemError(f"{row.place}: the question in column {column!r} is {_shown(text)}; expected a text: correct the row")
    if not text.strip():
        raise ProblemError(
            f"{row.place}: the question in column {column!r} is empty; expected a text: fill it in or remove the row"
        )
    return _encodable(row, column, text)


def has_ids(rows: Sequence[Row], column: str) -> bool:
    """Whether any row has an id."""
    return any(row.values.get(column) is not None for row in rows)


def read_ids(rows: Sequence[Row], column: str) -> list[str]:
    """The id of every row; no two are equal."""
    seen: dict[str, Row] = {}
    for row in rows:
        value = row.values.get(column)
        if value is None:
            known = next(r for r in rows if r.values.get(column) is not None)
            raise ProblemError(
                f"{row.place}: no id in column {column!r}, but {known.short_place} has one; expected ids in every row or in "
                "none: add the missing ones, or remove the column"
            )
        if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal) or value == "":
            raise ProblemError(
                f"{row.place}: the id in column {column!r} is {_shown(value)}; expected a text or a number: correct it"
            )
        problem_id = _encodable(row, column, str(value))
        if problem_id in seen:
            raise ProblemError(
                f"{row.place}: id {problem_id!r} was given to {seen[problem_id].short_place} already; expected every id once: "
                "rename or remove one of the two"
            )
        seen[problem_id] = row
    return list(seen)


def read_kind(row: Row, column: str) -> str:
    """The kind that one row names."""
    kind = row.values.get(column)
    if kind not in KINDS:
        raise ProblemError(
            f"{row.place}: the kind in column {column!r} is {_shown(kind)}; expected one of {', '.join(KINDS)}: "
            "correct the row, or set kind_column to null"
        )
    return str(kind)


def read_choices(row: Row, column: str) -> tuple[str, ...]:
    """The choices of one row: a list, or the text of a JSON list (as CSV has it); () where the cell is null, [] or ""."""
    value = row.values.get(column)
    choices: Any = value
    if isinstance(value, str) and value:
        try:
            choices = json.loads(value)
        except (ValueError, RecursionError):
            choices = None
        if not isinstance(choices, list):
            choices = value
    if choices is None or choices == [] or choices == "":
        return ()
    if not isinstance(choices, list) or not all(isinstance(c, str) and c.strip() for c in choices):
        raise ProblemError(
            f"{row.place}: the choices in column {column!r} are {_shown(value)}; expected a list of texts, none of them empty "
            '(in CSV: ["first", "second"]): correct the row, or set options_column to null'
        )
    if not 2 <= len(choices) <= len(LETTERS):
        raise ProblemError(
            f"{row.place}: column {column!r} has {len(choices)} choices; expected 2 to {len(LETTERS)}: "
            "correct the row, or set options_column to null"
        )
    return tuple(_encodable(row, column, c) for c in choices)


def read_answer(row: Row, column: str, choices: Sequence[str] = ()) -> str | None:
    """The reference answer of one row as text, for a multiple-choice row its letter; None if it is absent, null or blank."""
    value = row.values.get(column)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if (
        isinstance(value, bool)
        or not isinstance(value, str | int | float | Decimal)
        or (isinstance(value, float) and not math.isfinite(value))
    ):
        raise ProblemError(
            f"{row.place}: the answer in column {column!r} is {_shown(value)}; expected a text or a number: correct it"
        )
    if choices:
        return _letter(row, column, value, choices)
    if isinstance(value, Decimal) and abs(value.adjusted()) < _LARGEST_PLAIN_EXPONENT:
        return format(value, "f")
    return _encodable(row, column, str(value))


def _letter(row: Row, column: str, value: Any, choices: Sequence[str]) -> str:
    """The letter that the answer of a multiple-choice row stands for: a letter, or else the exact text of one choice."""
    letters = LETTERS[: len(choices)]
    if isinstance(value, str):
        letter = value.strip().strip("().").upper()
        if len(letter) == 1 and letter in letters:
            return letter
        if list(choices).count(value) == 1:
            return letters[list(choices).index(value)]
    raise ProblemError(
        f"{row.place}: the answer in column {column!r} is {_shown(value)}; expected a letter from A to {letters[-1]} or the "
        "exact text of one choice (a position may count from 0 or from 1): write the letter"
    )


def no_column(row: Row, column: str, option: str) -> ProblemError:
    """The error for a column that an option names and no row has."""
    return ProblemError(f"{row.path}: no row has the column {column!r}; {_nearest(column, row)} Set {option}")


def _nearest(column: str, row: Row) -> str:
    if not row.columns:
        return "the row has no columns."
    return nearest(column, [str(c) for c in row.columns]) + " "


def _shown(value: Any) -> str:
    """A value for a message, cut short."""
    if value is None:
        return "missing or null"
    text = str(value) if isinstance(value, Decimal) else repr(value)
    return text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "..."


def _encodable(row: Row, column: str, text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as e:
        raise ProblemError(
            f"{row.place}: column {column!r} holds {text[e.start]!r}, half of a surrogate pair and no character; "
            "expected text that UTF-8 can hold: correct the escape"
        ) from None
    return text
