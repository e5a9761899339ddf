"""What the built-in views read out of responses."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from harmonyray.types import ParsedResponse, Problem
from harmonyray.views.reframer import Reframer
from harmonyray.views.sections import copied_share, is_placeholder, split_sections
from harmonyray.views.solver import Solver

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "data" / "golden"
PROBLEM = Problem("p", "Tom has five red apples and eats two of them. How many are left?")
CHOICE = Problem("c", "Which?", kind="choice", choices=("one", "two"))
SOLVER = Solver("solver", Solver.Options())
REFRAMER = Reframer("reframer", Reframer.Options())


@pytest.mark.parametrize(
    ("problem", "response", "answer"),
    [
        (PROBLEM, "5 - 2 = 3, so \\boxed{3}.", "3"),
        (PROBLEM, "First \\boxed{7}, no: \\boxed{3}", "3"),
        (PROBLEM, "", None),
        (CHOICE, "It is \\boxed{B}.", "B"),
    ],
)
def test_solver_reads_the_final_answer_and_nothing_else(problem: Problem, response: str, answer: str | None) -> None:
    assert SOLVER.parse(problem, response) == ParsedResponse(answer=answer)


def test_solver_passes_on_the_number_of_choices() -> None:
    three = Problem("c", "Which?", kind="choice", choices=("one", "two", "three"))
    assert SOLVER.parse(three, "\\boxed{C}").answer == "C"
    assert REFRAMER.parse(three, "\\boxed{C}").answer == "C"


def test_reframer_reads_everything_of_a_good_response() -> None:
    rewritten = "After he eats two of them, what remains of his five pears?"
    response = f"STRATEGY: Reverse\nREWRITTEN PROBLEM: {rewritten}\nSOLUTION: 5 - 2 = 3\n\\boxed{{3}}"
    # 12 words, 8 five-grams; the longest shared run is "eats two of them", four words, so nothing is copied.
    assert REFRAMER.parse(PROBLEM, response) == ParsedResponse(
        answer="3",
        missing=0.0,
        copied=0.0,
        rewritten=rewritten,
        strategy="Reverse",
    )


@pytest.mark.parametrize(
    ("response", "answer", "missing"),
    [
        pytest.param("STRATEGY: a\nREWRITTEN PROBLEM: Is it \\boxed{1}?\nSOLUTION: yes \\boxed{2}", "2", 0.0, id="solution-wins"),
        pytest.param("STRATEGY: a\nREWRITTEN PROBLEM: Is it \\boxed{1}?\nSOLUTION: ...", "1", 1 / 3, id="placeholder-whole-text"),
        pytest.param("STRATEGY: a\nREWRITTEN PROBLEM: b\n\\boxed{5}", "5", 1 / 3, id="no-solution-whole-text"),
        pytest.param("SOLUTION: \\boxed{4}\nso again \\boxed{5}\nSTRATEGY: late", "5", 2 / 3, id="solution-runs-to-the-end"),
        pytest.param("only \\boxed{6}", "6", 1.0, id="no-sections"),
        pytest.param("<think>\nSTRATEGY: a\nREWRITTEN PROBLEM: b\nSOLUTION: \\boxed{6}", None, 1.0, id="thinking-never-ends"),
        pytest.param("", None, 1.0, id="empty"),
    ],
)
def test_reframer_answer_and_missing(response: str, answer: str | None, missing: float) -> None:
    parsed = REFRAMER.parse(PROBLEM, response)
    assert parsed.answer == answer
    assert parsed.missing == pytest.approx(missing)


def test_a_box_in_the_rewording_is_no_answer() -> None:
    response = "STRATEGY: a\nREWRITTEN PROBLEM: fill in \\boxed{77}\nSOLUTION: I cannot"
    assert REFRAMER.parse(PROBLEM, response).answer != "77"


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        pytest.param("strategy: a\nRewritten Problem: b\nSOLUTION: c", ("a", "b", "c"), id="case"),
        pytest.param("Sure!\n\n  STRATEGY : a\n\tREWRITTEN PROBLEM:b\n SOLUTION:\n\nc\nd", ("a", "b", "c\nd"), id="layout"),
        pytest.param("**STRATEGY:** a\n**REWRITTEN PROBLEM**: b\n**SOLUTION: c**", ("a", "b", "c"), id="bold"),
        pytest.param("# STRATEGY: a\n## REWRITTEN PROBLEM: b\n> SOLUTION: c", ("a", "b", "c"), id="markdown"),
        pytest.param("1. STRATEGY: a\n2) **REWRITTEN PROBLEM:** b\n- SOLUTION: c", ("a", "b", "c"), id="numbered"),
        pytest.param("STRATEGY: a\r\nREWRITTEN PROBLEM: b\r\nSOLUTION: c\r\n", ("a", "b", "c"), id="crlf"),
        pytest.param(
            "STRATEGY: a\nREWRITTEN PROBLEM: 2 + 2 = ___\nSOLUTION: c", ("a", "2 + 2 = ___", "c"), id="blank-to-fill-in"
        ),
        pytest.param("STRATEGY: a\nREWRITTEN PROBLEM: b SOLUTION: c", ("a", "b SOLUTION: c", None), id="mid-line"),
        pytest.param(
            "MY STRATEGY: a\nTHE REWRITTEN PROBLEM: b\nFINAL SOLUTION: c", (None, None, None), id="inside-a-longer-title"
        ),
        pytest.param("STRATEGY a\nREWRITTEN PROBLEM b\nSOLUTION c", (None, None, None), id="no-colon"),
        pytest.param("SOLUTION: c\nSTRATEGY: a\nREWRITTEN PROBLEM: b", ("a", "b", None), id="solution-first"),
        pytest.param("REWRITTEN PROBLEM: b\nSOLUTION: c\nSTRATEGY: a", (None, "b", "c\nSTRATEGY: a"), id="strategy-last"),
        pytest.param("REWRITTEN PROBLEM: b\nSTRATEGY: a", (None, "b", None), id="rewording-ends-at-any-heading"),
        pytest.param(
            "STRATEGY: a\nREWRITTEN PROBLEM: b\nSOLUTION: c\nSTRATEGY: x\nREWRITTEN PROBLEM: y\nSOLUTION: z",
            ("a", "b", "c\nSTRATEGY: x\nREWRITTEN PROBLEM: y\nSOLUTION: z"),
            id="first-of-two",
        ),
        pytest.param(
            "<think>STRATEGY: no\nSOLUTION: no</think>STRATEGY: a\nREWRITTEN PROBLEM: b\nSOLUTION: c", ("a", "b", "c"), id="think"
        ),
        pytest.param("<think>\nSTRATEGY: a\nREWRITTEN PROBLEM: b\nSOLUTION: c", (None, None, None), id="thinking-never-ends"),
        pytest.param("STRATEGY: \nREWRITTEN PROBLEM: [...]\nSOLUTION: N/A", (None, None, None), id="placeholders"),
    ],
)
def test_sections(response: str, expected: tuple[str | None, ...]) -> None:
    sections = split_sections(response)
    assert (sections.strategy, sections.rewritten, sections.solution) == expected
    assert sections.missing == pytest.approx(sum(part is None for part in expected) / 3)


def test_an_echo_of_the_prompt_fills_no_section_but_the_last() -> None:
    prompt = REFRAMER.render(PROBLEM).text
    assert prompt is not None
    echo = prompt[prompt.index("STRATEGY:") :]
    assert split_sections(echo).missing == pytest.approx(2 / 3)  # SOLUTION runs to the end
    assert split_sections(echo[: echo.index("End the")]).missing == 1.0
    assert REFRAMER.parse(PROBLEM, echo).answer is None


@pytest.mark.parametrize(
    "text",
    ["", "  \n", "...", "…", "---", "[...]", "<...>", "[ ]", "???", "<the strategy>", "[your solution here]",
     "{rewritten problem}", "(insert step 1 here)", "N/A", "n/a.", "None",
     "TBD", "to do", "a placeholder", "Same as  above", "." * 1000, '"N/A"'],
)  # fmt: skip
def test_placeholders(text: str) -> None:
    assert is_placeholder(text)


@pytest.mark.parametrize(
    "text",
    ["a", "7", "[0, 1]", "(x, y)", "<3", "\\boxed{7}", "[\\frac{1}{2}, 1]", "[a] then [b] more", "none of them is even",
     "Replace the placeholder digit", "问题", "Reverse", "n" * 1000, "[" + "word " * 100 + "]"],
)  # fmt: skip
def test_no_placeholders(text: str) -> None:
    assert not is_placeholder(text)


@pytest.mark.parametrize(
    ("original", "rewritten", "share"),
    [
        pytest.param("a b c d e f", "a b c d e f", 1.0, id="all"),
        pytest.param("a b c d e f", "A, B: c $d$ (E) f!", 1.0, id="case-and-punctuation-do-not-matter"),
        pytest.param("a b c d e f g", "a b c d e x y", 1 / 3, id="one-of-three"),
        pytest.param("a b c d e", "a b c d x a b c d", 0.0, id="four-words-are-not-enough"),
        pytest.param("a b c d e", "a b c d e a b c d e", 2 / 6, id="repetitions-count"),
        pytest.param("a b c d e", "b c", 1.0, id="short-copied"),
        pytest.param("a b c d e", "c b", 0.0, id="short-not-copied"),
        pytest.param("a b c", "a b c d e", 0.0, id="original-shorter-than-five"),
        pytest.param("a b c", "", 0.0, id="empty"),
        pytest.param("a b c", None, 0.0, id="none"),
        pytest.param("+ - +", "+ - +", 0.0, id="no-words"),
        pytest.param("", "a b c d e", 0.0, id="empty-original"),
    ],
)
def test_copied_share(original: str, rewritten: str | None, share: float) -> None:
    assert copied_share(original, rewritten) == pytest.approx(share)


def test_copied_compares_with_the_question_and_not_the_choices() -> None:
    problem = Problem("c", "Which of these is a prime number", kind="choice", choices=("a very long choice of words", "two"))
    response = "STRATEGY: a\nREWRITTEN PROBLEM: {}\nSOLUTION: \\boxed{{A}}"
    assert REFRAMER.parse(problem, response.format("a very long choice of words")).copied == 0.0
    assert REFRAMER.parse(problem, response.format("Which of these is a prime number")).copied == 1.0


# Where the published implementation, on purpose, is not followed: case -> (missing, rewording) here.
DIFFERENT = {
    "markdown_bold": (0.0, "A farmer has 12 sheep and sells 5. How many remain?"),  # the next heading's ** is not text
    "markdown_hash": (0.0, "A farmer has 12 sheep and sells 5. How many remain?"),
    "word_placeholder_in_problem": (0.0, "Replace the placeholder digit d in 3d7 so that it is divisible by 9."),
    "rewritten_contains_solution_word": (0.0, "A chemist has a solution: 5 litres of acid. How much acid?"),
    "solution_word_before": (1 / 3, "A farmer has 12 sheep and sells 5. How many remain?"),  # out of order
    "order_reversed": (2 / 3, None),
    "substring_key": (1.0, None),  # "MY STRATEGY:" is no heading
    "strategy_is_next_key": (1 / 3, "q"),  # one line is one section
}


def test_golden_format_cases() -> None:
    path = GOLDEN / "format.jsonl"
    if not path.is_file():
        pytest.skip(f"the golden vectors are not here: {path}")
    cases = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert {case["kind"] for case in cases} >= set(DIFFERENT)
    for case in cases:
        if case.get("flags"):
            continue
        sections = split_sections(case["response"])
        published = (1 - case["out"]["total_score"] / 3, case["out"]["rewritten_text"] or None)
        missing, rewritten = DIFFERENT.get(case["kind"], published)
        assert sections.missing == pytest.approx(missing), case["id"]
        assert sections.rewritten == rewritten, case["id"]


# Complete boxes; on broken ones and on spaces inside the braces the published implementation is not followed.
EXTRACT_AGREED = [
    "\\boxed{5}",
    "\\boxed{ 5 }",
    "\\boxed{\\{1,2\\}}",
    "\\boxed{(0,1]}",
    "\\boxed{5}}}",
    "\\boxed{A}\\boxed{B} ",
    "final: $\\boxed{-\\frac{3}{4}}$",
]


def test_golden_extract_cases() -> None:
    path = GOLDEN / "extract_answer.jsonl"
    if not path.is_file():
        pytest.skip(f"the golden vectors are not here: {path}")
    cases = {case["text"]: case["extract_answer"] for case in map(json.loads, path.read_text(encoding="utf-8").splitlines())}
    for text in EXTRACT_AGREED:
        assert SOLVER.parse(PROBLEM, text).answer == cases[text].strip(), text


MB = 1_000_000
HOSTILE = {
    "stars": "* " * (MB // 2),
    "hashes": "#" * MB,
    "newlines": "\n" * MB,
    "spaces": " " * MB + "\n",
    "numbers": "1." * (MB // 2),
    "headings": "SOLUTION:\n" * (MB // 10),
    "all headings": "STRATEGY: a\nREWRITTEN PROBLEM: b\nSOLUTION: c\n" * (MB // 45),
    "headings reversed": "SOLUTION: c\nREWRITTEN PROBLEM: b\nSTRATEGY: a\n" * (MB // 45),
    "heading without colon": "STRATEGY" + "*" * MB,
    "think": "<think>" * (MB // 14) + "</think>" * (MB // 16),
    "brackets": "STRATEGY: " + "[" * MB,
    "one word": "STRATEGY: a\nREWRITTEN PROBLEM: " + "x " * (MB // 2) + "\nSOLUTION: 1",
    "open boxes": "SOLUTION: " + "\\boxed{" * (MB // 7),
    "nested boxes": "SOLUTION: " + "\\boxed{" * (MB // 8) + "}" * (MB // 8),
    "braces": "SOLUTION: a \\boxed{" + "{" * MB,
    "nul and surrogates": "STRATEGY: \x00\ud800" * (MB // 12),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("view", [SOLVER, REFRAMER], ids=["solver", "reframer"])
def test_a_megabyte_of_anything_is_read_in_time(view: Solver | Reframer, name: str) -> None:
    start = time.process_time()
    parsed = view.parse(PROBLEM, HOSTILE[name])
    assert time.process_time() - start < 5.0  # linear: a fraction of a second; quadratic: hours
    assert 0.0 <= parsed.missing <= 1.0 and 0.0 <= parsed.copied <= 1.0
