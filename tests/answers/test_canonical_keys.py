"""canonical_key: exact, one key per value, bounded."""

from __future__ import annotations

import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harmonyray.answers.arithmetic import TooLargeError, evaluate
from harmonyray.answers.normalize import canonical, canonical_key


@pytest.mark.parametrize(
    ("answer", "key"),
    [
        ("5", "5"),
        (" $5$ ", "5"),
        (r"\boxed{5}", "5"),
        (r"\(5\)", "5"),
        (r"\[ 5 \]", "5"),
        ("**5**", "5"),
        ("5.", "5"),
        ("5.00", "5"),
        ("+5", "5"),
        ("-0", "0"),
        ("--5", "5"),
        ("−5", "-5"),
        ("007", "7"),
        ("1,000", "1000"),
        ("1{,}000{,}000", "1000000"),
        ("1 000", "1000"),
        (r"1\,000", "1000"),
        (r"32,\! 349", "32349"),
        ("5\u2009000", "5000"),
        ("1,2,3,4", "1,2,3,4"),
        ("1,22", "61/50"),
        ("1,2", "1,2"),
        ("1.234,50", "2469/2"),
        (r"0.1\overline{6}", "1/6"),
        ("4th", "4 th"),
        ("70°F", "70 degF"),
        ("5 m/s", "5 m/s"),
        ("3 square feet", "3 ft^2"),
        (r"A \approx 12.5", "A=25/2"),
        (r"\sqrt{10} \approx 3.16", r"\sqrt{10}"),
        ("log_2(3)", r"\log_{2}(3)"),
        ("x=1 or x=2", "1,2"),
        ("12/25/2020", "12/25/2020"),
        ("0.25", "1/4"),
        (".5", "1/2"),
        ("2/4", "1/2"),
        (r"\frac12", "1/2"),
        (r"\dfrac{-1}{2}", "-1/2"),
        (r"-\tfrac{1}{2}", "-1/2"),
        (r"2\frac{1}{3}", "7/3"),
        ("2 1/3", "7/3"),
        ("½", "1/2"),
        ("3½", "7/2"),
        ("1.5e3", "1500"),
        (r"3\times 10^5", "300000"),
        ("2^{10}", "1024"),
        ("5!", "120"),
        (r"\binom{5}{2}", "10"),
        ("sqrt(25)", "5"),
        ("7^4 * 4", "9604"),
        ("64 + 37 + 11 = 112", "112"),
        (r"50\%", "50 %"),
        ("28 percent", "28 %"),
        (r"90^\circ", "90 deg"),
        ("90°", "90 deg"),
        (r"12\text{ inches}", "12 in"),
        (r"15\mbox{ cm}^2", "15 cm^2"),
        ("47 feet", "47 ft"),
        ("1152 cups", "1152 cup"),
        (r"\$18.90", "189/10 $"),
        ("5 million", "5000000"),
        ("2m", "2m"),
        ("x=5", "x=5"),
        ("1010_2", "1010 base 2"),
        ("(C)", "C"),
        (r"\text{(C)}", "C"),
        ("Yes", "yes"),
        (r"\text{Evelyn}", "evelyn"),
        ("x", "x"),
        ("X", "X"),
        ("1/0", "1/0"),
        ("0^0", "0^{0}"),
        ("1..2", "1..2"),
        ("5-", "5-"),
        ("1e5e5", "1e5e5"),
        ("", ""),
        (" \n\t ", ""),
        ("\x00", ""),
        ("\ud8005\udfff", "5"),
        ("\ufeff5", "5"),
        ("\x1b[31m5\x1b[0m", "5"),
        ("٥", "5"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\frac{\pi}{2})"),
        (r"x^2", "x^{2}"),
        (r"\sqrt2", r"\sqrt{2}"),
        ("36√3", r"36\sqrt{3}"),
    ],
)
def test_table(answer: str, key: str) -> None:
    assert canonical_key(answer) == key


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("12345678901234567890", "12345678901234567891"),
        ("99999999999999999999", "100000000000000000000"),
        ("0.00000000001", "0.00000000002"),
        ("0.1", "0.10000000000000001"),
        ("1/3", "0.3333333333333333"),
        ("12", "1 2"),
        ("x_1", "x1"),
        ("(1,2)", "[1,2]"),
        ("А", "A"),  # Cyrillic, Latin
    ],
)
def test_keys_that_must_differ(a: str, b: str) -> None:
    assert canonical_key(a) != canonical_key(b)


@pytest.mark.parametrize(
    "bomb",
    [
        "9^{9^{9^9}}",
        "10**10**8",
        "1000000!",
        "((((9!)!)!)!)!",
        r"\binom{10^9}{5\cdot 10^8}",
        "99999^{99999}",
        "2^{-10^{9}}",
        "1e999999999",
        "1e-999999999",
        "9" * 5000,
        "1/" + "9" * 4500,
        "(" * 50_000 + "5" + ")" * 50_000,
        "1+" * 300_000 + "1",
        "-" * 20_001 + "5",
        "2^" * 3000 + "2",
        r"\frac{1}{1+" * 5000 + "1" + "}" * 5000,
        r"\frac{1}{2} " * 90_000,
        "\\" * 1_000_000,
        "𝟜" * 250_000,
        "$" * 1_000_000,
        "sqrt(" * 700,
    ],
    ids=lambda text: text[:12],
)
def test_bombs_are_neither_computed_nor_handed_on(bomb: str) -> None:
    start = time.thread_time()
    read = canonical(bomb)
    assert time.thread_time() - start < 1.0
    assert read.value is None
    assert read.hazard


def test_blank_megabyte_is_no_answer() -> None:
    assert canonical_key(" " * 1_000_000) == ""


def test_evaluate_is_exact_and_says_when_it_cannot() -> None:
    assert evaluate("1/3 + 1/6") == Fraction(1, 2)
    assert evaluate("2^{100}") == 1267650600228229401496703205376
    assert evaluate("2^{-2}") == Fraction(1, 4)
    assert evaluate("-2^2") == -4
    assert evaluate("(1+2)(3)") == 9
    assert evaluate(r"\sqrt{2}") is None
    assert evaluate("2^{1/2}") is None
    assert evaluate("1/(2-2)") is None
    assert evaluate("2 x") is None
    assert evaluate("3 4") is None
    with pytest.raises(TooLargeError):
        evaluate("7^{9999}")


@settings(max_examples=200)
@given(st.fractions(max_denominator=10**12))
def test_every_spelling_of_a_fraction_has_its_key(value: Fraction) -> None:
    key = str(value)
    top, bottom = value.numerator, value.denominator
    assert canonical_key(f"{top}/{bottom}") == key
    assert canonical_key(f"${7 * top}/{7 * bottom}$") == key
    assert canonical_key(rf"\dfrac{{{top}}}{{{bottom}}}") == key
    assert canonical_key(rf"\boxed{{\frac{{{-top}}}{{{-bottom}}}}}") == key


@settings(max_examples=200)
@given(st.integers(-(10**60), 10**60), st.integers(0, 30))
def test_decimals_are_exact(digits: int, places: int) -> None:
    text = f"{'-' if digits < 0 else ''}{abs(digits):0{places + 1}d}"
    text = text if places == 0 else f"{text[:-places]}.{text[-places:]}"
    assert canonical(text).value == Fraction(digits, 10**places)
    assert canonical_key(f"{digits:,}") == str(digits)


@settings(max_examples=200)
@given(st.text(max_size=60))
def test_never_raises_and_is_stable(text: str) -> None:
    key = canonical_key(text)
    assert canonical_key(f"  {text}\n") == key
    assert canonical_key(text) == key
