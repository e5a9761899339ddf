"""What counts as equal, rule by rule: hand-checked tables, both ways round and with other spacing."""

from __future__ import annotations

import re

import pytest

from harmonyray.answers.cluster import cluster_answers
from harmonyray.answers.equivalence import Equivalence

EQUAL = {
    "order of terms": [
        ("p - q", "-q + p"),
        ("x-y", "-y+x"),
        ("a-b", "-b+a"),
        ("m-n", "-n+m"),
        ("a-b-c", "a-c-b"),
        ("xy-x", "yx-x"),
        ("x-x", "0"),
    ],
    "polynomials with bare exponents": [
        ("x^4+2x^3-x^2+1", "1-x^2+2x^3+x^4"),
        ("a^2+b^2+c^2", "c^2+b^2+a^2"),
        ("x^4+4x^3+6x^2+4x+1", "(x+1)^4"),
        ("x^2+y^2=z^2", "z^2=x^2+y^2"),
        ("x^2y^3z^4", "z^4y^3x^2"),
        ("x^{10}-1", "(x-1)(x+1)(x^4+x^3+x^2+x+1)(x^4-x^3+x^2-x+1)"),
        ("n!", "n(n-1)!"),
    ],
    "letters side by side": [
        ("xy", "yx"),
        ("abc", "cba"),
        ("xyz", "zyx"),
        ("2ab", r"2a\cdot b"),
        ("2ab", "2ba"),
        ("x(x+1)", "x^2+x"),
        ("f(x+1)", "f(1+x)"),
        ("Tom", r"\text{Tom}"),
    ],
    "approximations": [
        (r"x \approx 3.14", "3.14"),
        (r"\approx 3.14", "3.14"),
        (r"A \approx 12.5", "12.5"),
        (r"x \approx \sqrt{2}", r"\sqrt2"),
        (r"\sqrt{10} \approx 3.16", r"\sqrt{10}"),
        ("about 14", "14"),
        ("1.41421...", r"\sqrt2"),
    ],
    "units": [
        ("5 m", "5"),
        ("5 m", r"5 \text{ m}"),
        ("5 m/s", r"5 \text{ m/s}"),
        ("5 meters per second", "5 m/s"),
        ("$2 per hour", "2"),
        ("10 square cm", "10 cm^2"),
        ("10 cm²", r"10\text{ cm}^2"),
        ("70°F", "70 degrees Fahrenheit"),
        ("70°F", "70 degrees"),
        ("156kgs", "156 kg"),
        ("10 apples", "10"),
        ("1 apple", "1 apples"),
    ],
    "numbers in other spellings": [
        (r"0.\overline{3}", "1/3"),
        (r"1.\overline{6}", "5/3"),
        (r"0.\dot3", "1/3"),
        (r"0.1\overline{6}", "1/6"),
        ("12\\ ", "12"),
        (r"4^{\text{th}}", "4th"),
        ("4th", "4"),
        ("1.5 million", "1500000"),
        (r"5\text{ million}", "5000000"),
        ("1,22", "1.22"),
        ("1000,99", "1000.99"),
        ("1.234,50", "1234.5"),
        ("3,5 kg", "3.5"),
        ("2 * 3! * 2! = 2 * 6 * 2 = 24", "24"),
    ],
    "alternatives": [
        (r"x=1 \text{ or } x=2", "1,2"),
        ("x=1, x=2", "2,1"),
        ("x = 2 or x = 1", r"\{1,2\}"),
        ("1 or 2", "1, 2"),
        (r"x=\sqrt2 \text{ or } x=-\sqrt2", r"\pm\sqrt{2}"),
    ],
    "imaginary numbers": [("i^2", "-1"), (r"\sqrt{-4}", "2i"), ("3+4i", "4i+3")],
    "functions": [
        (r"\cos60^\circ", r"\frac12"),
        (r"\cos(60^\circ)", r"\frac12"),
        ("sin 30°", "sin 30°"),
        (r"\sin 30°", "0.5"),
        ("log_2(3)", r"\log_2 3"),
        ("log_2(8)", "3"),
        ("ln(2)", r"\ln 2"),
        ("cos(A)", r"\cos A"),
    ],
    "other": [
        (r"\emptyset", r"\varnothing"),
        ("2a^2, where a is any non-zero real number", "2a^2"),
        ("0/0", "0 / 0"),
        (r"\infty", "infinity"),
    ],
}
UNEQUAL = {
    "approximations": [(r"x \approx 2", r"x \approx 3"), (r"A \approx 12.5", r"A \approx 99"), (r"P \approx 0.5", "P")],
    "words": [
        ("yes", "no"),
        ("no", "on"),
        ("Tom", "mTo"),
        ("earl", "rael"),
        ("All real numbers", "5"),
        ("the number of ways is even", "the number of ways is odd"),
        (r"k \in \mathbb{R}", "5"),
    ],
    "letters": [("x-y", "y-x"), ("3xyz", "3"), ("2ab", "2"), ("(a+b)xyz", "a+b"), ("2i", "2")],
    "units": [
        ("5 m", "5 cm"),
        ("5 g", "5 kg"),
        ("5m", "5 km"),
        ("5 s", "5 min"),
        ("5 h", "5 s"),
        ("10 cm", "10 cm^2"),
        ("70°F", "70°C"),
        ("10 apples", "10 oranges"),
    ],
    "commas": [("1,2", "1.2"), ("1,2", "2.1"), ("10,12", "12.10"), ("1,22", "1,23"), ("x=1 or x=2", "1")],
    "no numbers": [
        ("0/0", "0/0+1"),
        ("0/0", "1"),
        ("0/0", "5/0"),
        ("12/25/2020", "12/50500"),
        ("3:2", r"\frac32"),
        (r"\infty", "0"),
        (r"-\infty", r"\infty"),
        ("5 million", "5"),
    ],
}
PAIRS = [
    pytest.param(a, b, equal, id=f"{rule}: {a} | {b}")
    for equal, table in ((True, EQUAL), (False, UNEQUAL))
    for rule, pairs in table.items()
    for a, b in pairs
]


@pytest.mark.parametrize(("a", "b", "equal"), PAIRS)
def test_rules(equivalence: Equivalence, a: str, b: str, equal: bool) -> None:
    spaced = re.sub(r"([-+*/=])", r" \1 ", a)
    for left, right in ((a, b), (b, a), (spaced, b)):
        verdict = equivalence.check([(left, right)])[0]
        assert (verdict.equal, verdict.status) == (equal, "ok"), (left, right)


def test_a_comma_is_a_list_or_a_decimal_and_never_both(equivalence: Equivalence) -> None:
    """Else 1.2 = `1,2` = `2,1` = 2.1, all in one cluster."""
    for answers in ([["1,2", "2,1"], ["1.2", "2.1"]], [["10,12", "12,10"], ["10.12", "12.10"]]):
        found = cluster_answers(answers, equivalence)
        of = dict(zip([text for row in answers for text in row], found.cluster_ids.ravel().tolist(), strict=True))
        assert of[answers[1][0]] != of[answers[1][1]]
    assert equivalence.equal("1,2", "2,1") and not equivalence.equal("10,12", "12,10")


def test_an_exact_verdict_for_words_and_sentences_needs_no_solver() -> None:
    sentences = [
        "likely in the tens of thousands, but an exact number would require computational assistance",
        "Not Applicable (N/A)",
        "undefined",
        "infinitely many",
        "___",
        "The value does not yield a simple result",
    ]
    others = ["5", r"\frac{\sqrt{3}}{2}", "(2,1)", "x^2+1", *sentences[1:]]
    with Equivalence() as fresh:
        verdicts = fresh.check([(a, b) for a in sentences for b in others if a != b])
        assert {(verdict.equal, verdict.status) for verdict in verdicts} == {(False, "ok")}
        assert fresh._worker.pid is None


@pytest.mark.parametrize(
    "answer",
    ["x^2y^3z^4", "x^4+2x^3-x^2+1", "n(n-1)!", "(n+1)!", "x^{2}+y^{2}+z^{2}", "x^(2)+y^(2)+z^(2)", "a^b+c^d+e^f", "9^{9^{9}}+y"],
)
def test_ordinary_formulas_are_no_hazard(answer: str) -> None:
    with Equivalence() as fresh:
        assert fresh.decide([(answer, "|q|")]) == [None]
        assert fresh._known(*_readings(answer, "|q|")) is None


@pytest.mark.parametrize("bomb", ["y+9^{9^{9^9}}", "y+9^9^9^9", "y+(10^9)!", "y+((9)!)!", "y+9!!", "y+99999!", "y+(10*10*10^3)!"])
def test_hazards_never_reach_the_solver(bomb: str) -> None:
    with Equivalence() as fresh:
        assert fresh.check([(bomb, "y")])[0].status == "unparsable"
        assert fresh._worker.pid is None


def _readings(*texts: str) -> tuple:
    from harmonyray.answers.reading import read

    return tuple(read(text) for text in texts)
