"""Tables of problems: which rows count, and the problems and gold answers that they make.

Where a table comes from (a file, the hub) is its source's business, its options are `table_options.py`, and what one cell
says is `columns.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from typing import Any

from harmonyray.errors import ProblemError
from harmonyray.problems.columns import (
    has_ids,
    mixed_choices,
    no_column,
    plain_text,
    read_answer,
    read_category,
    read_choices,
    read_ids,
    read_kind,
    read_named_rewordings,
    read_question,
    read_rewordings,
)
from harmonyray.problems.rows import Row
from harmonyray.problems.table_options import (
    CATEGORY,
    CHOICES,
    ID,
    KIND,
    QUESTION,
    REWORDINGS,
    TableOptions,
    answer_form,
    named_columns,
)
from harmonyray.types import GoldAnswer, Problem

_SHOWN_VALUES = 10


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns that some rows have, by what they mean; None for what they have not."""

    id: str | None
    question: str
    choices: str | None
    kind: str | None
    category: str | None
    rewordings: str | None


def pick_rows(rows: Iterable[Row], options: TableOptions, columns: frozenset[str]) -> list[Row]:
    """The rows that `only` and `limit` leave, with these columns alone. Raises ProblemError if none is left."""
    seen: dict[str, set[str]] = {}
    last: list[Row] = []
    picked = list(islice(_matching(rows, options.only or {}, columns, seen, last), options.limit))
    if picked or not last:
        return picked
    for column in options.only or {}:
        if not seen[column]:
            raise no_column(last[0], column, "only")
    there = "; ".join(f"{c} is one of {_some(values)}" for c, values in seen.items())
    raise ProblemError(
        f"{last[0].origin}: no row is left by only={dict(options.only or {})!r}; there {there}: ask for values that go together"
    )


def _matching(
    rows: Iterable[Row], only: Mapping[str, Any], columns: frozenset[str], seen: dict[str, set[str]], last: list[Row]
) -> Iterable[Row]:
    """The rows with the wanted values, one at a time; `seen` gathers the values there are, `last` one row of them."""
    wanted = {c: {plain_text(v) for v in (v if isinstance(v, tuple) else (v,))} for c, v in only.items()}
    seen.update((column, set()) for column in wanted)
    for index, row in enumerate(rows):
        last[:] = [row]
        keep = True
        for column, values in wanted.items():
            value = row.values.get(column)
            text = plain_text(value) if isinstance(value, str | int | float | Decimal) else None
            if text is not None and len(seen[column]) <= _SHOWN_VALUES:
                seen[column].add(text)
            keep = keep and text in values
        if keep:
            yield row.only(columns, index)


def _some(values: Iterable[str]) -> str:
    ordered = sorted(values)
    return ", ".join(ordered[:_SHOWN_VALUES]) + (", ..." if len(ordered) > _SHOWN_VALUES else "")


def make_problems(rows: Sequence[Row], options: TableOptions, stem: str) -> list[Problem]:
    """The problems of these rows, in their order, without answers; without ids in any row they are `<stem>/<row from 0>`."""
    layout = _layout(rows, options)
    texts = [read_question(row, layout.question) for row in rows]
    if layout.id is not None and has_ids(rows, layout.id):
        ids = read_ids(rows, layout.id)
    else:
        ids = [f"{stem}/{row.index}" for row in rows]
    return [_problem(row, id_, text, layout, options) for row, id_, text in zip(rows, ids, texts, strict=True)]


def _problem(row: Row, problem_id: str, text: str, layout: Layout, options: TableOptions) -> Problem:
    named = layout.kind is not None and (options.kind_column is not None or row.values.get(layout.kind) is not None)
    kind: str = read_kind(row, layout.kind) if named and layout.kind is not None else options.kind or "math"
    choices: tuple[str, ...] = ()
    form = answer_form(options)
    if options.wrong_answer_columns and form is not None:
        choices, _ = mixed_choices(row, problem_id, form.column, options.wrong_answer_columns)
    elif layout.choices is not None:
        choices = read_choices(row, layout.choices)
    if choices and named and kind != "choice":
        raise ProblemError(
            f"{row.place}: column {layout.choices!r} has {len(choices)} choices but column {layout.kind!r} says {kind!r}; "
            "expected kind 'choice': correct the row, or set options_column to '' to ignore it"
        )
    return Problem(
        id=problem_id,
        text=text,
        kind="choice" if choices else kind,
        choices=choices,
        category="" if layout.category is None else read_category(row, layout.category),
        rewordings=_rewordings(row, layout, options),
    )


def _rewordings(row: Row, layout: Layout, options: TableOptions) -> dict[str, str]:
    if options.rewording_columns is not None:
        return read_rewordings(row, options.rewording_columns)
    return {} if layout.rewordings is None else read_named_rewordings(row, layout.rewordings)


def make_gold(problems: Sequence[Problem], rows: Sequence[Row], options: TableOptions, expected: bool) -> dict[str, GoldAnswer]:
    """The gold answers by problem id, `rows` being the row of each problem; {} if there are none.

    Raises ProblemError if only some problems have one, and if there is none although one was `expected`.
    """
    form = answer_form(options)
    if form is None:
        return {}
    wrong = options.wrong_answer_columns
    if wrong and rows and set(wrong) <= set(rows[0].values):  # not so in a file of gold answers alone, which has letters
        answers: list[str | None] = [mixed_choices(r, p.id, form.column, wrong)[1] for p, r in zip(problems, rows, strict=True)]
    else:
        answers = [read_answer(row, form, p.choices) for p, row in zip(problems, rows, strict=True)]
    gold = {p.id: GoldAnswer(p.id, answer) for p, answer in zip(problems, answers, strict=True) if answer is not None}
    if not gold and not expected:
        return {}
    if not any(form.column in row.columns for row in rows):
        raise no_column(rows[0], form.column, "answer_column")
    if len(gold) < len(problems):
        row = rows[answers.index(None)]
        raise ProblemError(
            f"{row.place}: no answer in column {form.column!r} ({len(problems) - len(gold)} of {len(problems)} "
            "problems have none); expected an answer for every problem: add the missing ones or remove these rows"
        )
    return gold


def id_column(rows: Sequence[Row], options: TableOptions) -> str | None:
    """The column of ids that these rows have. Raises ProblemError if one is named that no row has."""
    return _present(rows, options.id_column, (ID,), "id_column")


def _layout(rows: Sequence[Row], options: TableOptions) -> Layout:
    named = named_columns(options)

    def find(column: str | None, option: str, *defaults: str) -> str | None:
        return _present(rows, column, tuple(d for d in defaults if d not in named), option)

    for column in (*(options.wrong_answer_columns or ()), *(options.rewording_columns or ())):
        if not any(column in row.columns for row in rows):
            of_answers = column in (options.wrong_answer_columns or ())
            raise no_column(rows[0], column, "wrong_answer_columns" if of_answers else "rewording_columns")
    return Layout(
        id=id_column(rows, options),
        question=QUESTION if options.question_column is None else options.question_column,
        choices=None if options.wrong_answer_columns else find(options.options_column, "options_column", *CHOICES),
        kind=find(options.kind_column, "kind_column", KIND),
        category=find(options.category_column, "category_column", CATEGORY),
        rewordings=find(None, "rewording_columns", REWORDINGS),
    )


def _present(rows: Sequence[Row], column: str | None, defaults: tuple[str, ...], option: str) -> str | None:
    """The column that is meant: the named one, which some row must have, or the first default that any row has."""
    if column is None:
        return next((c for c in defaults if any(c in row.columns for row in rows)), None)
    if column and not any(column in row.columns for row in rows):
        raise no_column(rows[0], column, option)
    return column or None
