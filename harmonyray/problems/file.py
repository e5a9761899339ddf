"""Problems out of a file. Questions and gold answers are read apart: what `problems()` returns never held an answer.

Reading the file formats is `rows.py`, what the columns mean is `table.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from harmonyray.errors import ProblemError
from harmonyray.problems.columns import has_ids, read_ids
from harmonyray.problems.rows import Row, read_rows
from harmonyray.problems.table import id_column, make_gold, make_problems, pick_rows
from harmonyray.problems.table_options import TableOptions, answer_form, question_columns
from harmonyray.types import GoldAnswer, Problem


class FileSource:
    """A problem set in one file: JSON Lines (.jsonl, .ndjson), JSON (.json, one array), CSV (.csv) or Parquet (.parquet).

    Nothing is cached: each call reads the file anew, so an object of this class holds neither questions nor answers.
    """

    class Options(TableOptions):
        """Options of the file source."""

        path: str = Field(min_length=1, description="the file; its extension tells the format; relative to the working folder")
        gold_path: str | None = Field(
            default=None, min_length=1, description="file of the gold answers if it is another (by id; by row if neither has ids)"
        )

    def __init__(self, options: Options) -> None:
        self.options = options

    def problems(self) -> list[Problem]:
        """The problems in file order, at most `limit`, without answers. Raises ProblemError for a file that cannot be used."""
        return self._problems(self._rows(question_columns(self.options)))

    def gold(self) -> dict[str, GoldAnswer]:
        """The gold answers by problem id, as many as there are problems; {} if the file has none.

        The gold of a multiple-choice problem is its letter. Raises ProblemError like `problems`, if only some problems
        have an answer, and if there is none although `answer_column` or `gold_path` says that there are.
        """
        options = self.options
        form = answer_form(options)
        if form is None:
            return {}
        rows = self._rows(question_columns(options) | {form.column})
        problems = self._problems(rows)
        expected = options.gold_path is not None or options.answer_column is not None
        if options.gold_path is not None:
            rows = self._rows_of_gold_file(problems, rows, Path(options.gold_path).expanduser())
        return make_gold(problems, rows, options, expected)

    def _rows(self, columns: frozenset[str]) -> list[Row]:
        """The rows that count, with these columns and no others."""
        path = Path(self.options.path).expanduser()
        rows = pick_rows(read_rows(path, columns | frozenset(self.options.only or ())), self.options, columns)
        if not rows:
            raise ProblemError(f"{path} has no rows; expected at least one problem: fill the file or name another")
        return rows

    def _problems(self, rows: Sequence[Row]) -> list[Problem]:
        return make_problems(rows, self.options, Path(self.options.path).expanduser().stem)

    def _rows_of_gold_file(self, problems: Sequence[Problem], problem_rows: Sequence[Row], path: Path) -> list[Row]:
        """The row of the gold file for each problem: that of its id, or that of its place if neither file has ids."""
        ids_in = id_column(problem_rows, self.options)
        form = answer_form(self.options)
        assert form is not None
        columns = frozenset({ids_in or "id", form.column})
        rows = [row.only(columns, index) for index, row in enumerate(read_rows(path, columns))]
        if not rows:
            raise ProblemError(f"{path} has no rows; expected the gold answers: correct gold_path")
        ids_in = ids_in or id_column(rows, self.options)
        if not has_ids(rows, ids_in) and not has_ids(problem_rows, ids_in):
            return self._rows_by_place(problem_rows, rows, path)
        assert ids_in is not None
        by_id = dict(zip(read_ids(rows, ids_in), rows, strict=True)) if has_ids(rows, ids_in) else {}
        missing = [p.id for p in problems if p.id not in by_id]
        if missing:
            raise ProblemError(
                f"{path}: no row has the id {missing[0]!r} in column {ids_in!r} ({len(missing)} of {len(problems)} problems "
                "have no row); expected an answer for every problem: add the rows, or correct gold_path or id_column"
            )
        return [by_id[p.id] for p in problems]

    def _rows_by_place(self, problem_rows: Sequence[Row], rows: Sequence[Row], path: Path) -> list[Row]:
        whole = self.options.limit is None and not self.options.only
        if len(rows) > problem_rows[-1].index and (not whole or len(rows) == len(problem_rows)):
            return [rows[row.index] for row in problem_rows]
        raise ProblemError(
            f"{path} has {len(rows)} rows for {len(problem_rows)} problems; without ids they are matched by row, so expected as "
            "many: add a column 'id' to both files, or the missing rows"
        )
