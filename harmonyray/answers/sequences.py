r"""Tuples, intervals, sets, lists and matrices of plain numbers, read exactly: `(3,-4)`, `[0,\infty)`, `\{1,2\}`, `1, -1`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from harmonyray.answers.normalize import MAX_CACHED_CHARS, Canonical, canonical

_MAX_ITEMS = 64
_INFINITY = re.compile(r"([+-]?)\s*(?:\\infty|\\infin|oo|inf|infinity)")
_MATRIX = re.compile(r"\\begin\{([pb]matrix)\}(.*)\\end\{\1\}", re.DOTALL)
_OPENINGS = {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}


@dataclass(frozen=True, slots=True)
class Numbers:
    """`shape` "(,)" and the like for tuples and intervals, "set" for sets and bare lists, "2x3" for matrices; `items`
    row by row. An infinity is an item without a value, told by its key."""

    shape: str
    items: tuple[Canonical, ...]


def numbers(text: str) -> Numbers | None:
    """The numbers of tidy `text`, or None when it is anything but a flat collection of two or more plain numbers."""
    return _cached(text) if len(text) <= MAX_CACHED_CHARS else None


@lru_cache(maxsize=16_384)
def _cached(text: str) -> Numbers | None:
    matrix = _MATRIX.fullmatch(text)
    if matrix:
        rows = [row.split("&") for row in matrix[2].strip().removesuffix("\\\\").split("\\\\")]
        if any(len(row) != len(rows[0]) for row in rows):
            return None
        return _of(f"{len(rows)}x{len(rows[0])}", [item for row in rows for item in row])
    if text.startswith("\\{") and text.endswith("\\}"):
        return _of("set", _split(text[2:-2]))
    if text[:1] in ("(", "[") and text[-1:] in (")", "]"):
        return _of(f"{text[0]},{text[-1]}", _split(text[1:-1]))
    return _of("set", _split(text))


def _of(shape: str, texts: list[str]) -> Numbers | None:
    items = []
    for text in texts if 2 <= len(texts) <= _MAX_ITEMS else ():
        item = _item(text.strip())
        if item is None:
            return None
        items.append(item)
    return Numbers(shape, tuple(items)) if items else None


def _item(text: str) -> Canonical | None:
    infinity = _INFINITY.fullmatch(text)
    if infinity:
        sign = "-" if infinity[1] == "-" else ""
        return Canonical(f"{sign}oo", text)
    item = canonical(text)
    return item if item.value is not None and not item.name and not item.unit else None


def _split(text: str) -> list[str]:
    """`text` at its commas outside of brackets; nothing at all when the brackets do not match."""
    parts, start, depth = [], 0, 0
    for at, char in enumerate(text):
        depth += _OPENINGS.get(char, 0)
        if depth < 0:
            return []
        if char == "," and depth == 0:
            parts.append(text[start:at])
            start = at + 1
    return [*parts, text[start:]] if depth == 0 else []
