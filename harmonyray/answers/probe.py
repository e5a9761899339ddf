r"""A formula's value at one fixed point, in floats: enough to tell apart what is plainly different, never to call it equal.

Reads only what cannot be read in two ways: numbers, letters (`a`, `a_1`, `\alpha`, `π`), `+ - * / ^`, brackets, `\frac`, `\sqrt`,
sines, logarithms of a written base, infinities, and factors side by side. A letter before a bracket is taken as a factor: what
holds for every function holds for the linear one.
"""

from __future__ import annotations

import math
import re
import zlib
from functools import lru_cache
from typing import NamedTuple

from harmonyray.answers.normalize import MAX_CACHED_CHARS

_MAX_TOKENS = 400
_MAX_DEPTH = 30
_LARGEST = 1e200
_CANCELLED = 1e-5  # of the largest term: below this, a result may be what rounding has left over
_CLEARLY = 1e-3  # relative; above what four rounded digits can cause
_CERTAINLY = 1e-6  # relative; between formulas without a decimal in them, which nobody rounds
_GREEK = "alpha beta gamma delta epsilon varepsilon zeta eta theta kappa lambda mu nu xi rho sigma tau phi varphi chi psi omega"
_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)|(?P<operator>\\(?:cdot|times|div)(?![A-Za-z])|[-+*/^])"
    rf"|(?P<command>\\(?:frac|sqrt|sin|cos|tan|ln|log|pi|{_GREEK.replace(' ', '|')})(?![A-Za-z]))|(?P<bracket>[()\[\]{{}}])"
    r"|(?P<word>[^\W\d_]+))"
)
_INFINITE = re.compile(r"([+-]?)\s*(?:\\infty|oo|[Ii]nf(?:inity)?)")
_SUBSCRIPT = re.compile(r"_(?:\{([A-Za-z0-9]{1,4})\}|([A-Za-z0-9]))")
_NAMES = {"sin", "cos", "tan", "cot", "sec", "csc", "log", "ln", "lg", "exp", "max", "min", "gcd", "lcm", "mod", "det", "arg",
          "deg", "inf", "oo", "lim", "or", "and", "if", "to", "in", "is", "of", "no", "nan", "pm", "dx", "dy", "dt"}  # fmt: skip
_FUNCTIONS = {"\\sin": math.sin, "\\cos": math.cos, "\\tan": math.tan, "\\ln": math.log}
_BASE = re.compile(r"_(?:\{(\d{1,4})\}|(\d))\s*")
_OPERATORS = {"\\cdot": "*", "\\times": "*", "\\div": "/"}
_CLOSING = {"(": ")", "{": "}", "[": "]"}


class Probe(NamedTuple):
    """`value` at the point; `exact`: whether no decimal is part of the formula."""

    value: float
    exact: bool


class _UnreadError(Exception):
    """Not a formula of the plain kind, or one without a (certain) value."""


def plainly_differ(a: str, b: str) -> bool:
    """Whether two formulas have values so far apart that they cannot be equal. False if either is not of the plain kind."""
    left = probe(a)
    right = probe(b) if left is not None else None
    if left is None or right is None:
        return False
    if math.inf in (abs(left.value), abs(right.value)):
        return left.value != right.value
    tolerance = _CERTAINLY if left.exact and right.exact else _CLEARLY
    return abs(left.value - right.value) > tolerance * max(abs(left.value), abs(right.value))


def probe(text: str) -> Probe | None:
    """The value of tidy `text` with every letter at a positive number that depends on its name alone; None if it has none."""
    return _cached(text) if len(text) <= MAX_CACHED_CHARS else None


@lru_cache(maxsize=16_384)
def _cached(text: str) -> Probe | None:
    infinite = _INFINITE.fullmatch(text)
    if infinite:
        return Probe(-math.inf if infinite[1] == "-" else math.inf, True)
    try:
        parser = _Parser(_tokens(text))
        value = parser.sum(0)
        if parser.at != len(parser.tokens) or (abs(value) <= _CANCELLED * parser.largest and parser.at > 1):
            return None
    except (_UnreadError, ZeroDivisionError, OverflowError):
        return None
    return Probe(value, "." not in text)


def _tokens(text: str) -> list[tuple[str, str]]:
    """(kind, token) of `text`; a kind is a number, name, root, fraction, or the operator or bracket itself."""
    tokens: list[tuple[str, str]] = []
    at, text = 0, text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None or len(tokens) > _MAX_TOKENS:
            raise _UnreadError
        at = match.end()
        kind, token = str(match.lastgroup), match[str(match.lastgroup)]
        if kind == "operator" or kind == "bracket":
            token = _OPERATORS.get(token, token)
            tokens.append((token, token))
        elif token in ("\\frac", "\\sqrt"):
            tokens.append((token, token))
        elif token in _FUNCTIONS or token == "\\log":
            base = _BASE.match(text, at) if token == "\\log" else None
            if token == "\\log" and base is None:  # of base e to some and 10 to others
                raise _UnreadError
            at = base.end() if base else at
            tokens.append(("function", (base[1] or base[2]) if base else token))
        elif kind == "number":
            tokens.append(("number", token))
        else:
            subscript = _SUBSCRIPT.match(text, at)
            at = subscript.end() if subscript else at
            tokens += _names(token, (subscript[1] or subscript[2]) if subscript else "")
    return tokens


def _names(token: str, subscript: str) -> list[tuple[str, str]]:
    """A command or a run of letters, the last of which has the subscript, as names."""
    if token in ("\\pi", "π", "pi"):
        return [("name", "pi")]
    if token.startswith("\\"):
        return [("name", f"{token}_{subscript}")]
    if len(token) > 3 or token.casefold() in _NAMES or "i" in token:  # i is a letter to some and a number to others
        raise _UnreadError
    return [("name", letter) for letter in token[:-1]] + [("name", f"{token[-1]}_{subscript}" if subscript else token[-1])]


def _at(name: str) -> float:
    """A number in [1/2, 3/2) for a name; e and pi are themselves."""
    if name in ("pi", "e"):
        return math.pi if name == "pi" else math.e
    return 0.5 + zlib.crc32(name.encode()) % 1009 / 1010


class _Parser:
    """Recursive descent, one method per precedence. `largest`: the largest absolute value on the way."""

    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self.tokens = tokens
        self.at = 0
        self.largest = 0.0

    def peek(self) -> str:
        return self.tokens[self.at][0] if self.at < len(self.tokens) else ""

    def noted(self, value: float) -> float:
        if not abs(value) < _LARGEST:
            raise _UnreadError
        self.largest = max(self.largest, abs(value))
        return value

    def sum(self, depth: int) -> float:
        value = self.product(depth)
        while self.peek() in ("+", "-"):
            sign = 1 if self.peek() == "+" else -1
            self.at += 1
            value = self.noted(value + sign * self.product(depth))
        return value

    def product(self, depth: int) -> float:
        value = self.signed(depth)
        divided = False
        while True:
            token = self.peek()
            if token in ("*", "/"):
                self.at += 1
                factor = self.signed(depth)
                value = self.noted(value * factor if token == "*" else value / factor)
                divided = token == "/"
            elif token in ("name", "(", "[", "\\sqrt", "\\frac", "function") or (token == "{" and self.at > 0):
                if divided or (token == "\\frac" and self.tokens[self.at - 1][0] == "number"):
                    raise _UnreadError  # 1/2x, and 2\\frac{1}{3}, which may be a mixed number
                value = self.noted(value * self.power(depth))
            else:
                return value

    def signed(self, depth: int) -> float:
        sign = 1
        while self.peek() in ("+", "-"):
            sign = sign if self.peek() == "+" else -sign
            self.at += 1
        return sign * self.power(depth)

    def power(self, depth: int) -> float:
        base = self.atom(depth)
        if self.peek() != "^":
            return base
        self.at += 1
        named = self.peek() == "name"
        exponent = self.signed(depth + 1) if self.peek() == "-" else self.atom(depth + 1)
        if self.peek() == "^" or (named and self.peek() == "name") or (base < 0 and exponent != int(exponent)):
            raise _UnreadError
        return self.noted(float(base**exponent))

    def atom(self, depth: int) -> float:
        if depth > _MAX_DEPTH:
            raise _UnreadError
        kind = self.peek()
        if kind in _CLOSING:
            return self.group(depth, kind)
        token = self.tokens[self.at][1] if kind else ""
        self.at += 1
        if kind == "number":
            return self.noted(float(token.replace(",", "")))
        if kind == "name":
            return self.noted(_at(token))
        if kind == "\\frac":
            return self.noted(self.group(depth, "{") / self.group(depth, "{"))
        if kind == "function":
            return self.noted(self.function(token, depth))
        if kind == "\\sqrt":
            root = self.group(depth, "[") if self.peek() == "[" else 2.0
            value = self.group(depth, "{")
            if value < 0 or root <= 0:
                raise _UnreadError
            return self.noted(value ** (1 / root))
        raise _UnreadError

    def function(self, name: str, depth: int) -> float:
        """A function of what is in brackets behind it, or of one number with nothing behind."""
        kind = self.peek()
        bare = kind == "number" and (self.at + 1 == len(self.tokens) or self.tokens[self.at + 1][0] in ("+", "-", ")", "}"))
        if kind not in ("(", "{") and not bare:
            raise _UnreadError
        value = self.atom(depth + 1)
        if self.peek() == "^":  # of the function or of its argument
            raise _UnreadError
        if name in _FUNCTIONS and name != "\\ln":
            return _FUNCTIONS[name](value)
        if value <= 0:
            raise _UnreadError
        return math.log(value) if name == "\\ln" else math.log(value) / math.log(int(name))

    def group(self, depth: int, opening: str) -> float:
        if self.peek() != opening:
            raise _UnreadError
        self.at += 1
        value = self.sum(depth + 1)
        if self.peek() != _CLOSING[opening]:
            raise _UnreadError
        self.at += 1
        return value
