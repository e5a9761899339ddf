"""The reframer views: a model restates the problem, and solves it by way of the restatement.

`Reframer` is fused: one generation does both. `StagedReframer` asks twice: for the restatement, then for its solution.
"""

from __future__ import annotations

from dataclasses import replace

from pydantic import Field, ValidationInfo, field_validator

from harmonyray.answers.extract import extract_answer
from harmonyray.types import ParsedResponse, Problem, Prompt, Sampling
from harmonyray.views.base import AskingView, AskOptions, TemplateOptions, TemplateView, fill, question_block, require_mention
from harmonyray.views.prompts import DRAFT, QUESTION, REFRAMER, REWORDER, REWORDING, REWORDING_SOLVER, STRATEGIES_HERE
from harmonyray.views.sections import copied_share, split_sections
from harmonyray.views.strategies import StrategyChoice, require_placeholder, strategy_block


class Reframer(TemplateView):
    """Asks for a strategy, a rewording and its solution in one response (Self-Harmony, arXiv 2511.01191)."""

    class Options(TemplateOptions):
        """Options of the reframer view."""

        template: str = Field(
            default=REFRAMER, description="the prompt; {question} is replaced by the question, {strategies} by the strategies"
        )
        strategies: StrategyChoice = None

        @field_validator("strategies")
        @classmethod
        def _is_read(cls, value: StrategyChoice, info: ValidationInfo) -> StrategyChoice:
            require_placeholder(value, info.data.get("template", STRATEGIES_HERE), "template")
            return value

    options: Options

    def values(self, problem: Problem) -> dict[str, str]:
        """The question and the strategies."""
        return super().values(problem) | {STRATEGIES_HERE: strategy_block(self.options.strategies)}

    def parse(self, problem: Problem, response: str) -> ParsedResponse:
        """Sections, answer and copied share of one response.

        The answer is that of the SOLUTION section where there is one, also if that section holds no answer (a box in the
        rewording is not one), and else that of the whole response. `copied` compares the rewording with `problem.text`
        alone: choices have to be repeated.
        """
        response = self.whole(response)
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


class StagedReframer(AskingView):
    """Asks for a rewording (the draft), then for the solution of that rewording; a `protocols.StagedView`.

    A draft is worth the mean reward of the solutions that it led to. One without a rewording leaves nothing to solve: its
    responses have no answer, whatever they say.
    """

    class Options(AskOptions):
        """Options of the staged reframer view."""

        draft_template: str = Field(
            default=REWORDER,
            description="the prompt for a draft; {question} is replaced by the question, {strategies} by the strategies",
        )
        solve_template: str = Field(
            default=REWORDING_SOLVER,
            description="the prompt for a solution; {rewording} is replaced by the draft's rewording, {draft} by the draft as "
            "it was generated, {question} by the question",
        )
        strategies: StrategyChoice = None
        samples_per_draft: int = Field(default=4, ge=1, description="solutions that are sampled from each draft")
        draft_prefix: str = Field(default="", description="how every draft begins; response_prefix is for solutions")
        draft_stop: tuple[str, ...] = Field(
            default=("\nSOLUTION:",), description="texts that end a draft; they are not part of it"
        )
        draft_max_tokens: int | None = Field(
            default=None, ge=1, description="a draft's tokens at most; null, or more than a response may have: as many as that"
        )

        @field_validator("draft_template")
        @classmethod
        def _asks_the_question(cls, template: str) -> str:
            return require_mention(template, QUESTION)

        @field_validator("solve_template")
        @classmethod
        def _asks_the_rewording(cls, template: str) -> str:
            return require_mention(template, REWORDING, DRAFT)

        @field_validator("draft_stop")
        @classmethod
        def _stops_say_something(cls, stops: tuple[str, ...]) -> tuple[str, ...]:
            if "" in stops:
                raise ValueError("an empty text would end every draft before it begins: remove it")
            return stops

        @field_validator("strategies")
        @classmethod
        def _is_read(cls, value: StrategyChoice, info: ValidationInfo) -> StrategyChoice:
            require_placeholder(value, info.data.get("draft_template", STRATEGIES_HERE), "draft_template")
            return value

    options: Options

    def __init__(self, name: str, options: Options) -> None:
        super().__init__(name, options)
        self.samples_per_draft = options.samples_per_draft

    def draft_sampling(self, sampling: Sampling) -> Sampling:
        """How drafts are sampled, given how responses are: other stop texts, perhaps fewer tokens."""
        longest = min(self.options.draft_max_tokens or sampling.max_tokens, sampling.max_tokens)
        return replace(sampling, max_tokens=longest, stop=self.options.draft_stop)

    def render(self, problem: Problem) -> Prompt:
        """The prompt for a draft; no instruction for choices, as nothing is chosen yet. Raises ProblemError for more than 26
        choices."""
        values = {QUESTION: question_block(problem), STRATEGIES_HERE: strategy_block(self.options.strategies)}
        return self.prompt(problem, fill(self.options.draft_template, values), self.options.draft_prefix)

    def follow_up(self, problem: Problem, draft: str) -> Prompt:
        """The prompt that poses the draft's rewording, followed by the choices of the problem if it has any; empty if the draft
        has no rewording. Raises ProblemError for more than 26 choices."""
        whole = self.options.draft_prefix + draft
        rewritten = split_sections(whole).rewritten
        instruction = self.options.choice_instruction
        values = {
            QUESTION: question_block(problem, instruction),
            REWORDING: "" if rewritten is None else question_block(replace(problem, text=rewritten), instruction),
            DRAFT: whole,
        }
        return self.prompt(problem, fill(self.options.solve_template, values), self.options.response_prefix)

    def parse(self, problem: Problem, response: str) -> ParsedResponse:
        """What a draft says (a response to `render`): rewording and strategy, and never an answer. `missing` is the share of
        the two sections that are absent or placeholders."""
        sections = split_sections(self.options.draft_prefix + response)
        return ParsedResponse(
            answer=None,
            missing=(sections.strategy, sections.rewritten).count(None) / 2,
            copied=copied_share(problem.text, sections.rewritten),
            rewritten=sections.rewritten,
            strategy=sections.strategy,
        )

    def parse_staged(self, problem: Problem, draft: str, response: str) -> ParsedResponse:
        """The answer of a response to `follow_up`, the rest of its draft; None if the draft has no rewording."""
        parsed = self.parse(problem, draft)
        if parsed.rewritten is None:
            return parsed
        whole = self.options.response_prefix + response
        return replace(parsed, answer=extract_answer(whole, problem.kind, len(problem.choices)))
