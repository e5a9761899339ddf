"""What the built-in views ask: the template, the question, the choices, chat or plain text."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest

from harmonyray.errors import ConfigError, ProblemError
from harmonyray.registry import make_options, resolve
from harmonyray.types import Problem
from harmonyray.views.prompts import STRATEGIES
from harmonyray.views.reframer import Reframer
from harmonyray.views.solver import Solver

VIEWS = [Solver, Reframer]
LATEX = Problem("p/1", "Solve $\\frac{1}{x} = {0}$ for {x}, 100% of {question} and {name}.")
CHOICE = Problem("p/2", "Which one?", kind="choice", choices=("red", "green", "blue"))


@pytest.mark.parametrize("view", VIEWS)
def test_default_prompt_holds_the_question_and_asks_for_a_box(view: type) -> None:
    prompt = view("mine", view.Options()).render(LATEX)
    assert (prompt.problem_id, prompt.view, prompt.messages) == ("p/1", "mine", ())
    assert prompt.text.count(LATEX.text) == 1
    assert "\\boxed{}" in prompt.text


def test_question_is_inserted_literally_and_once() -> None:
    view = Solver("s", Solver.Options(template="{0} {a} <{question}> {{}} %s \\1"))
    assert view.render(LATEX).text == "{0} {a} <" + LATEX.text + "> {{}} %s \\1"


def test_every_mention_of_the_question_is_replaced() -> None:
    view = Solver("s", Solver.Options(template="{question} Again: {question}"))
    assert view.render(Problem("a", "2+2?")).text == "2+2? Again: 2+2?"


@pytest.mark.parametrize("view", VIEWS)
def test_chat_gives_one_user_message_with_the_same_words(view: type) -> None:
    plain = view("v", view.Options()).render(CHOICE)
    chat = view("v", view.Options(chat=True)).render(CHOICE)
    assert chat.text is None
    assert chat.messages == ({"role": "user", "content": plain.text},)


@pytest.mark.parametrize(
    ("problem", "instruction", "expected"),
    [
        (CHOICE, "Pick a letter.", "[Which one?\n\nA. red\nB. green\nC. blue\n\nPick a letter.]"),
        (CHOICE, "", "[Which one?\n\nA. red\nB. green\nC. blue]"),
        (Problem("i", "Q\nA. x\nB. y", kind="choice"), "Pick a letter.", "[Q\nA. x\nB. y\n\nPick a letter.]"),
        (Problem("m", "1+1?", kind="math", choices=("1", "2")), "Pick a letter.", "[1+1?]"),
        (Problem("n", "1+1?", kind="number"), "Pick a letter.", "[1+1?]"),
    ],
)
@pytest.mark.parametrize("view", VIEWS)
def test_choices_follow_the_question(view: type, problem: Problem, instruction: str, expected: str) -> None:
    options = view.Options(template="[{question}]", choice_instruction=instruction)
    assert view("v", options).render(problem).text == expected


def test_26_choices_have_letters_and_27_do_not() -> None:
    view = Solver("s", Solver.Options())
    fits = view.render(Problem("p", "q", kind="choice", choices=tuple(f"c{i}" for i in range(26))))
    assert fits.text is not None and "\nZ. c25\n" in fits.text
    with pytest.raises(ProblemError, match=r"'p/9' has 27 choices; expected at most 26"):
        view.render(Problem("p/9", "q", kind="choice", choices=("c",) * 27))


@pytest.mark.parametrize("name", ["solver", "reframer"])
@pytest.mark.parametrize("template", ["", "Solve it.", "{Question}", "{ question }", "{problem}"])
def test_template_without_the_question_is_refused(name: str, template: str) -> None:
    with pytest.raises(ConfigError, match=r"views\.0\.template.*never mentions \{question\}"):
        make_options("views", name, "views.0", {"template": template})


@pytest.mark.parametrize("name", ["solver", "reframer"])
def test_misspelled_option_names_the_nearest(name: str) -> None:
    with pytest.raises(ConfigError, match=r"unknown option 'views\.0\.templat': did you mean 'template'"):
        make_options("views", name, "views.0", {"templat": "{question}"})


def test_reframer_prompt_offers_eight_strategies_and_three_headings_in_order() -> None:
    text = Reframer("r", Reframer.Options()).render(Problem("p", "THE QUESTION")).text
    assert text is not None
    assert len(STRATEGIES) == 8
    at = [text.index(f"\n- {name}: ") for name, _ in STRATEGIES]
    at += [text.index(heading) for heading in ("\nSTRATEGY:", "\nREWRITTEN PROBLEM:", "\nSOLUTION:")]
    assert at == sorted(at)
    assert text.index("THE QUESTION") > at[-1]


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_can_be_pickled(view: type) -> None:
    original = view("v", view.Options(template="<{question}>"))
    copy = pickle.loads(pickle.dumps(original))
    assert (copy.name, copy.options) == ("v", original.options)
    assert copy.render(LATEX) == original.render(LATEX)


def test_registry_names_lead_here() -> None:
    assert (resolve("views", "solver"), resolve("views", "reframer")) == (Solver, Reframer)


def test_views_and_sources_load_nothing_heavy() -> None:
    heavy = ("torch", "ray", "transformers", "vllm", "deepspeed", "mlflow", "pyarrow")
    code = (
        "import sys, harmonyray.views.solver, harmonyray.views.reframer, harmonyray.problems.file\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "[]", "")
