"""What two canonical answers say about each other without a solver: True, False, or None for "ask one".

Only exact comparisons live here; every rule is symmetric.
"""

from __future__ import annotations

import re
from fractions import Fraction

from harmonyray.answers.normalize import Canonical
from harmonyray.answers.sequences import Numbers, numbers
from harmonyray.answers.units import PERCENT

MIN_ROUNDED_PLACES = 4

_WORDS = re.compile(r"[A-Za-z][A-Za-z .'-]+")
_LIST = re.compile(r"[^()\[\]{}]*,[^()\[\]{}]*")
_RATIO = re.compile(r"\d+:\d+")
_CONSTANTS = ("e", "i", "pi", "inf", "oo", "infinity")


def decide(a: Canonical, b: Canonical) -> bool | None:
    """Whether two answers are equal, as far as exact reading goes.

    Empty answers equal nothing. Names and units are compared only where both answers have one (`x=5` is `5`, not
    `y=5`). `50%` is `0.5` and `50`. A decimal with MIN_ROUNDED_PLACES or more places and as many significant digits
    equals the fraction that rounds to it (`0.3333` is `1/3`; `0.33` is not). Two other numbers are equal if exactly so.
    Collections of numbers are compared item by item: tuples, intervals and matrices in order, sets and bare lists not.
    """
    if not a.key or not b.key:
        return False
    if a.key == b.key:
        return True
    if a.name and b.name and a.name != b.name and a.value is not None and b.value is not None:
        return False
    if a.value is not None and b.value is not None:
        return _same_unit(a, b) and _same_number(a, b)
    if a.value is not None or b.value is not None:
        number, other = (a, b) if a.value is not None else (b, a)
        return _number_and_text(number, other)
    if _is_word(a) and _is_word(b):
        return False
    left, right = numbers(a.body), numbers(b.body)
    return None if left is None or right is None else _same_collection(left, right)


def _same_unit(a: Canonical, b: Canonical) -> bool:
    return not a.unit or not b.unit or a.unit == b.unit


def _same_number(a: Canonical, b: Canonical) -> bool:
    assert a.value is not None and b.value is not None
    if a.value == b.value:
        return True
    rounded = a.decimals is None or b.decimals is None  # two decimals are what they say
    if rounded and (_rounds_to(a.value, b) or _rounds_to(b.value, a)):
        return True
    if (a.unit == PERCENT) != (b.unit == PERCENT):
        percent, plain = (a, b) if a.unit == PERCENT else (b, a)
        assert percent.value is not None
        return percent.value / 100 == plain.value or _rounds_to(percent.value / 100, plain)
    return False


def _rounds_to(exact: Fraction, rounded: Canonical) -> bool:
    """Whether `rounded` is a decimal of enough digits that lies within half a unit of its last place of `exact`."""
    places = rounded.decimals
    if places is None or places < MIN_ROUNDED_PLACES or rounded.value is None:
        return False
    if abs(rounded.value) * 10**places < 10 ** (MIN_ROUNDED_PLACES - 1) or _terminates(exact, places):
        return False
    return 2 * abs(exact - rounded.value) * 10**places <= 1


def _terminates(value: Fraction, places: int) -> bool:
    """Whether `value` has a decimal expansion of at most `places` digits, so that a decimal has no excuse for missing it."""
    return 10**places % value.denominator == 0


def _same_collection(a: Numbers, b: Numbers) -> bool | None:
    """Item by item; as sets where order does not count. A tuple against a set is left open (readers differ on it)."""
    if a.shape == b.shape == "set":
        return all(any(_same_item(x, y) for y in b.items) for x in a.items) and all(
            any(_same_item(x, y) for x in a.items) for y in b.items
        )
    if "set" in (a.shape, b.shape):
        return None
    if a.shape != b.shape or len(a.items) != len(b.items):
        return False
    return all(_same_item(x, y) for x, y in zip(a.items, b.items, strict=True))


def _same_item(a: Canonical, b: Canonical) -> bool:
    if a.value is None or b.value is None:
        return a.key == b.key
    return _same_number(a, b)


def _number_and_text(number: Canonical, other: Canonical) -> bool | None:
    if other.comma is not None:
        return other.comma == number.value and _same_unit(number, other)
    if _is_word(other) or _LIST.fullmatch(other.body) or _RATIO.fullmatch(other.key):
        return False
    return None


def _is_word(answer: Canonical) -> bool:
    """A name, "yes", a choice letter: text that no solver should multiply out letter by letter."""
    if answer.body.casefold() in _CONSTANTS or answer.key.casefold() in _CONSTANTS:
        return False
    return (len(answer.key) == 1 and answer.key.isalpha()) or _WORDS.fullmatch(answer.body) is not None
