"""The audit of a step's views, against figures worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from harmonyray.answers.grader import reading
from harmonyray.config_sections import AuditConfig
from harmonyray.types import AnswerGroup, ParsedResponse, Problem
from harmonyray.views.audit import Audit, audit_views

LENIENT = AuditConfig(min_format_compliance=0, max_copied=1, min_numbers_kept=0, min_answered=0)
DOWN = AuditConfig(action="down_weight", weight=0.25, min_answered=0.5)
VIEWS = ("solver", "reframer")


def group(problem: Problem, parsed: Sequence[Sequence[ParsedResponse]]) -> AnswerGroup:
    """Clustered by the answers' text, as the grader numbers clusters, and read as the grader reads."""
    width = max((len(row) for row in parsed), default=0)
    names = list(dict.fromkeys(r.answer for row in parsed for r in row if r.answer is not None))
    ids = np.full((len(parsed), width), -1, dtype=np.int64)
    for v, row in enumerate(parsed):
        for n, response in enumerate(row):
            if response.answer is not None:
                ids[v, n] = names.index(response.answer)
    read = tuple(tuple(reading(problem, response) for response in row) for row in parsed)
    return AnswerGroup(problem.id, ids, np.array([len(row) for row in parsed]), tuple(names), read)


def audit(
    problems: dict[str, Sequence[Sequence[ParsedResponse]]], config: AuditConfig = LENIENT, views: Sequence[str] = VIEWS
) -> Audit:
    """The audit of a step: the questions of its problems, and what every view said."""
    groups = [group(Problem(f"p{i}", text), parsed) for i, (text, parsed) in enumerate(problems.items())]
    return audit_views(groups, views, config)


def said(*answers: str | None) -> list[ParsedResponse]:
    return [ParsedResponse(answer) for answer in answers]


def reworded(rewritten: str | None, answer: str | None = "1", copied: float = 0.0, strategy: str | None = None) -> ParsedResponse:
    missing = (rewritten is None) / 3 + (strategy is None) / 3
    return ParsedResponse(answer, missing=missing, copied=copied, rewritten=rewritten, strategy=strategy)


def test_a_step_in_full() -> None:
    found = audit(
        {
            "12 apples of 1,000": [
                said("1", "1", "2", None),
                [
                    reworded("1000 pears, 12 green", "1", copied=0.5, strategy="Reverse"),  # keeps both numbers
                    reworded("12 pears", "2", copied=0.1, strategy="reverse"),  # keeps one
                ],
            ],
            "how many": [
                said("5"),
                [
                    reworded("what number", "5", copied=0.0, strategy="Count up"),  # no number to keep
                    reworded(None, None, strategy=None),  # 2/3 missing
                ],
            ],
        }
    )
    # Agreement: p0 = {1: 2/4, 2: 1/4}, p1 = {1: 1/2, 2: 1/2}: 1/4 + 1/8 = 3/8; {5: 1} and {5: 1/2}: 1/2. Mean 7/16.
    assert found.metrics == {
        "audit/solver/answered": pytest.approx(4 / 5),
        "audit/solver/degenerate": 0.0,
        "audit/reframer/answered": pytest.approx(3 / 4),
        "audit/reframer/agreement": pytest.approx(7 / 16),
        "audit/reframer/format_compliance": pytest.approx(1 - (2 / 3) / 4),
        "audit/reframer/copied": pytest.approx(0.6 / 3),
        "audit/reframer/numbers_kept": pytest.approx((1 + 1 / 2) / 2),
        "audit/reframer/strategy/count_up": pytest.approx(1 / 3),
        "audit/reframer/strategy/reverse": pytest.approx(2 / 3),
        "audit/reframer/degenerate": 0.0,
    }
    assert (found.degenerate, found.reasons) == ((False, False), ("", ""))
    assert found.weights.tolist() == [1.0, 1.0]


def test_a_view_that_rewords_nothing_has_no_figures_of_rewordings() -> None:
    found = audit({"3?": [said("1"), said("1")]})
    assert sorted(found.metrics) == [
        "audit/reframer/agreement",
        "audit/reframer/answered",
        "audit/reframer/degenerate",
        "audit/solver/answered",
        "audit/solver/degenerate",
    ]


def test_a_rewording_view_that_never_rewords_has_its_compliance() -> None:
    found = audit({"3?": [said("1"), [ParsedResponse("1", missing=1.0)]]})
    assert found.metrics["audit/reframer/format_compliance"] == 0.0
    assert {"audit/reframer/copied", "audit/reframer/numbers_kept"}.isdisjoint(found.metrics)


@pytest.mark.parametrize(
    ("first", "second", "agreement"),
    [
        (["1", "1"], ["1", "1"], 1.0),
        (["1", "1"], ["2", "2"], 0.0),
        (["1", "2"], ["1", "2"], 0.5),
        ([None, None], [None, None], 0.0),  # no answer agrees with none
        (["1"], ["1", None, "2", "1"], 0.5),
        (["1", None], ["1"], 0.5),
    ],
)
def test_agreement(first: list[str | None], second: list[str | None], agreement: float) -> None:
    metrics = audit({"?": [said(*first), said(*second)]}).metrics
    assert metrics["audit/reframer/agreement"] == pytest.approx(agreement)


def test_agreement_does_not_depend_on_the_order_of_samples_and_problems() -> None:
    a, b = [said("1", "2", "1"), said("2", "2", "1")], [said("3"), said("4", "3")]
    swapped = [row[::-1] for row in a]
    assert audit({"x": a, "y": b}).metrics == audit({"y": b, "x": swapped}).metrics


# --- the rules ---------------------------------------------------------------------------------------------------------------

GOOD = [reworded("a rewording of 3", "1", strategy="Reverse")]


@pytest.mark.parametrize(
    ("rows", "limits", "reason"),
    [
        (GOOD, {}, ""),
        ([reworded(None, strategy=None)], {}, "format_compliance 0.3333 is below audit.min_format_compliance 0.5"),
        (
            [reworded("a"), *GOOD],
            {"min_format_compliance": 0.9},
            "format_compliance 0.8333 is below audit.min_format_compliance 0.9",
        ),
        ([reworded("3", copied=0.95, strategy="x")], {}, "copied 0.95 is above audit.max_copied 0.9"),
        ([reworded("4", strategy="x"), *GOOD], {"min_numbers_kept": 0.6}, "numbers_kept 0.5 is below audit.min_numbers_kept 0.6"),
        ([reworded("4", strategy="x")], {}, ""),  # by default numbers may change
        ([reworded("3", None, strategy="x")] * 4 + GOOD, {}, "answered 0.2 is below audit.min_answered 0.25"),
        ([reworded("3", None, strategy="x")] * 3 + GOOD, {}, ""),  # 0.25 is at the limit
        ([reworded("3", copied=0.9, strategy="x")], {}, ""),
        ([reworded("3", strategy="x", copied=0.8), reworded("3", strategy="x", copied=1.0)] * 3, {}, ""),  # mean 0.9
        ([reworded("3", strategy="x"), ParsedResponse("1", missing=1.0)], {}, ""),  # half of the sections
        (
            [ParsedResponse(None, missing=1.0, copied=0.0)],
            {},
            "answered 0 is below audit.min_answered 0.25; format_compliance 0 is below audit.min_format_compliance 0.5",
        ),
    ],
)
def test_reasons_name_figure_and_limit(rows: list[ParsedResponse], limits: dict[str, float], reason: str) -> None:
    found = audit({"has a 3": [said("1"), rows]}, AuditConfig(**limits))
    assert found.reasons == ("", reason)
    assert found.degenerate == (False, bool(reason))
    assert found.metrics["audit/reframer/degenerate"] == float(bool(reason))
    assert found.weights.tolist() == [1.0, 1.0]  # the default is to report


def test_a_degenerate_view_is_down_weighted_if_told_to() -> None:
    bad = [ParsedResponse("1", missing=1.0)]
    found = audit({"?": [said("1"), bad, said("1"), said(None)]}, DOWN, ("a", "b", "c", "d"))
    assert found.degenerate == (False, True, False, True)
    assert found.weights.tolist() == [1.0, 0.25, 1.0, 0.25]
    nothing = audit({"?": [said("1"), bad]}, AuditConfig(action="down_weight", weight=0))
    assert nothing.weights.tolist() == [1.0, 0.0]


def test_the_first_view_can_be_down_weighted_too() -> None:
    found = audit({"?": [said(None), said("1")]}, DOWN)
    assert found.degenerate == (True, False)
    assert found.weights.tolist() == [0.25, 1.0]


def test_if_all_are_degenerate_all_keep_their_weights() -> None:
    found = audit({"?": [said(None), said(None)]}, AuditConfig(action="down_weight", weight=0))
    assert found.degenerate == (True, True)
    assert found.weights.tolist() == [1.0, 1.0]


# --- the edges ---------------------------------------------------------------------------------------------------------------


def test_a_step_without_problems() -> None:
    found = audit({}, DOWN)
    assert found.metrics == {"audit/solver/degenerate": 0.0, "audit/reframer/degenerate": 0.0}
    assert (found.degenerate, found.weights.tolist()) == ((False, False), [1.0, 1.0])


def test_a_view_without_samples_is_not_looked_at() -> None:
    found = audit({"?": [said("1"), said()]}, DOWN)
    assert "audit/reframer/answered" not in found.metrics
    assert "audit/reframer/agreement" not in found.metrics
    assert found.degenerate == (False, False)


def test_groups_that_were_not_parsed_have_the_figures_of_the_vote() -> None:
    clusters = AnswerGroup("p", np.array([[0, 0], [0, -1]]), np.array([2, 2]), ("1",))
    found = audit_views([clusters], VIEWS, LENIENT)
    assert found.metrics["audit/reframer/answered"] == 0.5
    assert found.metrics["audit/reframer/agreement"] == 0.5


def test_hostile_strategies_make_no_strange_metrics() -> None:
    nasty = [
        "a/b\n",
        "../..",
        "\x00",
        "\ud800",
        "x" * 10_000,
        "{name}",
        "NaN",
        " ",
        "逆向 法",
        "%s",
        "é" * 99,
        "Ignore all of this",
    ]
    rows = [reworded("r", strategy=text) for text in nasty]
    names = [name.rpartition("/")[2] for name in audit({"?": [said("1"), rows]}).metrics if "/strategy/" in name]
    assert len(names) == 9
    assert all(len(name) <= 40 and name.replace("_", "a").isalnum() for name in names)
