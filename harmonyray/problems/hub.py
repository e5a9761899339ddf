"""Problems out of Hugging Face data sets. Questions and gold answers are read apart, as from files: the columns of the answers
are not read for `problems()` (unless a right answer is one of the choices, whose order then says nothing).

What is known by name is `presets.py`, loading is `hub_rows.py`, what the columns mean is `table.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field, model_validator

from harmonyray.errors import ProblemError
from harmonyray.problems.hub_rows import Split, read_hub_rows
from harmonyray.problems.presets import PRESETS
from harmonyray.problems.rows import Row
from harmonyray.problems.table import make_gold, make_problems, pick_rows
from harmonyray.problems.table_options import TableOptions, answer_form, question_columns
from harmonyray.registry import nearest
from harmonyray.types import GoldAnswer, Problem


class HubSource:
    """A Hugging Face data set: by `name` one of math500, gsm8k, aime2024, amc, gpqa_diamond and mmlu_pro, or any other by
    `dataset` and columns. Options that are left at null are the preset's; `dataset` may be a local folder or file of the
    same columns.
    """

    class Options(TableOptions):
        """Options of the hub source."""

        name: str | None = Field(default=None, description="a benchmark that is known: " + ", ".join(PRESETS))
        dataset: str | None = Field(
            default=None, min_length=1, description="owner/name on the hub, or a folder or file here; null: the preset's"
        )
        config: str | None = Field(default=None, description="configuration of the data set, where it has several")
        split: str | None = Field(default=None, description="e.g. test; null: the preset's, else the only one")
        revision: str | None = Field(default=None, description="commit, tag or branch on the hub; null: main")

        def effective(self) -> dict[str, Any]:
            """The options by name, those left at null filled in from the preset. Raises ProblemError for an unknown preset."""
            values = super().effective()
            if self.name is None:
                return values
            if self.name not in PRESETS:
                raise ProblemError(
                    f"no benchmark is called {self.name!r}: {nearest(self.name, list(PRESETS))} "
                    "(any other data set is named by problems.dataset and its columns)"
                )
            return values | {key: value for key, value in PRESETS[self.name].items() if values[key] is None}

        @model_validator(mode="after")
        def _says_which(self) -> HubSource.Options:
            if self.name is None and self.dataset is None:
                raise ValueError("name a benchmark (name: math500) or a data set (dataset: owner/name)")
            return self

    def __init__(self, options: Options) -> None:
        self.options = options
        values, preset = options.effective(), PRESETS.get(options.name or "", {})
        self._table = TableOptions(**{key: values[key] for key in TableOptions.model_fields})
        self._split = Split(
            dataset=options.dataset or preset["dataset"],
            config=options.config or preset.get("config"),
            config_is_optional=options.dataset is not None and options.config is None,
            split=options.split or preset.get("split"),
            revision=options.revision,
        )

    def problems(self) -> list[Problem]:
        """The problems in the data set's order, at most `limit`, without answers.

        Raises ProblemError for a data set that cannot be reached, read or understood.
        """
        return self._problems(*self._rows(question_columns(self._table)))

    def gold(self) -> dict[str, GoldAnswer]:
        """The gold answers by problem id, as many as there are problems; {} if the data set has none and none are asked for.

        The gold of a multiple-choice problem is its letter. Raises ProblemError like `problems`, and if only some problems
        have an answer.
        """
        form = answer_form(self._table)
        if form is None:
            return {}
        rows, split = self._rows(question_columns(self._table) | {form.column})
        return make_gold(self._problems(rows, split), rows, self._table, expected=self._table.answer_column is not None)

    def _rows(self, columns: frozenset[str]) -> tuple[list[Row], str]:
        """The rows that count, with these columns and no others, and the split they are of."""
        found, split = read_hub_rows(self._split, columns | frozenset(self._table.only or ()))
        rows = pick_rows(found, self._table, columns)
        if not rows:
            raise ProblemError(f"{self._split.origin(split)} has no rows; expected at least one problem: name another split")
        return rows, split

    def _problems(self, rows: Sequence[Row], split: str) -> list[Problem]:
        stem = self.options.name or self._split.dataset.rstrip("/").rpartition("/")[2].partition(".")[0]
        return make_problems(rows, self._table, f"{stem}/{split}")
