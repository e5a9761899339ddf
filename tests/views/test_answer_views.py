"""The views beside the solver that ask for an answer and nothing else: prompt, persona, static."""

from __future__ import annotations

from typing import Any

import pytest

from harmonyray.errors import ConfigError, ProblemError
from harmonyray.registry import make_options, resolve
from harmonyray.types import ParsedResponse, Problem
from harmonyray.views.solver import Persona, PromptView, Solver, Static

PROBLEM = Problem("p", "2+2 in {question}?", rewordings={"rewording": "Twice two in {question}?", "hard": "Half of 8?"})
CHOICE = Problem("c", "Which?", kind="choice", choices=("red", "blue"), rewordings={"rewording": "What colour?"})


def test_registry_names_lead_here() -> None:
    assert [resolve("views", name) for name in ("prompt", "persona", "static")] == [PromptView, Persona, Static]


# --- prompt ------------------------------------------------------------------------------------------------------------------


def test_prompt_needs_a_template_with_the_question() -> None:
    with pytest.raises(ConfigError, match=r"missing option 'views\.x\.template'"):
        make_options("views", "prompt", "views.x", {})
    with pytest.raises(ConfigError, match=r"'views\.x\.template'.*never mentions \{question\}"):
        make_options("views", "prompt", "views.x", {"template": "Solve it."})


def test_prompt_asks_what_it_says_and_reads_like_the_solver() -> None:
    view = PromptView("x", PromptView.Options(template="<{question}|{strategies}|{rewording}>"))
    assert view.render(PROBLEM).text == "<2+2 in {question}?|{strategies}|{rewording}>"  # it has the one placeholder
    assert view.parse(PROBLEM, "\\boxed{4}") == ParsedResponse("4")
    assert view.parse(CHOICE, "It is (B).").answer == "B"


# --- persona -----------------------------------------------------------------------------------------------------------------

ACCOUNTANT = "You are a careful accountant who distrusts {question}."


def persona(**options: Any) -> Persona:
    return Persona("x", Persona.Options(persona=ACCOUNTANT, **options))


def test_a_persona_stands_before_the_solver_prompt() -> None:
    plain = Solver("x", Solver.Options()).render(PROBLEM).text
    assert persona().render(PROBLEM).text == f"{ACCOUNTANT}\n\n{plain}"
    assert persona().render(PROBLEM).messages == ()
    assert persona(template="Q {question}").render(PROBLEM).text == f"{ACCOUNTANT}\n\nQ 2+2 in {{question}}?"


def test_a_persona_is_the_system_message_of_a_chat() -> None:
    user = {"role": "user", "content": Solver("x", Solver.Options()).render(PROBLEM).text}
    assert persona(chat=True).render(PROBLEM).messages == ({"role": "system", "content": ACCOUNTANT}, user)
    both = {"role": "system", "content": f"{ACCOUNTANT}\n\nBe brief."}
    assert persona(chat=True, system="Be brief.").render(PROBLEM).messages == (both, user)


def test_a_persona_from_a_folded_yaml_text_has_no_stray_line_end() -> None:
    assert Persona.Options(persona=" You are terse.\n").persona == "You are terse."


@pytest.mark.parametrize("text", ["", " \n"])
def test_an_empty_persona_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"'views\.x\.persona'.*persona is empty.*use type solver"):
        make_options("views", "persona", "views.x", {"persona": text})


def test_a_persona_is_required() -> None:
    with pytest.raises(ConfigError, match=r"missing option 'views\.x\.persona'"):
        make_options("views", "persona", "views.x", {})


def test_a_persona_reads_like_the_solver() -> None:
    assert persona().parse(PROBLEM, "\\boxed{4}") == ParsedResponse("4")


# --- static ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("column", "asked"), [("rewording", "Twice two in {question}?"), ("hard", "Half of 8?")])
def test_static_asks_the_rewording_of_its_column(column: str, asked: str) -> None:
    view = Static("x", Static.Options(template="[{question}]", column=column))
    assert view.render(PROBLEM).text == f"[{asked}]"
    assert view.render(PROBLEM).problem_id == "p"
    assert view.parse(PROBLEM, "\\boxed{4}") == ParsedResponse("4")


def test_static_reads_the_default_column() -> None:
    text = Static("x", Static.Options()).render(PROBLEM).text
    assert text == Solver("x", Solver.Options()).render(Problem("p", "Twice two in {question}?")).text


def test_static_shows_the_choices_of_the_problem() -> None:
    view = Static("x", Static.Options(template="{question}", choice_instruction="Pick."))
    assert view.render(CHOICE).text == "What colour?\n\nA. red\nB. blue\n\nPick."


@pytest.mark.parametrize(
    ("rewordings", "message"),
    [
        ({}, r"view 'x' asks the rewording 'reworded' .* problem 'p' has none: name its column in problems\.rewording_columns"),
        ({"rewording": "a"}, r"has these rewordings: 'rewording'; did you mean 'rewording'\?.*problems\.rewording_columns"),
        ({"reworded": " \n"}, r"problems\.rewording_columns, and fill it in"),
    ],
)
def test_static_without_its_rewording_names_the_option(rewordings: dict[str, str], message: str) -> None:
    view = Static("x", Static.Options(column="reworded"))
    with pytest.raises(ProblemError, match=message):
        view.render(Problem("p", "q", rewordings=rewordings))
