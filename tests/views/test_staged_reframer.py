"""The view that asks twice: the draft's prompt, the follow-up, and what is read out of both."""

from __future__ import annotations

import pickle
import time
from typing import Any

import pytest

from harmonyray.errors import ConfigError, ProblemError
from harmonyray.protocols import StagedView
from harmonyray.registry import make_options, resolve
from harmonyray.types import ParsedResponse, Problem, Sampling
from harmonyray.views.reframer import Reframer, StagedReframer
from harmonyray.views.solver import Solver

PROBLEM = Problem("p", "Tom has five red apples and eats two of them. How many are left?")
CHOICE = Problem("c", "Which is a prime?", kind="choice", choices=("four", "five", "six"))
DRAFT = "STRATEGY: Reverse\nREWRITTEN PROBLEM: What and two make five?"


def staged(**options: Any) -> StagedReframer:
    return StagedReframer("s", StagedReframer.Options(**options))


def test_it_is_a_staged_view_and_no_other_built_in_is() -> None:
    assert resolve("views", "staged_reframer") is StagedReframer
    assert isinstance(staged(), StagedView)
    assert not isinstance(Reframer("r", Reframer.Options()), StagedView)
    assert not isinstance(Solver("s", Solver.Options()), StagedView)
    assert staged().samples_per_draft == 4
    assert staged(samples_per_draft=1).samples_per_draft == 1


def test_the_draft_prompt_asks_for_two_sections_and_no_solution() -> None:
    text = staged().render(PROBLEM).text
    assert text is not None
    at = [text.index(part) for part in ("\n- Concretize: ", "\nSTRATEGY:", "\nREWRITTEN PROBLEM:", PROBLEM.text)]
    assert at == sorted(at)
    assert "SOLUTION:" not in text
    assert "\\boxed" not in text


def test_the_draft_prompt_shows_choices_and_asks_for_none() -> None:
    text = staged(draft_template="[{question}]", choice_instruction="Pick.").render(CHOICE).text
    assert text == "[Which is a prime?\n\nA. four\nB. five\nC. six]"


def test_the_follow_up_asks_the_rewording_as_the_solver_would() -> None:
    prompt = staged().follow_up(PROBLEM, DRAFT)
    assert prompt.text == Solver("s", Solver.Options()).render(Problem("p", "What and two make five?")).text
    assert (prompt.problem_id, prompt.view) == ("p", "s")


def test_the_follow_up_shows_the_choices_below_the_rewording() -> None:
    view = staged(solve_template="[{rewording}]", choice_instruction="Pick.")
    draft = "STRATEGY: Reverse\nREWRITTEN PROBLEM: Which has no divisors?"
    assert view.follow_up(CHOICE, draft).text == "[Which has no divisors?\n\nA. four\nB. five\nC. six\n\nPick.]"
    with pytest.raises(ProblemError, match="27 choices"):
        view.follow_up(Problem("p", "q", kind="choice", choices=("c",) * 27), draft)


def test_all_placeholders_of_the_follow_up() -> None:
    view = staged(solve_template="<{question}|{rewording}|{draft}|{strategies}|{}>")
    assert view.follow_up(Problem("p", "Q"), DRAFT).text == f"<Q|What and two make five?|{DRAFT}|{{strategies}}|{{}}>"


def test_a_draft_that_writes_placeholders_is_inserted_as_it_is() -> None:
    view = staged(solve_template="{rewording} / {question}")
    draft = "STRATEGY: a\nREWRITTEN PROBLEM: {question} \\1 {draft} {rewording}"
    assert view.follow_up(Problem("p", "Q {draft}"), draft).text == "{question} \\1 {draft} {rewording} / Q {draft}"


@pytest.mark.parametrize("draft", ["", "no headings", "STRATEGY: a\nREWRITTEN PROBLEM: ...", "<think>" + DRAFT])
def test_a_draft_without_a_rewording_leaves_nothing_to_solve(draft: str) -> None:
    view = staged(solve_template="[{rewording}]")
    assert view.follow_up(PROBLEM, draft).text == "[]"
    assert view.follow_up(CHOICE, draft).text == "[]"
    parsed = view.parse_staged(PROBLEM, draft, "\\boxed{3}")
    assert (parsed.answer, parsed.rewritten, parsed.copied) == (None, None, 0.0)
    assert staged(solve_template="{draft}").parse_staged(PROBLEM, draft, "\\boxed{3}").answer is None


@pytest.mark.parametrize(
    ("draft", "missing", "rewritten", "strategy"),
    [
        (DRAFT, 0.0, "What and two make five?", "Reverse"),
        (DRAFT + "\nSOLUTION: 2", 0.0, "What and two make five?", "Reverse"),
        ("REWRITTEN PROBLEM: Why?\n", 0.5, "Why?", None),
        ("STRATEGY: Reverse\n", 0.5, None, "Reverse"),
        ("STRATEGY: Reverse\nREWRITTEN PROBLEM: [the problem]", 0.5, None, "Reverse"),
        ("SOLUTION: 3", 1.0, None, None),
        ("", 1.0, None, None),
        ("<think>STRATEGY: no\n</think>" + DRAFT, 0.0, "What and two make five?", "Reverse"),
    ],
)
def test_what_a_draft_says(draft: str, missing: float, rewritten: str | None, strategy: str | None) -> None:
    expected = ParsedResponse(None, missing=missing, copied=0.0, rewritten=rewritten, strategy=strategy)
    assert staged().parse(PROBLEM, draft) == expected
    answer = None if rewritten is None else "3"
    parsed = staged().parse_staged(PROBLEM, draft, "SOLUTION: \\boxed{7}, no: \\boxed{3}")
    assert parsed == ParsedResponse(answer, missing=missing, copied=0.0, rewritten=rewritten, strategy=strategy)


def test_copying_is_measured_on_the_draft() -> None:
    # 5-grams of "red apples and eats two of": two, both in the question; with "pears" in front one more that is not.
    draft = "STRATEGY: a\nREWRITTEN PROBLEM: pears red apples and eats two of"
    assert staged().parse_staged(PROBLEM, draft, "\\boxed{3}").copied == pytest.approx(2 / 3)


def test_an_answer_in_the_draft_is_none() -> None:
    parsed = staged().parse_staged(PROBLEM, DRAFT + " \\boxed{9}", "I cannot tell.")
    assert parsed.answer is None


def test_the_kind_of_the_problem_counts() -> None:
    assert staged().parse_staged(CHOICE, DRAFT, "It must be (C).").answer == "C"


def test_prefixes_of_draft_and_solution() -> None:
    view = staged(draft_prefix="STRATEGY:", response_prefix="<think>\n", solve_template="{draft}|{rewording}")
    draft = DRAFT.removeprefix("STRATEGY:")
    assert view.render(PROBLEM).response_prefix == "STRATEGY:"
    follow_up = view.follow_up(PROBLEM, draft)
    assert (follow_up.text, follow_up.response_prefix) == (f"{DRAFT}|What and two make five?", "<think>\n")
    assert view.parse(PROBLEM, draft).strategy == "Reverse"
    assert view.parse_staged(PROBLEM, draft, "\\boxed{1}</think>\\boxed{3}").answer == "3"
    assert view.parse_staged(PROBLEM, draft, "\\boxed{1}").answer is None


def test_both_prompts_are_chats() -> None:
    view = staged(chat=True, system="S", template_options={"enable_thinking": False})
    for prompt in (view.render(PROBLEM), view.follow_up(PROBLEM, DRAFT)):
        assert prompt.text is None
        assert [message["role"] for message in prompt.messages] == ["system", "user"]
        assert prompt.template_options == {"enable_thinking": False}


def test_how_drafts_are_sampled() -> None:
    responses = Sampling(max_tokens=100, temperature=0.7, top_p=0.9, stop=("END",))
    assert staged().draft_sampling(responses) == Sampling(100, 0.7, 0.9, ("\nSOLUTION:",))
    assert staged(draft_stop=[], draft_max_tokens=30).draft_sampling(responses) == Sampling(30, 0.7, 0.9, ())
    assert staged(draft_max_tokens=300).draft_sampling(responses).max_tokens == 100
    assert staged(draft_stop=["SOLUTION: ", "##"]).draft_sampling(responses).stop == ("SOLUTION: ", "##")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"draft_template": "Reword it."}, r"'views\.s\.draft_template'.*never mentions \{question\}"),
        ({"solve_template": "Solve {question}"}, r"'views\.s\.solve_template'.*never mentions \{rewording\} or \{draft\}"),
        ({"solve_template": ""}, r"never mentions \{rewording\}"),
        ({"samples_per_draft": 0}, r"'views\.s\.samples_per_draft'.*greater than or equal to 1"),
        ({"draft_max_tokens": 0}, r"'views\.s\.draft_max_tokens'"),
        ({"draft_stop": ["a", ""]}, r"'views\.s\.draft_stop'.*empty text"),
        ({"template": "{question}"}, r"unknown option 'views\.s\.template': did you mean .*'solve_template'"),
        ({"draft_tmplate": "x"}, "did you mean 'draft_template'"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_options("views", "staged_reframer", "views.s", options)


def test_it_can_be_pickled() -> None:
    original = staged(samples_per_draft=2, strategies={"a": "b"})
    copy = pickle.loads(pickle.dumps(original))
    assert (copy.name, copy.options, copy.samples_per_draft) == ("s", original.options, 2)
    assert copy.render(PROBLEM) == original.render(PROBLEM)


def test_the_quickstart_model_can_be_driven() -> None:
    """Both prompts together spell out what the fused response of the demo model would be."""
    view = staged(
        draft_template="REFRAME: {question}\n",
        draft_stop=["SOLUTION: "],
        solve_template="REFRAME: {question}\n{draft}SOLUTION: ",
    )
    problem = Problem("52-37", "52-37", kind="number")
    fused = "REFRAME: 52-37\nSTRATEGY: count up\nREWRITTEN PROBLEM: 37+?=52\nSOLUTION: 37+3=40 40+12=52 3+12=15 \\boxed{15}"
    prompt = view.render(problem).text
    assert prompt is not None
    draft, stop, rest = fused.removeprefix(prompt).partition("SOLUTION: ")
    follow_up = view.follow_up(problem, draft).text
    assert follow_up == prompt + draft + stop
    assert view.parse_staged(problem, draft, rest) == ParsedResponse("15", 0.0, 0.0, "37+?=52", "count up")
    # The demo model leaves the rewording out now and then.
    assert view.parse_staged(problem, "STRATEGY: copy\n", "12-7=5 4-3=1 \\boxed{15}").answer is None


MB = 1_000_000
HOSTILE = {
    "placeholders": "STRATEGY: a\nREWRITTEN PROBLEM: " + "{draft}{rewording}{question}" * (MB // 28),
    "headings": "REWRITTEN PROBLEM:\n" * (MB // 19),
    "thinking": "<think>" * (MB // 7),
    "braces": "STRATEGY: a\nREWRITTEN PROBLEM: " + "{" * MB,
    "nul and surrogates": "STRATEGY: \x00\ud800\nREWRITTEN PROBLEM: \x00\ud800" * (MB // 33),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_megabyte_of_anything_is_read_in_time(name: str) -> None:
    view = staged(solve_template="{draft}{rewording}{question}")
    start = time.process_time()
    text = view.follow_up(PROBLEM, HOSTILE[name]).text
    parsed = view.parse_staged(PROBLEM, HOSTILE[name], HOSTILE[name])
    assert time.process_time() - start < 5.0
    assert text is not None and text.startswith(HOSTILE[name])
    assert 0.0 <= parsed.missing <= 1.0
