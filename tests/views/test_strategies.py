"""Rewriting strategies: the option of the reframer views, their place in the prompt, and the names that responses give."""

from __future__ import annotations

from typing import Any

import pytest

from harmonyray.errors import ConfigError
from harmonyray.registry import make_options
from harmonyray.types import Problem
from harmonyray.views.prompts import STRATEGIES
from harmonyray.views.reframer import Reframer, StagedReframer
from harmonyray.views.strategies import named_strategy, slug, strategy_shares

PROBLEM = Problem("p", "THE {strategies} QUESTION")
NAMES = [name for name, _ in STRATEGIES]


def fused(**options: Any) -> str:
    text = Reframer("r", Reframer.Options(**options)).render(PROBLEM).text
    assert text is not None
    return text


def staged(**options: Any) -> str:
    text = StagedReframer("r", StagedReframer.Options(**options)).render(PROBLEM).text
    assert text is not None
    return text


def offered(text: str) -> list[str]:
    return [line[2:].partition(":")[0] for line in text.splitlines() if line.startswith("- ")]


@pytest.mark.parametrize("render", [fused, staged])
def test_all_eight_are_offered_unless_told_otherwise(render: Any) -> None:
    assert offered(render()) == NAMES
    assert offered(render(strategies=None)) == NAMES
    assert "Pick exactly one strategy" in render()
    assert "THE {strategies} QUESTION" in render()  # a question is inserted literally


@pytest.mark.parametrize("render", [fused, staged])
def test_a_list_offers_its_own_in_its_order(render: Any) -> None:
    text = render(strategies=["reverse", "add noise"])
    assert offered(text) == ["Reverse", "Add noise"]
    assert "Pick exactly one strategy" in text


@pytest.mark.parametrize("render", [fused, staged])
@pytest.mark.parametrize("one", [["reverse"], "Reverse"])
def test_one_strategy_is_not_a_choice(render: Any, one: Any) -> None:
    text = render(strategies=one)
    assert "Use this strategy for the restatement:\n- Reverse: " in text
    assert "one strategy" not in text


def test_a_mapping_is_the_users_own() -> None:
    text = fused(
        template="{question}|{strategies}|", strategies={"Count up": "from {question}\n  to the other. ", "Reverse": "b"}
    )
    assert text == (
        "THE {strategies} QUESTION|Pick exactly one strategy for the restatement:\n"
        "- Count up: from {question} to the other.\n- Reverse: b.|"
    )


@pytest.mark.parametrize(
    ("spelled", "name"),
    [
        ("DOMAIN SHIFT", "Domain shift"),
        ("domain_shift", "Domain shift"),
        ("DomainShift", "Domain shift"),
        (" point of view-shift ", "Point-of-view shift"),
        ("pointofviewshift", "Point-of-view shift"),
        ("focus on constraints", "Focus on constraints"),
    ],
)
def test_names_are_read_loosely(spelled: str, name: str) -> None:
    assert Reframer.Options(strategies=[spelled]).strategies == (name,)


@pytest.mark.parametrize("kind", ["reframer", "staged_reframer"])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (["revers"], r"unknown strategy 'revers': did you mean 'reverse'\?"),
        (["reverse", "domain"], r"unknown strategy 'domain': did you mean 'domain_shift'"),
        (["qqq"], r"unknown strategy 'qqq': expected one of: add_noise, concretize, .*mapping from names to explanations"),
        ([3], "unknown strategy 3"),
        (["reverse", "REVERSE"], "'reverse' is named twice"),
        ([], "no strategy is left to use"),
        ({}, "no strategy is left to use"),
        ({"Mine": " "}, "strategy 'Mine' has no explanation"),
        ({"...": "a"}, r"strategy '\.\.\.' has no name that a response could give"),
        ({"a\nb": "a"}, "write one line with letters"),
        ({"Count up": "a", "count-up": "b"}, "'count_up' is named twice"),
        (7, "expected a list of strategy names, or a mapping"),
    ],
)
def test_bad_strategies(kind: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"'views\.r\.strategies'.*{message}"):
        make_options("views", kind, "views.r", {"strategies": value})


@pytest.mark.parametrize(("kind", "option"), [("reframer", "template"), ("staged_reframer", "draft_template")])
def test_strategies_that_nothing_would_read(kind: str, option: str) -> None:
    own = {option: "REFRAME: {question}\n"}
    make_options("views", kind, "views.r", own)
    make_options("views", kind, "views.r", {**own, "strategies": None})
    with pytest.raises(ConfigError, match=rf"nothing would read it: the {option} never mentions \{{strategies\}}"):
        make_options("views", kind, "views.r", {**own, "strategies": ["reverse"]})
    options = make_options("views", kind, "views.r", {option: "{strategies} {question}", "strategies": ["reverse"]})
    assert options.strategies == ("Reverse",)


# --- the names that responses give -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Reverse", "reverse"),
        ("**Reverse**.", "reverse"),
        ("Domain Shift (from apples to coins)", "domain_shift"),
        ("DomainShift", "domain_shift"),
        ("5. Reverse", "reverse"),
        ("Point‑of‑View Shift", "point_of_view_shift"),
        ("point of view shift\nbecause it is easier", "point_of_view_shift"),
        ("reversed order", "reversed_order"),
        ("count up", "count_up"),
        ("2x2 grids", "2x2_grids"),
        ("7", "7"),
        ("a/b\\c\0d: {e}", "a_b_c_d_e"),
        ("逆向", "逆向"),
        ("Ｒｅｖｅｒｓｅ", "reverse"),
        ("?!", "other"),
        ("\ud800", "other"),
        ("", "other"),
    ],
)
def test_named_strategy(text: str, name: str) -> None:
    assert named_strategy(text) == name


def test_a_slug_is_short_and_safe() -> None:
    assert slug("word " * 100) == "word_" * 7 + "word"  # 39 characters: no "_" at the end
    assert len(slug("x" * 1_000_000)) == 40
    assert len(slug("ﷺ" * 1000)) <= 40  # one character that normalises to 18


def test_shares_of_known_and_unknown_names() -> None:
    assert strategy_shares(["Reverse", "reverse", "Count up", "COUNT-UP", "count up", "Add noise"]) == {
        "add_noise": pytest.approx(1 / 6),
        "count_up": pytest.approx(3 / 6),
        "reverse": pytest.approx(2 / 6),
    }
    assert strategy_shares([]) == {}
    assert strategy_shares(["other", "?"]) == {"other": 1.0}


def test_only_eight_unknown_names_are_told_apart() -> None:
    names = [f"mine {i}" for i in range(10)]  # ten names, twice each: the first eight by name
    assert strategy_shares(names * 2) == {**{f"mine_{i}": 0.1 for i in range(8)}, "other": pytest.approx(0.2)}
    assert len(strategy_shares([*names, *NAMES])) == 8 + 8 + 1


def test_a_name_used_once_in_a_while_is_other() -> None:
    # 1 of 101 is below 0.01, 1 of 100 is not; built-in ones are always told apart.
    assert strategy_shares(["mine"] + ["Reverse"] * 100) == {"other": pytest.approx(1 / 101), "reverse": pytest.approx(100 / 101)}
    assert strategy_shares(["mine"] + ["Reverse"] * 99) == {"mine": 0.01, "reverse": 0.99}
    assert strategy_shares(["Reverse"] + ["mine"] * 999) == {"mine": 0.999, "reverse": 0.001}
