"""Answers to canonical keys: equal keys are equal answers. Exact (int and Fraction), bounded, and free of any solver.

What keys cannot decide is left to `equivalence`; nothing here imports math_verify.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from harmonyray.answers.arithmetic import MAX_DIGITS, TooLargeError, evaluate, literal
from harmonyray.answers.latex import clean_unicode, nesting, squeeze, tidy, undress
from harmonyray.answers.units import split_unit

MAX_KEY_CHARS = 4000
MAX_NESTING = 30
MAX_CACHED_CHARS = 1000

_INTEGER = r"\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+|\d+"
_PLAIN = re.compile(rf"([+-]?)\s*((?:{_INTEGER})?)(\.\d*)?")
_SCIENTIFIC = re.compile(r"([+-]?)(\d+\.?\d*|\.\d+)[eE]([+-]?\d{1,9})")
_DECIMAL_COMMA = re.compile(r"([+-]?)(\d+),(\d{1,2}|\d{4,30})")
_MIXED = re.compile(r"([+-]?)\s*(\d{1,30}) (\d{1,30})\s*/\s*(\d{1,30})")
_BASED = re.compile(r"([+-]?\d{1,200})_\{?(\d{1,2})\}?")
_NAME = re.compile(r"\\?[A-Za-z]+(?:_(?:\{[A-Za-z0-9]{1,8}\}|[A-Za-z0-9]))?'?(?:\([A-Za-z0-9]{1,3}\))?")
_APPROXIMATION = re.compile(r"\\approx|\\simeq|≈")
_RELATION = re.compile(r"\\(?:le|ge|neq|ne|lt|gt|equiv|in|to|cup|pm|mod|pmod)(?![A-Za-z])|[<>!:]=?")
_LETTER = re.compile(r"\(?\s*([A-Za-z])\s*\)?")
_HAZARDS = re.compile(
    r"\^\s*[({]?\s*[+-]?\s*\d{5,}"  # an exponent of five digits or more
    r"|\^\s*[({]?[^{}()^]{0,12}\^\s*[({]?[^{}()^]{0,12}\^"  # a tower of three
    r"|\d{5,}\s*!|[)}!]\s*!"  # the factorial of something large, or of a factorial
    r"|\\(?:sum|prod|int|zeta|binom)(?![A-Za-z]).{0,80}?(?:\d{6,}|\d\d\s*\^)"  # a sum of a great many terms
    r"|\b0[xX][0-9a-fA-F]{3,}|[A-Za-z]{40,}|\d{400,}"  # what a LaTeX parser would multiply out letter by letter, or choke on
)


@dataclass(frozen=True, slots=True)
class Canonical:
    """One answer, read.

    `key`: equal keys are equal answers. `value`: the exact number, or None. `name`: the left side of `x = 5`.
    `unit`: canonical unit, "%" or "base 3". `decimals`: digits after the point of a plain decimal, or None.
    `comma`: the value if `3,14` was meant as a decimal, or None. `body`: tidy LaTeX for a solver. `hazard`: too large,
    too deep or too long to be given to one.
    """

    key: str
    body: str
    value: Fraction | None = None
    name: str = ""
    unit: str = ""
    decimals: int | None = None
    comma: Fraction | None = None
    hazard: bool = False


def canonical_key(answer: str) -> str:
    r"""The canonical key of an answer; "" for an empty one.

    Numbers become an exact integer or reduced fraction (`1{,}000` -> `1000`, `2\frac13` -> `7/3`, `2.50` -> `5/2`) with
    their name and unit where they have one (`x=5`, `50 %`); anything else its LaTeX in one spelling. Never raises on a str.
    """
    return canonical(answer).key


def canonical(answer: str) -> Canonical:
    """The answer read into its parts. Bounded: text beyond MAX_KEY_CHARS is keyed by a hash and marked a hazard."""
    return _canonical_cached(answer) if len(answer) <= MAX_CACHED_CHARS else _canonical(answer)


def _canonical(answer: str) -> Canonical:
    text = undress(clean_unicode(answer)) if len(answer) <= 16 * MAX_KEY_CHARS else answer.strip()
    if not text:
        return Canonical("", "")
    if len(text) > MAX_KEY_CHARS:
        return _too_much(text)
    text = tidy(text)
    try:
        return _read(text)
    except TooLargeError:
        return Canonical(squeeze(text), text, hazard=True)


_canonical_cached = lru_cache(maxsize=16_384)(_canonical)  # of short texts only, so that its size is bounded in bytes


def _too_much(text: str) -> Canonical:
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return Canonical(f"long:{digest}", "", hazard=True)


def _read(text: str) -> Canonical:
    hazard = nesting(text) > MAX_NESTING or _HAZARDS.search(text) is not None
    name, right = _split_name(text)
    number, unit = split_unit(right)
    based = _BASED.fullmatch(number)
    if based:
        number, unit = based[1], f"base {int(based[2])}"
    value = _number(number)
    if value is not None:
        decimals = len(number.partition(".")[2]) if "." in number and _PLAIN.fullmatch(number) else None
        return Canonical(_numeric_key(value, name, unit), text, value, name, unit, decimals)
    letter = _LETTER.fullmatch(right)
    if letter:
        right = letter[1]
    key = f"{name}={squeeze(right)}" if name else squeeze(right)
    return Canonical(key, text, name=name, comma=_comma(number), hazard=hazard)


def _numeric_key(value: Fraction, name: str, unit: str) -> str:
    return (f"{name}=" if name else "") + str(value) + (f" {unit}" if unit else "")


def _split_name(text: str) -> tuple[str, str]:
    """`x = ... = 5` as ("x", "5"), `2+3 = 5` as ("", "5"); text that is no such chain comes back whole."""
    text = _APPROXIMATION.split(text)[0].strip() or text
    left, equals, _ = text.partition("=")
    if not equals or _RELATION.search(text):
        return "", text
    sides = [side.strip() for side in text.split("=")]
    left, right = sides[0], sides[-1]
    if not right or "," in left or "," in "".join(sides[1:-1]) or re.search(r",(?!\d{3}(?!\d))", right):
        return "", text
    if _NAME.fullmatch(left):
        return left, right
    return ("", right) if _number(left) is not None else ("", text)


def _number(text: str) -> Fraction | None:
    text = text.strip()
    plain = _PLAIN.fullmatch(text)
    if plain and any(c.isdigit() for c in text):
        whole = plain[2].replace(",", "").replace(" ", "")
        if len(plain[2]) > len(whole) and whole.startswith("0"):
            return None
        return _signed(plain[1], literal(whole + (plain[3] or "")))
    scientific = _SCIENTIFIC.fullmatch(text)
    if scientific:
        exponent = int(scientific[3])
        if abs(exponent) > MAX_DIGITS - len(scientific[2]):
            raise TooLargeError
        return _signed(scientific[1], literal(scientific[2]) * Fraction(10) ** exponent)
    mixed = _MIXED.fullmatch(text)
    if mixed and 0 < int(mixed[3]) < int(mixed[4]):
        return _signed(mixed[1], int(mixed[2]) + Fraction(int(mixed[3]), int(mixed[4])))
    return evaluate(text)


def _comma(text: str) -> Fraction | None:
    match = _DECIMAL_COMMA.fullmatch(text.strip())
    return _signed(match[1], literal(f"{match[2]}.{match[3]}")) if match else None


def _signed(sign: str, value: Fraction) -> Fraction:
    return -value if sign == "-" else value
