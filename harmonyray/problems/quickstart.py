"""The quickstart problems: 128 two-digit subtractions that ship with the package, for the shipped demo model.

What lives here: reading the shipped files. The questions file holds no answers; the gold answers are a file of their own,
read by `gold()` alone. The task itself, and why the demo model gets it wrong, is told in `quickstart_task`.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from pydantic import Field

from harmonyray.errors import ProblemError
from harmonyray.problems.quickstart_task import all_questions
from harmonyray.registry import PluginOptions
from harmonyray.types import GoldAnswer, Problem

ASSETS = Path(__file__).resolve().parent.parent / "assets" / "quickstart"
MODEL_DIR = ASSETS / "model"
"""The demo model: 0.3 million parameters, Qwen3, loadable with transformers without a network."""


def _category(question: str) -> str:
    """Whether the ones place needs a borrow: read off the question, so no hint of the answer."""
    a, b = question.split("-")
    return "borrow" if a[-1] < b[-1] else "plain"


def _shifted(question: str, allowed: Collection[tuple[int, int]]) -> str:
    """The question with the same small number added to, or taken from, both of its numbers, e.g. `53-38` for `52-37`: the
    nearest one of `allowed`."""
    a, b = map(int, question.split("-"))
    near = (k for size in range(1, 90) for k in (size, -size))
    k = next(k for k in near if (a + k, b + k) in allowed)
    return f"{a + k}-{b + k}"


class QuickstartSource:
    """The shipped subtraction questions, e.g. `52-37`; 77 need a borrow and 51 do not. Their rewording `shifted` has the same
    difference between two other numbers, and is none of the shipped questions: a held-out one is not posed in its stead."""

    class Options(PluginOptions):
        """`limit`: only the first so many questions (all 128 if null)."""

        limit: int | None = Field(default=None, ge=1)

    def __init__(self, options: Options) -> None:
        self.options = options

    def problems(self) -> list[Problem]:
        """The questions in file order, without answers. Raises ProblemError if the shipped file cannot be read."""
        shipped = {row["question"] for row in self._rows("questions.jsonl", limit=None)}
        allowed = {(q.a, q.b) for q in all_questions() if q.text not in shipped}
        return [
            Problem(
                id=row["id"],
                text=row["question"],
                kind="number",
                category=_category(row["question"]),
                rewordings={"shifted": _shifted(row["question"], allowed)},
            )
            for row in self._rows("questions.jsonl", self.options.limit)
        ]

    def gold(self) -> dict[str, GoldAnswer]:
        """The reference answers by problem id, of the same questions. Raises ProblemError like `problems`."""
        return {
            row["id"]: GoldAnswer(problem_id=row["id"], text=row["answer"])
            for row in self._rows("gold.jsonl", self.options.limit)
        }

    def _rows(self, name: str, limit: int | None) -> list[dict[str, str]]:
        path = ASSETS / name
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except OSError as e:
            raise ProblemError(
                f"the shipped quickstart file {name!r} cannot be read ({e}); expected it at {path}: reinstall harmonyray"
            ) from e
        return [json.loads(line) for line in lines[:limit]]
