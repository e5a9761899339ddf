"""What the built-in views share: options, the filling in of a template, the layout of choices."""

from __future__ import annotations

import string
from abc import ABC, abstractmethod

from pydantic import Field, field_validator

from harmonyray.errors import ProblemError
from harmonyray.registry import PluginOptions
from harmonyray.types import ParsedResponse, Problem, Prompt
from harmonyray.views.prompts import CHOICE_INSTRUCTION, QUESTION

LETTERS = string.ascii_uppercase


class TemplateOptions(PluginOptions):
    """Options of a view whose prompt is one template. A subclass gives `template` its default."""

    template: str = Field(description="the prompt; {question} is replaced by the question, every other brace stays")
    chat: bool = Field(default=False, description="true: one user message for the tokenizer's chat template; false: plain text")
    choice_instruction: str = Field(
        default=CHOICE_INSTRUCTION, description="the line after the question of a multiple-choice problem; empty: none"
    )

    @field_validator("template")
    @classmethod
    def _has_question(cls, template: str) -> str:
        if QUESTION not in template:
            raise ValueError(
                f"the template never mentions {QUESTION}, so no problem would be asked; put {QUESTION} where it belongs"
            )
        return template


def question_block(problem: Problem, choice_instruction: str = "") -> str:
    """The question as a prompt shows it: the text, for kind "choice" also the lettered choices and the instruction.

    Raises ProblemError for more choices than there are letters.
    """
    if problem.kind != "choice":
        return problem.text
    if len(problem.choices) > len(LETTERS):
        raise ProblemError(
            f"problem {problem.id!r} has {len(problem.choices)} choices; expected at most {len(LETTERS)}, "
            "one per letter: remove some"
        )
    blocks = [problem.text]
    if problem.choices:
        blocks.append("\n".join(f"{LETTERS[i]}. {choice}" for i, choice in enumerate(problem.choices)))
    if choice_instruction:
        blocks.append(choice_instruction)
    return "\n\n".join(blocks)


class TemplateView(ABC):
    """A view that asks with one template; a subclass adds `Options` and `parse`. Holds no model and can be pickled."""

    def __init__(self, name: str, options: TemplateOptions) -> None:
        self.name = name
        self.options = options

    def render(self, problem: Problem) -> Prompt:
        """The prompt for one problem: `messages` with one user message if `chat`, else `text`.

        Raises ProblemError for more than 26 choices.
        """
        # Not str.format: questions and templates are full of LaTeX braces.
        text = self.options.template.replace(QUESTION, question_block(problem, self.options.choice_instruction))
        if self.options.chat:
            return Prompt(problem_id=problem.id, view=self.name, messages=({"role": "user", "content": text},))
        return Prompt(problem_id=problem.id, view=self.name, text=text)

    @abstractmethod
    def parse(self, problem: Problem, response: str) -> ParsedResponse:
        """What one response says. Never raises on a response, however malformed."""
