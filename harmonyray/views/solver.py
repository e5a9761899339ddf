"""The solver view: the problem in its original wording."""

from __future__ import annotations

from pydantic import Field

from harmonyray.answers.extract import extract_answer
from harmonyray.types import ParsedResponse, Problem
from harmonyray.views.base import TemplateOptions, TemplateView
from harmonyray.views.prompts import SOLVER


class Solver(TemplateView):
    """Asks the original question and reads the final answer."""

    class Options(TemplateOptions):
        """Options of the solver view."""

        template: str = Field(default=SOLVER, description="the prompt; {question} is replaced by the question")

    def parse(self, problem: Problem, response: str) -> ParsedResponse:
        """The final answer of `response`, None if there is none. The view has no sections, so `missing` is 0."""
        return ParsedResponse(answer=extract_answer(response, problem.kind, len(problem.choices)))
