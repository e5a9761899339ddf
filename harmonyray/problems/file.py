"""Problems out of a file. Questions and gold answers are read apart: what `problems()` returns never held an answer.

Reading the file formats is `rows.py`, what one row says is `columns.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from harmonyray.errors import ProblemError
from harmonyray.problems.columns import has_ids, no_column, read_answer, read_choices, read_ids, read_kind, read_question
from harmonyray.problems.rows import Row, read_rows
from harmonyray.registry import PluginOptions
from harmonyray.types import GoldAnswer, Problem

_DEFAULT_ANSWER_COLUMN = "answer"


class FileSource:
    """A problem set in one file: JSON Lines (.jsonl, .ndjson), JSON (.json, one array), CSV (.csv) or Parquet (.parquet).

    Nothing is cached: each call reads the file anew, so an object of this class holds neither questions nor answers.
    """

    class Options(PluginOptions):
        """Options of the file source."""

        path: str = Field(min_length=1, description="the file; its extension tells the format; relative to the working folder")
        limit: int | None = Field(default=None, gt=0, description="read only the first so many rows; null: all")
        id_column: str = Field(default="id", description="column of the ids; absent from every row: '<file stem>/<row from 0>'")
        question_column: str = Field(default="question", description="column of the question's text")
        answer_column: str = Field(default=_DEFAULT_ANSWER_COLUMN, description="column of the gold answer, read for evaluation")
        options_column: str | None = Field(
            default="options", description="column of a list of choices, which makes a row multiple choice; null: ignore it"
        )
        kind: Literal["math", "number", "choice"] = Field(default="math", description="what an answer looks like")
        kind_column: str | None = Field(default=None, description="column that gives the kind row by row, instead of `kind`")
        gold_path: str | None = Field(
            default=None, min_length=1, description="file of the gold answers if it is another (by id; by row if neither has ids)"
        )

        @model_validator(mode="after")
        def _columns_differ(self) -> FileSource.Options:
            seen: dict[str, str] = {}
            for name in ("id_column", "question_column", "answer_column", "options_column", "kind_column"):
                column = getattr(self, name)
                if column in seen:
                    raise ValueError(f"{seen[column]} and {name} both name column {column!r}; each needs a column of its own")
                if column is not None:
                    seen[column] = name
            return self

    def __init__(self, options: Options) -> None:
        self.options = options

    def problems(self) -> list[Problem]:
        """The problems in file order, at most `limit`, without answers. Raises ProblemError for a file that cannot be used."""
        return self._problems(self._rows(self._question_columns))

    def gold(self) -> dict[str, GoldAnswer]:
        """The gold answers by problem id, as many as there are problems; {} if the file has none.

        The gold of a multiple-choice problem is its letter. Raises ProblemError like `problems`, if only some problems
        have an answer, and if there is none although `answer_column` or `gold_path` says that there are.
        """
        options = self.options
        rows = self._rows(self._question_columns | {options.answer_column})
        problems = self._problems(rows)
        answer_rows = rows
        if options.gold_path is not None:
            answer_rows = self._rows_of_gold_file(
                problems, Path(options.gold_path).expanduser(), has_ids(rows, options.id_column)
            )
        answers = [read_answer(r, options.answer_column, p.choices) for p, r in zip(problems, answer_rows, strict=True)]
        gold = {p.id: GoldAnswer(p.id, answer) for p, answer in zip(problems, answers, strict=True) if answer is not None}
        if not gold and options.gold_path is None and options.answer_column == _DEFAULT_ANSWER_COLUMN:
            return {}
        if not any(options.answer_column in row.columns for row in answer_rows):
            raise no_column(answer_rows[0], options.answer_column, "answer_column")
        if len(gold) < len(problems):
            row = answer_rows[answers.index(None)]
            raise ProblemError(
                f"{row.place}: no answer in column {options.answer_column!r} ({len(problems) - len(gold)} of {len(problems)} "
                "problems have none); expected an answer for every problem: add the missing ones or remove these rows"
            )
        return gold

    @property
    def _question_columns(self) -> frozenset[str]:
        options = self.options
        columns = (options.id_column, options.question_column, options.options_column, options.kind_column)
        return frozenset(c for c in columns if c is not None)

    def _rows(self, columns: frozenset[str]) -> list[Row]:
        """The rows up to the limit, with these columns and no others."""
        path = Path(self.options.path).expanduser()
        rows = [row.only(columns) for row in islice(read_rows(path, columns), self.options.limit)]
        if not rows:
            raise ProblemError(f"{path} has no rows; expected at least one problem: fill the file or name another")
        for option, default in (("id_column", "id"), ("options_column", "options")):
            column = getattr(self.options, option)
            if column not in (None, default) and not any(column in row.columns for row in rows):
                raise no_column(rows[0], column, option)
        return rows

    def _problems(self, rows: Sequence[Row]) -> list[Problem]:
        texts = [read_question(row, self.options.question_column) for row in rows]
        if has_ids(rows, self.options.id_column):
            ids = read_ids(rows, self.options.id_column)
        else:
            ids = [f"{rows[0].path.stem}/{i}" for i in range(len(rows))]
        return [self._problem(row, id_, text) for row, id_, text in zip(rows, ids, texts, strict=True)]

    def _problem(self, row: Row, problem_id: str, text: str) -> Problem:
        column, options_column = self.options.kind_column, self.options.options_column
        kind = self.options.kind if column is None else read_kind(row, column)
        choices = () if options_column is None else read_choices(row, options_column)
        if choices and column is not None and kind != "choice":
            raise ProblemError(
                f"{row.place}: column {options_column!r} has {len(choices)} choices but column {column!r} says {kind!r}; "
                "expected kind 'choice': correct the row, or set options_column to null"
            )
        return Problem(id=problem_id, text=text, kind="choice" if choices else kind, choices=choices)

    def _rows_of_gold_file(self, problems: Sequence[Problem], path: Path, problems_have_ids: bool) -> list[Row]:
        """The row of the gold file for each problem: that of its id, or that of its place if neither file has ids."""
        id_column = self.options.id_column
        columns = frozenset({id_column, self.options.answer_column})
        rows = [row.only(columns) for row in read_rows(path, columns)]
        if not rows:
            raise ProblemError(f"{path} has no rows; expected the gold answers: correct gold_path")
        if not has_ids(rows, id_column) and not problems_have_ids:
            if len(rows) == len(problems) or (self.options.limit is not None and len(rows) > len(problems)):
                return rows[: len(problems)]
            raise ProblemError(
                f"{path} has {len(rows)} rows for {len(problems)} problems; without ids they are matched by row, so expected as "
                f"many: add a column {id_column!r} to both files, or the missing rows"
            )
        by_id = dict(zip(read_ids(rows, id_column), rows, strict=True)) if has_ids(rows, id_column) else {}
        missing = [p.id for p in problems if p.id not in by_id]
        if missing:
            raise ProblemError(
                f"{path}: no row has the id {missing[0]!r} in column {id_column!r} ({len(missing)} of {len(problems)} problems "
                "have no row); expected an answer for every problem: add the rows, or correct gold_path or id_column"
            )
        return [by_id[p.id] for p in problems]
