"""Units of measure and counted things after a number. They never change a value; they only tell `5 m` from `5 cm`, and
`10 apples` from `10 oranges`, when both are written."""

from __future__ import annotations

import re

PERCENT = "%"
FACTORS = (PERCENT, "deg")  # units that a formula may take for a factor

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
    ("g", "g gm gms gram grams"),
    ("kg", "kg kgs kilogram kilograms"),
    ("ml", "ml milliliter milliliters"),
    ("l", "l liter liters litre litres"),
)
_GENERIC = ("unit", "units")
_SINGLE = "mshgl"  # letters that are a unit after a number if the other answer has one, and else may be variables
_KNOWN = frozenset(unit for unit, _ in _GROUPS) | {"degC", "degF"}
_UNITS = {word: unit for unit, words in _GROUPS for word in words.split()}

# words after a number that change the value, or that join it to something else
_NOT_UNITS = re.compile(
    r"\b(?:and|or|to|by|of|over|times|plus|minus|mod|pi|sqrt|sin|cos|tan|log|ln|exp|infinity|million|billion|trillion|thousand"
    r"|hundred|dozen|half|third|quarter|if|when|for|where|factorial|squared|cubed|is|not|e|i|remainder)\b"
)

_CURRENCY = re.compile(r"^([+-]?)\s*(?:([$€£¥₹])|(?:usd|Rs\.?)\s)\s*(?=[\d.+-])", re.IGNORECASE)
_TEXT = r"\\(?:text|mbox|textbf|textit|textrm|textnormal|mathrm|mathbf|hbox)"
_POWER = r"(?:\s*\^\s*\{?\s*(-?\d)\s*\}?)?"
_LATEX_UNIT = re.compile(rf"(?<=[\d)}}])\s*{_TEXT}\s*\{{\s*([^{{}}]*?)\s*\}}{_POWER}\s*$")
_PLAIN_UNIT = re.compile(
    r"(?<=[\d)}])\s*((?:(?:square|sq|cubic|cu)\.? )?[A-Za-z]{1,20}(?: (?:celsius|fahrenheit))?)"
    rf"(?:\s*(?:/|\bper\b)\s*([A-Za-z]{{1,20}}))?{_POWER}\s*$",
    re.IGNORECASE,
)
_PER = re.compile(r"(?<=[\d)}])\s*\bper\s+(?:an? )?([A-Za-z]{1,20})\s*$")
_DEGREES = rf"\^\s*\{{?\s*\\circ\s*\}}?\s*(?:{_TEXT}\s*\{{\s*([CF])\s*\}}|([CF]))?"
_SYMBOL_UNIT = re.compile(rf"\s*(%|{_DEGREES}|\\degree|\\circ|€|£|¢|\$)\s*$")
_NAMED = re.compile(
    r"(?:(square|sq|cubic|cu)\.?\s+)?([a-z]+)\.?(?:\s+(celsius|fahrenheit|c|f))?(?:\s*(?:/|\bper\b)\s*([a-z]+)\.?)?(?:\s*\^\s*(\d))?"
)
_MEASURED = re.compile(rf"(.*[\d)}}])\s*([{_SINGLE}L]){_POWER}")
_ORDINAL = re.compile(r"([+-]?\d+)\s*(?:\^\s*\{?\s*)?(?:\\(?:text|mathrm|textrm)\s*\{\s*)?(?:st|nd|rd|th)[\s}]*")
ORDINAL = "th"


def split_unit(text: str) -> tuple[str, str]:
    r"""`(number part, unit)` of tidy text such as `12\text{ inches}`, `$5`, `50%`, `90^\circ`, `47 feet`, `0.5 m/s`, `4th`.

    The unit has one name, with its power (`cm^2`) and scale (`degF`); a word outside the table is its own name in the
    singular (`7 apples`), several words have none. It is "" when there is none. Text without a unit comes back unchanged.
    """
    unit = ""
    match = _CURRENCY.match(text)
    if match:
        text, unit = match[1] + text[match.end() :], match[2] or "$"
    match = _SYMBOL_UNIT.search(text)
    if match and match.start() > 0:
        symbol = match[1]
        found = symbol if symbol in "%€£¢$" else "deg" + (match[2] or match[3] or "")
        return text[: match.start()].rstrip(), unit or found
    match = _ORDINAL.fullmatch(text)
    if match:
        return match[1], unit or ORDINAL
    match = _LATEX_UNIT.search(text)
    if match:
        return (text[: match.start()].rstrip(), unit or _name(match[1], match[2])) if _is_unit(match[1]) else (text, unit)
    match = _PER.search(text)
    if match:
        return text[: match.start()].rstrip(), unit or f"/{_one(match[1].lower())}"
    match = _PLAIN_UNIT.search(text)
    if match and _is_unit(match[1]) and _is_word(match):
        words = f"{match[1]}/{match[2]}" if match[2] else match[1]
        return text[: match.start()].rstrip(), unit or _name(words, match[3])
    return text, unit


def measured(text: str) -> tuple[str, str] | None:
    """`5 m` or `5m^2` as (number part, unit), if one letter after the number may be a unit; else None."""
    match = _MEASURED.fullmatch(text)
    return (match[1], _power(_UNITS[match[2].lower()], match[3])) if match else None


def same_unit(a: str, b: str) -> bool:
    """Whether two units may be the same: one is missing, or both are the same; a bare degree is any degree."""
    return not a or not b or a == b or ORDINAL in (a, b) or ("deg" in (a, b) and a[:3] == b[:3])


def is_known(unit: str) -> bool:
    """Whether a unit is one of the table's, or made of them, rather than a counted thing."""
    return all(part in _KNOWN for part in unit.partition("^")[0].split("/"))


def _is_word(match: re.Match[str]) -> bool:
    """Whether letters after a number are a word: one (`2m`) are more often a variable, two (`2ab`) or three without a space
    mostly are, unless in the table."""
    word = match[1]
    if word in _UNITS:
        return len(word) > 1 or match[2] is not None
    return len(word) > 3 or (len(word) > 2 and match[0][0] == " ")


def _is_unit(words: str) -> bool:
    words = words.lower()
    return len(words.split()) <= 4 and not _NOT_UNITS.search(words) and not any(c.isdigit() for c in words)


def _name(words: str, power: str | None) -> str:
    match = _NAMED.fullmatch(words.lower().strip())
    if match is None:
        return ""
    area, word, scale, per, inner = match.groups()
    if scale:
        return f"deg{scale[0].upper()}" if _UNITS.get(word) == "deg" else ""
    name = _one(word) + (f"/{_one(per)}" if per else "")
    if area:
        power = "2" if area.startswith("s") else "3"
    return _power(name, power or inner) if name.strip("/") else ""


def _one(word: str) -> str:
    """The unit of one word: its name in the table, else the word in the singular; "" for `units`."""
    if word in _UNITS or word in _GENERIC:
        return _UNITS.get(word, "")
    for ending, singular in (("ies", "y"), ("xes", "x"), ("ches", "ch"), ("shes", "sh"), ("sses", "ss"), ("ss", "ss"), ("s", "")):
        if len(word) > 3 and word.endswith(ending):
            return word.removesuffix(ending) + singular
    return word


def _power(name: str, power: str | None) -> str:
    return f"{name}^{power}" if power and power != "1" else name
