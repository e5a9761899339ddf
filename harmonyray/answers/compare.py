"""What two canonical answers say about each other without a solver: True, False, or None for "ask one".

Only exact comparisons live here; every rule is symmetric.
"""

from __future__ import annotations

import re
from fractions import Fraction

from harmonyray.answers.normalize import Canonical
from harmonyray.answers.probe import plainly_differ
from harmonyray.answers.sequences import Numbers, numbers
from harmonyray.answers.units import FACTORS, PERCENT, same_unit

MIN_ROUNDED_PLACES = 4

_WORDS = re.compile(r"[^\W\d_][^\d\\=<>^_{}\[\]+*|$%]*")
_RUN = re.compile(r"[^\W\d_]+")
_NAMED = re.compile(r"[A-Z][a-z]{1,2}")
_LIST = re.compile(r"[^()\[\]{}]*,[^()\[\]{}]*")
_RATIO = re.compile(r"\d+:\d+")
_ALL_NUMBERS = re.compile(r"\\mathbb|\\emptyset")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_LONG = 4  # letters in a row that make a word; fewer may be variables side by side
_SHORT_WORDS = frozenset(
    ("yes", "no", "not", "on", "or", "and", "one", "two", "six", "ten", "odd", "all", "any", "max", "min", "up", "mon", "tue")
)
_SIDE_BY_SIDE = re.compile(r"[^\W\d_]{2,}[ ,]+[^\W\d_]{2,}")
_CONSTANTS = frozenset(("e", "i", "pi", "inf", "oo", "infinity"))
_FUNCTIONS = frozenset(("sqrt", "cosec", "sech", "csch", "coth", "sinh", "cosh", "tanh", "arcsin", "arccos", "arctan"))


def decide(a: Canonical, b: Canonical) -> bool | None:
    """Whether two answers are equal, as far as exact reading goes.

    Empty answers equal nothing. Names and units are compared only where both answers have one (`x=5` is `5`, not
    `y=5`). `50%` is `0.5` and `50`. A decimal with MIN_ROUNDED_PLACES or more places and as many significant digits
    equals the fraction that rounds to it (`0.3333` is `1/3`; `0.33` is not). Two other numbers are equal if exactly so.
    Collections of numbers are compared item by item: tuples, intervals and matrices in order, sets and bare lists not.
    In `5 m` the m is a unit if the other answer is a number, with or without one. Words and sentences equal their own
    text. Formulas with plainly different values at one point are not equal.
    """
    if not a.key or not b.key:
        return False
    if a.key == b.key:
        return True
    if a.literal or b.literal:
        return False
    if a.value is not None and b.value is not None:
        return not (a.name and b.name and a.name != b.name) and same_unit(a.unit, b.unit) and _same_number(a, b)
    if not same_unit(a.unit, b.unit):
        return False
    if (a.measured or b.measured) and (a.measured or a.value is not None) and (b.measured or b.value is not None):
        left, right = a.measured or (a.value, a.unit), b.measured or (b.value, b.unit)
        return left[0] == right[0] and same_unit(left[1], right[1])
    if a.value is not None or b.value is not None:
        return False if _is_no_number(b if a.value is not None else a) else _by_value(a, b)
    words = _is_word(a), _is_word(b)
    if all(words) or (words[0] and not _could_spell(b, a)) or (words[1] and not _could_spell(a, b)):
        return False
    first, second = numbers(a.body), numbers(b.body)
    return _by_value(a, b) if first is None or second is None else _same_collection(first, second)


def kind(answer: Canonical) -> str:
    """Which kind: "plain" (a number, words, a literal), "ordered" (a tuple, interval or matrix of numbers), "set", or "open".

    Two answers of the same kind, and a plain one with a collection, are equal or not by `decide` alone, unless open.
    """
    if answer.value is not None or answer.literal or _is_word(answer):
        return "plain"
    found = numbers(answer.body)
    if found is None or not _differ(found):
        return "open"
    return "set" if found.shape == "set" else "ordered"


def _differ(found: Numbers) -> bool:
    return any(item.key != found.items[0].key for item in found.items)


def _by_value(a: Canonical, b: Canonical) -> bool | None:
    """False for formulas that differ plainly at one point, else None. Formulas with different names are left open."""
    if (a.name and b.name and a.name != b.name) or a.unit in FACTORS or b.unit in FACTORS or a.measured or b.measured:
        return None
    return False if a.formula and b.formula and plainly_differ(a.formula, b.formula) else None


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


def _is_no_number(other: Canonical) -> bool:
    """Whether an answer that has no exact value is certainly no number: words, a list, a ratio, two numbers and more."""
    if _is_word(other) or _LIST.fullmatch(other.body) or _RATIO.fullmatch(other.key) or _ALL_NUMBERS.search(other.body):
        return True
    found = numbers(other.body)
    return found is not None and _differ(found)


def _is_word(answer: Canonical) -> bool:
    """A name, "yes", a choice letter, a phrase: text that no solver should multiply out letter by letter.

    One letter; or words only, of which one has _LONG letters, two with more than one letter stand side by side, or the
    whole is a short name (`Tom`) or a word of the table. `xy`, `abc` and `a-b` are algebra.
    """
    text = answer.body.strip()
    if text.casefold() in _CONSTANTS or answer.key.casefold() in _CONSTANTS:
        return False
    if len(answer.key) == 1:
        return answer.key.isalpha()
    if _WORDS.fullmatch(text) is None:
        return False
    runs = _RUN.findall(text)
    if any(len(run) >= _LONG and run.casefold() not in _FUNCTIONS for run in runs):
        return True
    if len(runs) == 1:
        return _NAMED.fullmatch(text) is not None or text.casefold() in _SHORT_WORDS
    return _SIDE_BY_SIDE.search(text) is not None


def _could_spell(formula: Canonical, word: Canonical) -> bool:
    """Whether a formula, its LaTeX commands aside, has the letters of a word, to be the same as the word read as a product."""
    return set(_letters(word.key)) <= set(_letters(formula.body))


def _letters(text: str) -> list[str]:
    return [character for character in _COMMAND.sub("", text) if character.isalpha()]
