"""AnswerGrader: rollouts to answer groups through each view's parser."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from harmonyray.answers.extract import extract_answer
from harmonyray.answers.grader import AnswerGrader
from harmonyray.errors import ConfigError
from harmonyray.protocols import Grader
from harmonyray.rollouts import keep
from harmonyray.types import ParsedResponse, Problem, ProblemRollouts, Prompt, Rollout


class Upper:
    """A view that tells the others apart: it reads what follows the last colon."""

    name = "colon"

    def render(self, problem: Problem) -> Prompt:
        return Prompt(problem.id, self.name, text=problem.text)

    def parse(self, problem: Problem, response: str) -> ParsedResponse:
        return ParsedResponse(response.rpartition(":")[2].strip() or None, missing=0.5)


class Boxed(Upper):
    name = "boxed"

    def parse(self, problem: Problem, response: str) -> ParsedResponse:
        return ParsedResponse(extract_answer(response, problem.kind))


def rollout(view: str, text: str) -> Rollout:
    empty = np.zeros(0, dtype=np.int64)
    return Rollout(Prompt("p", view, text="?"), empty, empty, np.zeros(0, dtype=np.float32), text, "stop", 0)


def item(problem_id: str, boxed: list[str], colon: list[str]) -> ProblemRollouts:
    rows = (tuple(rollout("boxed", t) for t in boxed), tuple(rollout("colon", t) for t in colon))
    return ProblemRollouts(Problem(problem_id, "?"), tuple(map(keep, rows)))


def test_groups_by_hand() -> None:
    with AnswerGrader([Boxed(), Upper()], AnswerGrader.Options(limit_s=20)) as grader:
        protocol: Grader = grader
        groups = protocol.group(
            [
                item("a", ["\\boxed{1/2}", "no box", "\\boxed{3}"], ["so: 0.5", "so: 4"]),
                item("b", ["\\boxed{x+y}"], ["it: y + x"]),
                item("c", [], ["", "z:"]),
            ]
        )
        assert protocol.equal([("1/2", "0.5"), ("x+y", "y+x"), ("1", "2")]) == [True, True, False]
        assert grader.statistics.num_pairs > 0
    first, second, third = groups
    assert [group.problem_id for group in groups] == ["a", "b", "c"]
    assert first.cluster_ids.tolist() == [[0, -1, 2], [0, 1, -1]]
    assert first.num_samples.tolist() == [3, 2]
    assert first.representatives == ("0.5", "4", "3")
    assert first.counts().tolist() == [[1, 1], [0, 1], [1, 0]]
    assert [[p.answer for p in row] for row in first.read] == [["1/2", None, "3"], ["0.5", "4"]]
    assert first.read[1][0].missing == 0.5
    assert first.num_timeouts == 0
    assert second.cluster_ids.tolist() == [[0], [0]] and second.representatives == ("x+y",)
    assert third.cluster_ids.tolist() == [[-1, -1], [-1, -1]] and third.representatives == ()


def test_options_reach_the_comparison() -> None:
    options = AnswerGrader.Options(max_chars=5)
    with AnswerGrader([], options) as grader:
        assert grader.equal([("x+x+x+x", "4x")]) == [False]
    with AnswerGrader([], AnswerGrader.Options(limit_s=0.2)) as hurried:
        assert hurried.equal([("y + 9^{9^{9}}", "x+1")]) == [False]  # which would take for ever
        assert hurried.statistics.num_timeouts == 1
    with AnswerGrader([], AnswerGrader.Options(memory_mb=600)) as small:
        small.equal([("a+b", "b+a")])
        with open(f"/proc/{small._equivalence._worker.pid}/limits") as file:
            assert str(600 * 2**20) in file.read()


@pytest.mark.parametrize("values", [{"limit_s": 0}, {"memory_mb": 1}, {"max_chars": 0}, {"timeout": 3}])
def test_bad_options_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        AnswerGrader.Options(**values)


def test_a_missing_view_is_a_bug() -> None:
    with AnswerGrader([Boxed()]) as grader, pytest.raises(AssertionError, match="2 views of rollouts, 1 views"):
        grader.group([item("a", ["1"], ["2"])])


def test_a_view_that_reads_nothing_at_all_is_named() -> None:
    class Forgetful(Boxed):
        def parse(self, problem: Problem, response: str) -> ParsedResponse:  # type: ignore[empty-body]
            """A view of the user's own that forgot to return."""

    with (
        AnswerGrader([Forgetful(), Upper()]) as grader,
        pytest.raises(ConfigError, match=r"\(.*Forgetful\) read .* None"),
    ):
        grader.group([item("a", ["x"], [])])
