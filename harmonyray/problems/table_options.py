"""The options of every source that reads a table: which rows count and what its columns mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from harmonyray.problems.columns import AnswerForm
from harmonyray.registry import PluginOptions

Scalar = str | bool | int | float

# The columns that are taken where they are left open.
ID = "id"
QUESTION = "question"
ANSWER = "answer"
CHOICES = ("options", "choices")
KIND = "kind"
CATEGORY = "category"
REWORDINGS = "rewordings"


class TableOptions(PluginOptions):
    """The options of every source that reads a table. A column that is left at null is the one of that name, where there is one;
    a column that is named must be there; '' ignores it."""

    limit: int | None = Field(default=None, gt=0, description="the first so many problems; null: all")
    only: dict[str, Scalar | tuple[Scalar, ...]] | None = Field(
        default=None, description="rows with these values alone, by column, e.g. {level: 5} or {level: [4, 5]}"
    )
    id_column: str | None = Field(
        default=None, description="column of the ids (null: id); where no row has one they are numbered from 0"
    )
    question_column: str | None = Field(default=None, min_length=1, description="column of the question's text (null: question)")
    answer_column: str | None = Field(default=None, description="column of the gold answer, read for evaluation (null: answer)")
    answer_after: str | None = Field(default=None, description="the answer is what follows the last such text, e.g. '####'")
    answer_index_from: Literal[0, 1] | None = Field(
        default=None, description="the answer is the right choice's position, counted from this; null: its letter or its text"
    )
    options_column: str | None = Field(
        default=None, description="column of a list of choices, which makes a row multiple choice (null: options, else choices)"
    )
    wrong_answer_columns: tuple[str, ...] | None = Field(
        default=None, description="columns of wrong answers; with the right one they are the choices, their order drawn by the id"
    )
    kind: Literal["math", "number", "choice"] | None = Field(
        default=None, description="what an answer looks like: math (as null), number or choice"
    )
    kind_column: str | None = Field(
        default=None, description="column that gives the kind row by row, instead of `kind` (null: kind)"
    )
    category_column: str | None = Field(
        default=None, description="column of a level or subject that evaluations are broken down by (null: category)"
    )
    rewording_columns: tuple[str, ...] | None = Field(
        default=None, description="columns of other wordings of the question, for static views (null: those in rewordings)"
    )

    def effective(self) -> dict[str, Any]:
        """The options by name, with what is left open filled in where the source knows better (a preset)."""
        return {name: getattr(self, name) for name in type(self).model_fields}

    @model_validator(mode="after")
    def _columns_differ(self) -> TableOptions:
        fault = _clash(self.effective())
        if fault:
            raise ValueError(fault)
        return self


def _clash(values: Mapping[str, Any]) -> str:
    """What is wrong with the columns that options name together; "" if nothing is."""
    defaults = {
        "id_column": ID,
        "question_column": QUESTION,
        "answer_column": ANSWER,
        "options_column": CHOICES[0],
        "kind_column": None,
    }
    wrong = values["wrong_answer_columns"]
    if wrong:
        if values["answer_column"] == "":
            return (
                "wrong_answer_columns makes choices of them and of the right answer, but answer_column is '': name its column, "
                "or set wrong_answer_columns to []"
            )
        if values["options_column"]:
            return "wrong_answer_columns and options_column both give choices; leave one of them out"
        if values["answer_index_from"] is not None:
            return "wrong_answer_columns and answer_index_from do not go together: the choices have no positions of their own"
        defaults["options_column"] = None
    seen: dict[str, str] = {}
    for name, default in defaults.items():
        column = default if values[name] is None else values[name]
        if column and column in seen:
            return f"{seen[column]} and {name} both name column {column!r}; each needs a column of its own"
        if column:
            seen[column] = name
    answer = ANSWER if values["answer_column"] is None else values["answer_column"]
    others = {
        "category_column": [values["category_column"]],
        "rewording_columns": values["rewording_columns"] or (),
        "wrong_answer_columns": wrong or (),
        "only": values["only"] or (),
    }
    for name, columns in others.items():
        if answer and answer in columns:
            return f"{name} names {answer!r}, the column of the gold answers, which a problem must not depend on; name another"
    return ""


def answer_form(options: TableOptions) -> AnswerForm | None:
    """Where gold answers stand and how they are written; None if they are to be ignored."""
    column = ANSWER if options.answer_column is None else options.answer_column
    return AnswerForm(column, options.answer_after or None, options.answer_index_from) if column else None


def question_columns(options: TableOptions) -> frozenset[str]:
    """The columns that problems are made of. The answers' is among them only where a right answer is one of the choices."""
    named = named_columns(options)
    out = {c for c in (ID, QUESTION, *CHOICES, KIND, CATEGORY, REWORDINGS) if c not in named} | named
    form = answer_form(options)
    return frozenset(out if form is None or options.wrong_answer_columns else out - {form.column})


def named_columns(options: TableOptions) -> set[str]:
    """The columns that options name."""
    singles = (
        options.id_column,
        options.question_column,
        options.answer_column,
        options.options_column,
        options.kind_column,
        options.category_column,
    )
    many = (*(options.wrong_answer_columns or ()), *(options.rewording_columns or ()))
    return {column for column in (*singles, *many) if column}
