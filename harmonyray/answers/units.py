"""Units of measure after a number. A unit never changes a value; it only tells `5 m` from `5 cm` when both are written."""

from __future__ import annotations

import re

PERCENT = "%"

_GROUPS = (
    ("%", "percent percentage pct"),
    ("deg", "degree degrees deg"),
    ("rad", "radian radians rad"),
    ("$", "dollar dollars usd bucks"),
    ("¢", "cent cents"),
    ("€", "euro euros eur"),
    ("£", "pound pounds gbp lb lbs"),
    ("mm", "mm millimeter millimeters millimetre millimetres"),
    ("cm", "cm centimeter centimeters centimetre centimetres"),
    ("m", "m meter meters metre metres"),
    ("km", "km kilometer kilometers kilometre kilometres"),
    ("in", "in inch inches"),
    ("ft", "ft foot feet"),
    ("yd", "yd yard yards"),
    ("mi", "mi mile miles"),
    ("s", "s sec second seconds"),
    ("min", "min mins minute minutes"),
    ("h", "h hr hrs hour hours"),
    ("d", "day days"),
    ("wk", "week weeks"),
    ("mo", "month months"),
    ("yr", "yr year years"),
    ("g", "g gram grams"),
    ("kg", "kg kilogram kilograms"),
    ("ml", "ml milliliter milliliters"),
    ("l", "l liter liters litre litres"),
)
_UNITS = {word: unit for unit, words in _GROUPS for word in words.split()}

# words after a number that change the value, or that join it to something else
_NOT_UNITS = re.compile(
    r"\b(?:and|or|to|by|of|over|times|plus|minus|mod|pi|sqrt|sin|cos|tan|log|ln|exp|infinity|million|billion|trillion|thousand"
    r"|hundred|dozen|half|third|quarter|if|when|for|where|factorial|squared|cubed|is|not|e|i|remainder)\b"
)

_CURRENCY = re.compile(r"^([+-]?)\s*(?:([$€£¥₹])|(?:usd|Rs\.?)\s)\s*(?=[\d.+-])", re.IGNORECASE)
_WRITTEN = r"\s*\\(?:text|mbox|textbf|textit|textrm|textnormal|mathrm|mathbf|hbox)\s*\{\s*([^{}]*?)\s*\}"
_POWER = r"(?:\s*\^\s*\{?\s*-?\d\s*\}?)?"
_LATEX_UNIT = re.compile(rf"(?<=[\d)}}]){_WRITTEN}{_POWER}\s*$|(?<=[\d)}}])\s*{_WRITTEN}{_POWER}\s*$")
_PLAIN_UNIT = re.compile(rf"(?<=[\d)}}])\s*(?:\b|(?<=\d))([A-Za-z]{{1,20}})(?:\s*(?:/|per)\s*[A-Za-z]{{1,20}})?{_POWER}\s*$")
_SYMBOL_UNIT = re.compile(r"\s*(%|\^\s*\{?\s*\\circ\s*\}?\s*([CF]?)|\\degree|\\circ|€|£|¢|\$)\s*$")
_WORDS = re.compile(r"[A-Za-z]+")


def split_unit(text: str) -> tuple[str, str]:
    r"""`(number part, unit)` of tidy text such as `12\text{ inches}`, `$5`, `50%`, `90^\circ`, `47 feet`, `0.5 m/s`.

    The unit is a canonical name, or "" when there is none or when it is a word outside the table (`7 apples`, dropped
    too: a counted thing is not part of the number). Text without a unit comes back unchanged.
    """
    unit = ""
    match = _CURRENCY.match(text)
    if match:
        text, unit = match[1] + text[match.end() :], match[2] or "$"
    match = _SYMBOL_UNIT.search(text)
    if match and match.start() > 0:
        symbol = match[1]
        found = symbol if symbol in "%€£¢$" else "deg"
        return text[: match.start()].rstrip(), unit or found
    match = _LATEX_UNIT.search(text)
    if match:
        words = match[1] or match[2] or ""
        return (text[: match.start()].rstrip(), unit or _name(words)) if _is_unit(words) else (text, unit)
    match = _PLAIN_UNIT.search(text)
    # one letter after a number (`2m`) is more often a variable than a unit, and two mostly are unless in the table
    if match and _is_unit(match[1]) and len(match[1]) > 1 and (len(match[1]) > 2 or match[1] in _UNITS):
        return text[: match.start()].rstrip(), unit or _name(match[1])
    return text, unit


def _is_unit(words: str) -> bool:
    words = words.lower()
    return len(words.split()) <= 4 and not _NOT_UNITS.search(words) and not any(c.isdigit() for c in words)


def _name(words: str) -> str:
    found = _WORDS.findall(words.lower())
    return _UNITS.get(found[0], "") if len(found) == 1 else ""
