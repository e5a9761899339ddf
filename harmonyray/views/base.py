"""What the built-in views share: options, the filling in of templates, the layout of choices, the making of prompts."""

from __future__ import annotations

import re
import string
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationInfo, field_validator

from harmonyray.errors import ProblemError
from harmonyray.registry import PluginOptions
from harmonyray.types import ParsedResponse, Problem, Prompt
from harmonyray.views.prompts import CHOICE_INSTRUCTION, QUESTION

LETTERS = string.ascii_uppercase
SET_BY_THE_ENGINE = ("conversation", "add_generation_prompt", "continue_final_message", "tokenize", "return_dict")


class AskOptions(PluginOptions):
    """How a view's prompts are put, whatever they say."""

    chat: bool = Field(
        default=False, description="true: a user message for the tokenizer's chat template; false: plain text, for base models"
    )
    system: str = Field(default="", description="a system message before the user's; only with chat")
    template_options: dict[str, Any] = Field(
        default_factory=dict, description="passed to the chat template, e.g. {enable_thinking: false}; only with chat"
    )
    response_prefix: str = Field(default="", description="how every response begins; the model goes on from there")
    choice_instruction: str = Field(
        default=CHOICE_INSTRUCTION, description="the line after the question of a multiple-choice problem; empty: none"
    )

    @field_validator("system", "template_options")
    @classmethod
    def _only_with_chat(cls, value: Any, info: ValidationInfo) -> Any:
        if value and info.data.get("chat") is False:
            instead = "write it into the template" if info.field_name == "system" else "leave it out"
            raise ValueError(f"only a chat template could read it, and 'chat' is false: set chat to true, or {instead}")
        return value

    @field_validator("template_options")
    @classmethod
    def _left_to_the_user(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in SET_BY_THE_ENGINE:
            if name in value:
                raise ValueError(f"{name!r} is the engine's to set: leave it out")
        return value


def require_mention(template: str, *placeholders: str) -> str:
    """`template`, which mentions one of the placeholders. Raises ValueError if it does not."""
    if not any(placeholder in template for placeholder in placeholders):
        wanted = " or ".join(placeholders)
        raise ValueError(f"the template never mentions {wanted}, so no problem would be asked; put {wanted} where it belongs")
    return template


class TemplateOptions(AskOptions):
    """Options of a view whose prompt is one template. A subclass may give `template` a default."""

    template: str = Field(description="the prompt; {question} is replaced by the question, every other brace stays")

    @field_validator("template")
    @classmethod
    def _has_question(cls, template: str) -> str:
        return require_mention(template, QUESTION)


def fill(template: str, values: Mapping[str, str]) -> str:
    """`template` with each placeholder replaced by its value. In one pass and literally: questions and templates are full of
    LaTeX braces, and a value may itself look like a placeholder."""
    pattern = "|".join(re.escape(placeholder) for placeholder in values)
    return re.sub(pattern, lambda match: values[match[0]], template)


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


class AskingView(ABC):
    """A view that makes its prompts by `AskOptions`. Holds no model and can be pickled."""

    options: AskOptions

    def __init__(self, name: str, options: AskOptions) -> None:
        self.name = name
        self.options = options

    @abstractmethod
    def render(self, problem: Problem) -> Prompt:
        """The prompt for one problem."""

    @abstractmethod
    def parse(self, problem: Problem, response: str) -> ParsedResponse:
        """What one response says. Never raises on a response, however malformed."""

    def system(self) -> str:
        """The system message of a chat, "" for none."""
        return self.options.system

    def prompt(self, problem: Problem, text: str, response_prefix: str) -> Prompt:
        """`text` as this view puts it: as a user message if `chat`, after the system message if there is one; else as it is."""
        if not self.options.chat:
            return Prompt(problem_id=problem.id, view=self.name, text=text, response_prefix=response_prefix)
        messages = [{"role": "system", "content": self.system()}] if self.system() else []
        return Prompt(
            problem_id=problem.id,
            view=self.name,
            messages=(*messages, {"role": "user", "content": text}),
            template_options=self.options.template_options,
            response_prefix=response_prefix,
        )


class TemplateView(AskingView):
    """A view that asks with one template; a subclass adds `Options` and `parse`."""

    options: TemplateOptions

    def render(self, problem: Problem) -> Prompt:
        """The prompt for one problem: the template, filled in. Raises ProblemError for more than 26 choices."""
        return self.prompt(problem, fill(self.options.template, self.values(problem)), self.options.response_prefix)

    def values(self, problem: Problem) -> dict[str, str]:
        """What stands in the place of each placeholder."""
        return {QUESTION: question_block(problem, self.options.choice_instruction)}

    def whole(self, response: str) -> str:
        """The response from its beginning: what `parse` gets does not repeat the prefix."""
        return self.options.response_prefix + response
