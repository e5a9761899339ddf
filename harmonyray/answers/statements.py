r"""Answers that say more than a value, cut down to it: `x \approx 3`, `2a, where a > 0`, `x = 1 \text{ or } x = 2`, `5 = y`.

Works on tidy text and only on its outside; what a number or a unit is, is not decided here.
"""

from __future__ import annotations

import re

NAME = re.compile(r"\\?[A-Za-z]+(?:_(?:\{[A-Za-z0-9]{1,8}\}|[A-Za-z0-9]))?'?(?:\([A-Za-z0-9]{1,3}\))?")
NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d+)?|\.\d+)(?:/\d+)?|[+-]?\\frac\{\d+\}\{\d+\}")

_APPROXIMATION = re.compile(r"\\approx(?![A-Za-z])|\\simeq(?![A-Za-z])|≈")
_ABOUT = re.compile(r"\A(?:approximately|approx\.?|about|roughly|around)\s+(?=[-+$\\]{0,2}[\d.])", re.IGNORECASE)
_CLAUSE = re.compile(r"[,;]?\s+\(?\s*(?:where|since|because)\s+\S+\s+\S.*$", re.IGNORECASE)
_OR = re.compile(r"\s*[,;]?\s*(?:\\(?:text|mbox|mathrm)\s*\{\s*(?:or|and)\s*\}|(?<![A-Za-z\\])(?:or|and)(?![A-Za-z]))\s*")
_OR_COMMA = re.compile(rf"{_OR.pattern}|\s*[,;]\s*")
_DOTS = re.compile(r"(\d\.\d+)\s*(?:\.{2,}|…|\\[lc]?dots)$")
_OTHER_RELATION = re.compile(r"\\(?:le|ge|neq|ne|lt|gt|equiv|in|to|cup|pm|mod|pmod)(?![A-Za-z])|[<>:]|!=")


def cut_down(text: str) -> str:
    r"""`text` without approximate values and explanations, alternatives as a list.

    `x \approx 3` is `x=3`; of `\sqrt{10} \approx 3.16` the left side stays; `about 14` is `14`, `2.236...` is `2.236`. What
    follows `where`, `since` or `because` goes. `x=1 \text{ or } x=2` and `1 or 2` are `1, 2` (the names must be the same one).
    """
    text = _ABOUT.sub("", text, count=1) if text[:1] in "aArR" else text
    text = _without_approximation(text)
    if text.endswith(("..", "dots")):
        text = _DOTS.sub(r"\1", text)
    if "where" in text or "since" in text or "because" in text:
        text = _CLAUSE.sub("", text) or text
    return _alternatives(text)


def split_name(text: str) -> tuple[str, str]:
    """`x = ... = 5` as ("x", "5"), `2+3 = 5` as ("", "5") if the left side is arithmetic; other text comes back whole."""
    left, equals, _ = text.partition("=")
    if not equals or _OTHER_RELATION.search(text):
        return "", text
    sides = [side.strip() for side in text.split("=")]
    left, right = sides[0], sides[-1]
    if not right or "," in left or "," in "".join(sides[1:-1]) or re.search(r",(?!\d{3}(?!\d))", right):
        return "", text
    if NAME.fullmatch(left):
        return left, right
    return ("=", right) if not re.search(r"(?<!\\)[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", left)) else ("", text)


def _without_approximation(text: str) -> str:
    parts = [part.strip() for part in _APPROXIMATION.split(text)]
    if len(parts) == 1:
        return text
    if NAME.fullmatch(parts[0]):
        return f"{parts[0]}={parts[1]}" if parts[1] else parts[0]
    return parts[0] or parts[1] or text


def _alternatives(text: str) -> str:
    if not _OR_COMMA.search(text) or len(text) > 400:
        return text
    plain = "(" not in text and "[" not in text and "\\{" not in text
    parts = (_OR_COMMA if plain and "=" in text else _OR).split(text)
    named = [part.partition("=") for part in parts]
    names = {name.strip() for name, equals, _ in named if equals}
    values = [(right if equals else name).strip() for name, equals, right in named]
    if len(parts) < 2 or len(names) > 1 or not all(values) or any("=" in value for value in values):
        return text
    if any(_OTHER_RELATION.search(value) for value in values) or (names and not NAME.fullmatch(next(iter(names)))):
        return text
    bare = [value for value, (_, equals, _) in zip(values, named, strict=True) if not equals]
    if (names and not named[0][1]) or not all(NUMBER.fullmatch(value) for value in bare):
        return text
    return ", ".join(values)
