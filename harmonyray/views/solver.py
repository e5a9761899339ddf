"""The views that ask for an answer and nothing else: the original question, a prompt of the user's own, a persona, and a
rewording that comes with the data."""

from __future__ import annotations

from dataclasses import replace

from pydantic import Field, field_validator

from harmonyray.answers.extract import extract_answer
from harmonyray.errors import ProblemError
from harmonyray.registry import nearest
from harmonyray.types import ParsedResponse, Problem, Prompt
from harmonyray.views.base import TemplateOptions, TemplateView, fill
from harmonyray.views.prompts import SOLVER


class Solver(TemplateView):
    """Asks the original question and reads the final answer."""

    class Options(TemplateOptions):
        """Options of the solver view."""

        template: str = Field(default=SOLVER, description="the prompt; {question} is replaced by the question")

    def parse(self, problem: Problem, response: str) -> ParsedResponse:
        """The final answer of `response`, None if there is none. The view has no sections, so `missing` is 0."""
        return ParsedResponse(answer=extract_answer(self.whole(response), problem.kind, len(problem.choices)))


class PromptView(Solver):
    """Asks with a template of your own, which has no default, and reads the final answer as the solver does."""

    class Options(TemplateOptions):
        """Options of the prompt view: those that every template view has."""


class Persona(Solver):
    """Lets somebody in particular solve the question ("You are a careful accountant."), and reads the final answer."""

    class Options(Solver.Options):
        """Options of the persona view."""

        persona: str = Field(
            description="who solves, in a sentence: put before the template, with chat as the system message (before `system`)"
        )

        @field_validator("persona")
        @classmethod
        def _says_something(cls, persona: str) -> str:
            if not persona.strip():
                raise ValueError("the persona is empty, which is the solver view: write a sentence, or use type solver")
            return persona.strip()

    options: Options

    def system(self) -> str:
        """The persona, then the system message of the options."""
        return "\n\n".join(filter(None, (self.options.persona, self.options.system)))

    def render(self, problem: Problem) -> Prompt:
        """The solver's prompt for somebody in particular. Raises ProblemError for more than 26 choices."""
        text = fill(self.options.template, self.values(problem))
        text = text if self.options.chat else f"{self.options.persona}\n\n{text}"
        return self.prompt(problem, text, self.options.response_prefix)


class Static(Solver):
    """Asks a rewording that comes with the data, as in Co-Reward's pairs, and reads the final answer."""

    class Options(Solver.Options):
        """Options of the static view."""

        column: str = Field(default="rewording", description="which rewording: one of the columns in problems.rewording_columns")

    options: Options

    def values(self, problem: Problem) -> dict[str, str]:
        """The rewording in the place of the question, its choices after it.

        Raises ProblemError if the problem has no such rewording, and for more than 26 choices.
        """
        column = self.options.column
        rewording = problem.rewordings.get(column)
        if rewording is None or not rewording.strip():
            known = list(problem.rewordings)
            what = f"has these rewordings: {', '.join(map(repr, known))}; {nearest(column, known)}" if known else "has none"
            raise ProblemError(
                f"view {self.name!r} asks the rewording {column!r} that comes with the data, but problem {problem.id!r} "
                f"{what}: name its column in problems.rewording_columns, and fill it in for every problem"
            )
        return super().values(replace(problem, text=rewording))
