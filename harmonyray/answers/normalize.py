"""Answers to canonical keys: equal keys are equal answers. Exact (int and Fraction), bounded, and free of any solver.

What keys cannot decide is left to `equivalence`; nothing here imports math_verify.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from harmonyray.answers.arithmetic import MAX_DIGITS, TooLargeError, evaluate, is_undefined, literal
from harmonyray.answers.latex import clean_unicode, nesting, squeeze, tidy, undress
from harmonyray.answers.statements import cut_down, split_name
from harmonyray.answers.units import FACTORS, is_known, measured, split_unit

MAX_KEY_CHARS = 4000
MAX_NESTING = 30
MAX_CACHED_CHARS = 1000

_INTEGER = r"\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+|\d+"
_PLAIN = re.compile(rf"([+-]?)\s*((?:{_INTEGER})?)(\.\d*)?")
_SCIENTIFIC = re.compile(r"([+-]?)(\d+\.?\d*|\.\d+)[eE]([+-]?\d{1,9})")
# a comma and then two digits, or four and more; three are a thousand's separator, and one may as well be a list
_DECIMAL_COMMA = re.compile(r"([+-]?)(\d+),(\d\d|\d{4,30})")
_SHORT_COMMA = re.compile(r"([+-]?)(\d+),(\d)")  # a decimal only before a unit: `1,5 kg`
_EUROPEAN = re.compile(r"([+-]?)(\d{1,3}(?:\.\d{3})+),(\d{1,30})")
_REPEATING = re.compile(r"([+-]?)(\d{0,30})\.(\d{0,30})\\(?:overline|bar|dot)(?:\{(\d{1,30})\}|(\d))")
_SCALED = re.compile(
    r"(.*\d)\s*(?:\\(?:text|mbox|mathrm)\s*\{\s*)?(hundred|thousand|million|billion|trillion)\s*\}?", re.IGNORECASE
)
_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_MIXED = re.compile(r"([+-]?)\s*(\d{1,30}) (\d{1,30})\s*/\s*(\d{1,30})")
_BASED = re.compile(r"([+-]?\d{1,200})_\{?(\d{1,2})\}?")
_DATE = re.compile(r"\d{1,30}/\d{1,30}/\d{1,30}")
_LETTER = re.compile(r"\(?\s*([A-Za-z])\s*\)?")
_NO_PROSE = re.compile(r"\\(?:text|mbox|textbf|textit|textrm|mathrm|mathbf|operatorname)\s*\{[^{}]*\}|\\[A-Za-z]+")
_CONTENT = re.compile(r"[^\W_]|\\[a-zA-Z{]")  # a letter, a digit, a command: `___` and `?` are no mathematics
_LONG_WORD = re.compile(r"[^\W\d_]{3,}")
_MIN_SENTENCE_WORDS = 3
_BARE_EXPONENT = r"\^\s*[+-]?(?:\d+|[A-Za-z])\s*"
_OPEN_EXPONENT = r"\^\s*[({][^{}()^]{0,12}"
_HAZARDS = re.compile(
    r"\^\s*[({]?\s*[+-]?\s*\d{5,}"  # an exponent of five digits or more
    rf"|(?:{_BARE_EXPONENT}|{_OPEN_EXPONENT})(?:{_BARE_EXPONENT}|{_OPEN_EXPONENT})\^"  # a tower of three
    r"|\d{5,}\s*!|!\s*!|\([^()A-Za-z]{0,60}\d[^()A-Za-z]{0,60}\)\s*!"  # the factorial of something large, or of a factorial
    r"|\{[^{}A-Za-z]{0,60}\d[^{}A-Za-z]{0,60}\}\s*!"
    r"|\\(?:sum|prod|int|zeta|binom)(?![A-Za-z]).{0,80}?(?:\d{6,}|\d\d\s*\^)"  # a sum of a great many terms
    r"|\b0[xX][0-9a-fA-F]{3,}|[A-Za-z]{40,}|\d{400,}"  # what a LaTeX parser would multiply out letter by letter, or choke on
)


@dataclass(frozen=True, slots=True)
class Canonical:
    """One answer, read.

    `key`: equal keys are equal answers. `value`: the exact number, or None. `name`: the left side of `x = 5`.
    `unit`: one name for a unit or thing, "%" or "base 3". `decimals`: digits after the point of a plain decimal, or None.
    `body`: tidy LaTeX for a solver. `formula`: the right side without its unit. `measured`: (value, unit) of `5 m`, where m
    may be a variable as well. `literal`: equal to nothing but its own text (a sentence, a date, `0/0`). `hazard`: too large,
    too deep or too long to be given to a solver.
    """

    key: str
    body: str
    value: Fraction | None = None
    name: str = ""
    unit: str = ""
    decimals: int | None = None
    formula: str = ""
    measured: tuple[Fraction, str] | None = None
    literal: bool = False
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
    text = cut_down(text)
    name, right = split_name(text)
    if name == "=":  # arithmetic and its result
        name, right = ("", right) if _number(text.partition("=")[0].strip()) is not None else ("", text)
    number, unit = split_unit(right)
    based = _BASED.fullmatch(number)
    if based:
        number, unit = based[1], f"base {int(based[2])}"
    value = _number(number)
    if value is None and unit:
        value = _comma(_SHORT_COMMA, number)
    if value is not None:
        decimals = len(number.partition(".")[2]) if "." in number and _PLAIN.fullmatch(number) else None
        spelled = _spelled(value, number, decimals)
        body = text if based or unit in FACTORS or not (unit and spelled) else f"{name}={spelled}" if name else spelled
        return Canonical(_numeric_key(value, name, unit), body, value, name, unit, decimals, spelled)
    letter = _LETTER.fullmatch(right)
    if letter:
        right = letter[1]
    key = f"{name}={squeeze(right)}" if name else squeeze(right)
    literal = _says_nothing_but_itself(text, number)
    hazard = nesting(text) > MAX_NESTING or _HAZARDS.search(text) is not None
    if not unit or not is_known(unit) or unit in FACTORS:
        return Canonical(key, text, None, name, "", None, "" if unit else number, _measured(right), literal, hazard)
    body = f"{name}={number}" if name else number
    return Canonical(key, body, None, name, unit, None, number, None, literal, hazard)


def _spelled(value: Fraction, number: str, decimals: int | None) -> str:
    """A number for `probe`: a decimal as it stands (its digits may be rounded), anything else exactly."""
    return number.replace(" ", "") if decimals is not None else str(value) if len(number) < MAX_CACHED_CHARS else ""


def _measured(text: str) -> tuple[Fraction, str] | None:
    found = measured(text)
    value = _number(found[0]) if found else None
    return (value, found[1]) if found and value is not None else None


def _says_nothing_but_itself(text: str, number: str) -> bool:
    if not _CONTENT.search(text) or _DATE.fullmatch(number) or (("/" in number or "\\frac" in number) and is_undefined(number)):
        return True
    return "=" not in text and len(_LONG_WORD.findall(_NO_PROSE.sub(" ", text))) >= _MIN_SENTENCE_WORDS


def _numeric_key(value: Fraction, name: str, unit: str) -> str:
    return (f"{name}=" if name else "") + str(value) + (f" {unit}" if unit else "")


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
    if _DATE.fullmatch(text):
        return None
    return _unusual(text) if "," in text or "\\" in text or text[-1:].isalpha() or text[-1:] == "}" else evaluate(text)


def _unusual(text: str) -> Fraction | None:
    r"""Numbers in other spellings: `3,14`, `1.234,50`, `0.\overline{3}`, `1.5 million`."""
    value = _comma(_DECIMAL_COMMA, text)
    if value is not None:
        return value
    european = _EUROPEAN.fullmatch(text)
    if european:
        return _signed(european[1], literal(f"{european[2].replace('.', '')}.{european[3]}"))
    repeating = _REPEATING.fullmatch(text)
    if repeating:
        whole, places, period = repeating[2] or "0", len(repeating[3]), repeating[4] or repeating[5]
        tail = Fraction(int(period), 10**places * (10 ** len(period) - 1))
        return _signed(repeating[1], literal(f"{whole}.{repeating[3]}") + tail)
    scaled = _SCALED.fullmatch(text)
    if scaled:
        value = _number(scaled[1])
        return None if value is None else value * 10 ** _SCALES[scaled[2].lower()]
    return evaluate(text)


def _comma(pattern: re.Pattern[str], text: str) -> Fraction | None:
    match = pattern.fullmatch(text.strip())
    return _signed(match[1], literal(f"{match[2]}.{match[3]}")) if match else None


def _signed(sign: str, value: Fraction) -> Fraction:
    return -value if sign == "-" else value
