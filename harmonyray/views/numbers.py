"""The numbers that a text states in digits, compared by value. Plain text functions, linear in the text."""

from __future__ import annotations

import re
import unicodedata

_GROUPED = re.compile(r"(?<=\d)(?:\{,\}|\\,|\\!|,\\!)(?=\d{3}(?!\d))")  # LaTeX spellings of the comma in 1,000
_NUMBER = re.compile(r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+")


def numbers(text: str) -> frozenset[str]:
    """The distinct numbers written in digits, by value: `1,000`, `1{,}000` and `1000.0` are one number.

    Signs do not count (most are operators), the two parts of a fraction count apart, and spelled-out numbers are words.
    """
    return frozenset(_value(match) for match in _NUMBER.findall(_GROUPED.sub(",", text)))


def kept_share(question: str, rewording: str) -> float | None:
    """The share of the question's distinct numbers that the rewording states too, in [0, 1]; None if there are none to keep."""
    wanted = numbers(question)
    return len(wanted & numbers(rewording)) / len(wanted) if wanted else None


def _value(number: str) -> str:
    if not number.isascii():
        number = "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in number)
    whole, _, decimals = number.replace(",", "").partition(".")
    decimals = decimals.rstrip("0")
    return (whole.lstrip("0") or "0") + (f".{decimals}" if decimals else "")
