"""What the columns of a problem row mean: ids, questions, choices, categories, rewordings and, apart from them, reference
answers.

Every function raises ProblemError that names the place, what was got, what was expected and the fix.
"""

from __future__ import annotations

import json
import math
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from harmonyray.errors import ProblemError
from harmonyray.problems.rows import Row
from harmonyray.registry import nearest
from harmonyray.seeding import derive_seed

KINDS = ("math", "number", "choice")
LETTERS = string.ascii_uppercase
_LONGEST_SHOWN = 60
_LARGEST_PLAIN_EXPONENT = 50
_EXACT_FLOAT = 2.0**53


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


def has_ids(rows: Sequence[Row], column: str | None) -> bool:
    """Whether any row has an id."""
    return any(row.values.get(column) is not None for row in rows) if column is not None else False


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
            "correct the row, or set kind_column to '' to ignore it"
        )
    return str(kind)


def read_category(row: Row, column: str) -> str:
    """The category that one row names: a text, or a number with the column's name before it ("level 5"); "" for null."""
    value = row.values.get(column)
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal | None):
        raise ProblemError(
            f"{row.place}: the category in column {column!r} is {_shown(value)}; expected a text or a number: correct the row, "
            "or set category_column to '' to ignore it"
        )
    text = "" if value is None else _encodable(row, column, plain_text(value).strip())
    return f"{column} {text}" if text.isdecimal() else text


def read_rewordings(row: Row, columns: Sequence[str]) -> dict[str, str]:
    """The rewordings of one row's question by column; every cell must hold a text."""
    out = {}
    for column in columns:
        text = row.values.get(column)
        if not isinstance(text, str) or not text.strip():
            got = "empty" if isinstance(text, str) else _shown(text)
            raise ProblemError(
                f"{row.place}: the rewording in column {column!r} is {got}; expected another wording of the question: fill it "
                "in, remove the row, or leave the column out of rewording_columns"
            )
        out[column] = _encodable(row, column, text)
    return out


def read_named_rewordings(row: Row, column: str) -> dict[str, str]:
    """The rewordings that one cell holds by name, as `harmonyray data prepare` writes them; {} where it is null."""
    value = row.values.get(column)
    named = _from_json(value)
    if named is None or named == "":
        return {}
    if isinstance(named, Mapping):
        named = {name: text for name, text in named.items() if text is not None}
    if not isinstance(named, Mapping) or not all(isinstance(t, str) and t.strip() for t in named.values()):
        raise ProblemError(
            f"{row.place}: the rewordings in column {column!r} are {_shown(value)}; expected texts by name, "
            '{"name": "another wording"}, none of them empty: correct the row, or set rewording_columns to [] to ignore them'
        )
    return {_encodable(row, column, name): _encodable(row, column, text) for name, text in named.items()}


def read_choices(row: Row, column: str) -> tuple[str, ...]:
    """The choices of one row: a list, or the text of a JSON list (as CSV has it); () where the cell is null, [] or ""."""
    value = row.values.get(column)
    parsed = _from_json(value)
    choices = parsed if isinstance(parsed, list) else value
    if choices is None or choices == [] or choices == "":
        return ()
    if not isinstance(choices, list) or not all(isinstance(c, str) and c.strip() for c in choices):
        raise ProblemError(
            f"{row.place}: the choices in column {column!r} are {_shown(value)}; expected a list of texts, none of them empty "
            '(in CSV: ["first", "second"]): correct the row, or set options_column to \'\''
        )
    if not 2 <= len(choices) <= len(LETTERS):
        raise ProblemError(
            f"{row.place}: column {column!r} has {len(choices)} choices; expected 2 to {len(LETTERS)}: "
            "correct the row, or set options_column to '' to ignore it"
        )
    return tuple(_encodable(row, column, c) for c in choices)


def mixed_choices(row: Row, problem_id: str, right: str, wrong: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """Choices out of a column of right answers and columns of wrong ones, and the right one's letter.

    Their order is a function of the problem's id, so it is the same on every machine and in every run.
    """
    columns = (right, *wrong)
    order = sorted(range(len(columns)), key=lambda i: derive_seed("choices", problem_id, i))
    texts = []
    for column in columns:
        value = row.values.get(column)
        text = plain_text(value).strip() if isinstance(value, str | int | float | Decimal) else ""
        if not text or isinstance(value, bool):
            raise ProblemError(
                f"{row.place}: no choice in column {column!r}; expected a text or a number in each of "
                f"{', '.join(repr(c) for c in columns)}: fill it in or remove the row"
            )
        texts.append(_encodable(row, column, text))
    return tuple(texts[i] for i in order), LETTERS[order.index(0)]


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """How a column writes answers: what follows the last `after` is the answer (None: all of it is); of a multiple-choice
    row, the choice's position counted from `index_from` (None: its letter or its text)."""

    column: str
    after: str | None = None
    index_from: int | None = None


def read_answer(row: Row, form: AnswerForm, choices: Sequence[str] = ()) -> str | None:
    """The reference answer of one row as text, for a multiple-choice row its letter; None if it is absent, null or blank."""
    column = form.column
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
    if form.after is not None:
        _, found, value = plain_text(value).rpartition(form.after)
        if not found or not value.strip():
            raise ProblemError(
                f"{row.place}: the answer in column {column!r} has nothing after {form.after!r}; expected the answer there: "
                "correct it, or set answer_after to '' to take the whole text"
            )
        value = value.strip()
    if choices:
        return _letter(row, form, value, choices)
    return _encodable(row, column, plain_text(value))


def plain_text(value: str | int | float | Decimal) -> str:
    """A text as it is and a number as one writes it: exact, without an exponent where that is short, 142 for a float 142.0."""
    if isinstance(value, Decimal) and abs(value.adjusted()) < _LARGEST_PLAIN_EXPONENT:
        return format(value, "f")
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT_FLOAT:
        return str(int(value))
    return str(value)


def _letter(row: Row, form: AnswerForm, value: Any, choices: Sequence[str]) -> str:
    """The letter that the answer of a multiple-choice row stands for: a letter, the exact text of one choice, a position."""
    letters = LETTERS[: len(choices)]
    if form.index_from is not None:
        return _letter_at(row, form, plain_text(value).strip(), letters)
    if isinstance(value, str):
        letter = value.strip().strip("().").upper()
        if len(letter) == 1 and letter in letters:
            return letter
        if list(choices).count(value) == 1:
            return letters[list(choices).index(value)]
    raise ProblemError(
        f"{row.place}: the answer in column {form.column!r} is {_shown(value)}; expected a letter from A to {letters[-1]} or the "
        "exact text of one choice: write the letter, or set answer_index_from to 0 or 1 if it is a position"
    )


def _letter_at(row: Row, form: AnswerForm, position: str, letters: str) -> str:
    assert form.index_from is not None
    if position.isascii() and position.isdecimal() and len(position) < 4 and 0 <= int(position) - form.index_from < len(letters):
        return letters[int(position) - form.index_from]
    raise ProblemError(
        f"{row.place}: the answer in column {form.column!r} is {_shown(position)}; of {len(letters)} choices, expected "
        f"a position from {form.index_from} to {form.index_from + len(letters) - 1}: correct the row, or answer_index_from"
    )


def no_column(row: Row, column: str, option: str) -> ProblemError:
    """The error for a column that an option names and no row has."""
    return ProblemError(f"{row.origin}: no row has the column {column!r}; {_nearest(column, row)} Set {option}")


def _nearest(column: str, row: Row) -> str:
    if not row.columns:
        return "the row has no columns."
    return nearest(column, [str(c) for c in row.columns]) + " "


def _from_json(value: Any) -> Any:
    """What the text of a cell says in JSON, as CSV has lists and objects; a text that is none, and any other value, as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


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
