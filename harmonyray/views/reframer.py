"""The fused reframer view: one generation restates the problem and solves it by way of the restatement."""

from __future__ import annotations

from pydantic import Field

from harmonyray.answers.extract import extract_answer
from harmonyray.types import ParsedResponse, Problem
from harmonyray.views.base import TemplateOptions, TemplateView
from harmonyray.views.prompts import REFRAMER
from harmonyray.views.sections import copied_share, split_sections


class Reframer(TemplateView):
    """Asks for a strategy, a rewording and its solution in one response (Self-Harmony, arXiv 2511.01191)."""

    class Options(TemplateOptions):
        """Options of the reframer view."""

        template: str = Field(default=REFRAMER, description="the prompt; {question} is replaced by the question")

    def parse(self, problem: Problem, response: str) -> ParsedResponse:
        """Sections, answer and copied share of one response.

        The answer is that of the SOLUTION section where there is one, also if that section holds no answer (a box in the
        rewording is not one), and else that of the whole response. `copied` compares the rewording with `problem.text`
        alone: choices have to be repeated.
        """
        sections = split_sections(response)
        return ParsedResponse(
            answer=extract_answer(
                response if sections.solution is None else sections.solution, problem.kind, len(problem.choices)
            ),
            missing=sections.missing,
            copied=copied_share(problem.text, sections.rewritten),
            rewritten=sections.rewritten,
            strategy=sections.strategy,
        )
