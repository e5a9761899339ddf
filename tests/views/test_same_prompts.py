"""Views that ask the same thing twice over are found, others are not."""

from __future__ import annotations

from typing import Any

import pytest

from harmonyray.errors import ProblemError
from harmonyray.registry import make_options, resolve
from harmonyray.types import Problem
from harmonyray.views.same import same_prompts

PROBLEMS = [Problem(str(i), f"question {i}", rewordings={"rewording": f"question {i}"}) for i in range(9)]


def view(name: str, kind: str, **options: Any) -> Any:
    return resolve("views", kind)(name, make_options("views", kind, f"views.{name}", options))


def test_pairs_come_in_the_views_order() -> None:
    views = [view("a", "solver"), view("b", "reframer"), view("c", "solver"), view("d", "static")]
    assert same_prompts(views, PROBLEMS) == [("a", "c"), ("a", "d"), ("c", "d")]  # the static column repeats the question


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({}, {"chat": True}),
        ({"chat": True}, {"chat": True, "system": "S"}),
        ({"chat": True}, {"chat": True, "template_options": {"enable_thinking": False}}),
        ({}, {"response_prefix": "<think>\n"}),
        ({}, {"template": "{question}"}),
    ],
)
def test_any_part_of_a_prompt_tells_views_apart(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert same_prompts([view("a", "solver", **first), view("b", "solver", **second)], PROBLEMS) == []
    assert same_prompts([view("a", "solver", **second), view("b", "solver", **second)], PROBLEMS) == [("a", "b")]


def test_one_differing_problem_among_the_first_few_is_enough() -> None:
    views = [view("a", "solver"), view("b", "static")]
    assert same_prompts(views, PROBLEMS) == [("a", "b")]
    other = Problem("x", "question", rewordings={"rewording": "another"})
    assert same_prompts(views, [*PROBLEMS[:3], other]) == []
    assert same_prompts(views, [*PROBLEMS[:4], other]) == [("a", "b")]  # the fifth is not looked at


def test_a_view_that_asks_twice_is_compared_by_both_questions() -> None:
    once = view("a", "prompt", template="REFRAME: {question}")
    twice = view("b", "staged_reframer", draft_template="REFRAME: {question}", solve_template="{draft}")
    again = view("c", "staged_reframer", draft_template="REFRAME: {question}", solve_template="{draft}", samples_per_draft=1)
    other = view("d", "staged_reframer", draft_template="REFRAME: {question}", solve_template="{draft}SOLUTION: ")
    assert same_prompts([once, twice, again, other], PROBLEMS) == [("b", "c")]


def test_nothing_to_compare() -> None:
    assert same_prompts([], PROBLEMS) == []
    assert same_prompts([view("a", "solver")], PROBLEMS) == []
    assert same_prompts([view("a", "solver"), view("b", "solver")], []) == []


def test_a_missing_rewording_is_told() -> None:
    with pytest.raises(ProblemError, match=r"problems\.rewording_columns"):
        same_prompts([view("a", "solver"), view("b", "static")], [Problem("p", "q")])
