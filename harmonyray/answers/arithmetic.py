"""Exact arithmetic on pure numbers: integers and `fractions.Fraction`, never floats, every intermediate result capped.

Nothing symbolic lives here. Text with a letter, a relation or a list in it is not a number and yields None.
"""

from __future__ import annotations

import re
from fractions import Fraction
from math import comb, factorial, isqrt

MAX_DIGITS = 4000
MAX_BITS = 13_000  # just under MAX_DIGITS decimal digits, and under CPython's limit for printing an int
MAX_EXPONENT = 4000
MAX_FACTORIAL = 1000
MAX_DEPTH = 30
MAX_TOKENS = 2000

_TOKEN = re.compile(r"\s*(?:(\d+(?:\.\d+)?|\.\d+)|(\\(?:frac|sqrt|binom|cdot|times|div)(?![A-Za-z]))|([-+*/^!(){}]))")
_OPERATORS = {"\\cdot": "*", "\\times": "*", "\\div": "/"}
_CLOSING = {"(": ")", "{": "}"}


class TooLargeError(Exception):
    """A number past the caps: it is neither computed here nor handed to anything that would try."""


class _NotANumberError(Exception):
    """The text is not plain arithmetic."""


def evaluate(text: str) -> Fraction | None:
    r"""The exact value of plain arithmetic such as `3\cdot 10^{5}`, `2\frac{1}{3}`, `5!` or `(1+2)/7`; None if it is not that.

    Raises TooLargeError when a literal, a result or the nesting is past the caps of this module.
    """
    try:
        return _value(text)
    except ZeroDivisionError:
        return None


def is_undefined(text: str) -> bool:
    """Whether `text` is plain arithmetic that divides by zero. Raises TooLargeError as `evaluate` does."""
    try:
        _value(text)
    except ZeroDivisionError:
        return bool(_tokens(text))
    return False


def _value(text: str) -> Fraction | None:
    tokens = _tokens(text)
    if not tokens:
        return None
    parser = _Parser(tokens)
    try:
        value = parser.sum(0)
    except _NotANumberError:
        return None
    return value if parser.at == len(tokens) else None


def literal(digits: str) -> Fraction:
    """The value of an unsigned decimal literal (`12`, `1.50`, `.5`). Raises TooLargeError past MAX_DIGITS digits."""
    if len(digits) > MAX_DIGITS:
        raise TooLargeError
    whole, _, decimals = digits.partition(".")
    return Fraction(int((whole or "0") + decimals), 10 ** len(decimals))


def _tokens(text: str) -> list[str]:
    """The tokens of `text`, or none at all when it holds anything that is not arithmetic."""
    tokens: list[str] = []
    at = 0
    text = text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            return []
        token = match.group().strip()
        tokens.append(_OPERATORS.get(token, token))
        if len(tokens) > MAX_TOKENS:
            raise TooLargeError
        at = match.end()
    return tokens


def _capped(value: Fraction) -> Fraction:
    if value.numerator.bit_length() > MAX_BITS or value.denominator.bit_length() > MAX_BITS:
        raise TooLargeError
    return value


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1 or (base == 0 and exponent <= 0):
        raise _NotANumberError
    power = exponent.numerator
    if base in (0, 1, -1):
        return Fraction(base if power % 2 else base * base)
    size = max(base.numerator.bit_length(), base.denominator.bit_length())
    if abs(power) > MAX_EXPONENT or abs(power) * size > 2 * MAX_BITS:
        raise TooLargeError
    return _capped(base**power)


def _root(value: Fraction) -> Fraction:
    if value < 0:
        raise _NotANumberError
    top, bottom = isqrt(value.numerator), isqrt(value.denominator)
    if top * top != value.numerator or bottom * bottom != value.denominator:
        raise _NotANumberError
    return Fraction(top, bottom)


def _factorial(value: Fraction) -> Fraction:
    if value.denominator != 1 or value < 0:
        raise _NotANumberError
    if value > MAX_FACTORIAL:
        raise TooLargeError
    return _capped(Fraction(factorial(value.numerator)))


class _Parser:
    """Recursive descent, one method per precedence; `depth` bounds the recursion."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.at = 0

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self) -> str:
        token = self.peek()
        self.at += 1
        return token

    def sum(self, depth: int) -> Fraction:
        if depth > MAX_DEPTH:
            raise TooLargeError
        value = self.product(depth)
        while self.peek() in ("+", "-"):
            sign = 1 if self.take() == "+" else -1
            value = _capped(value + sign * self.product(depth))
        return value

    def product(self, depth: int) -> Fraction:
        value = self.signed(depth)
        while True:
            token = self.peek()
            if token == "*":
                self.take()
                value = _capped(value * self.signed(depth))
            elif token == "/":
                self.take()
                value = _capped(value / self.signed(depth))
            elif token in ("(", "\\sqrt", "\\binom") or (token == "\\frac" and self.tokens[self.at - 1] in (")", "}")):
                value = _capped(value * self.power(depth))
            else:
                return value

    def signed(self, depth: int) -> Fraction:
        sign = 1
        while self.peek() in ("+", "-"):
            sign = sign if self.take() == "+" else -sign
        return sign * self.power(depth)

    def power(self, depth: int) -> Fraction:
        base = self.postfix(depth)
        if self.peek() != "^":
            return base
        self.take()
        if depth > MAX_DEPTH:
            raise TooLargeError
        return _power(base, self.group(depth) if self.peek() == "{" else self.signed(depth + 1))

    def postfix(self, depth: int) -> Fraction:
        value = self.atom(depth)
        while self.peek() == "!":
            self.take()
            value = _factorial(value)
        return value

    def atom(self, depth: int) -> Fraction:
        token = self.peek()
        if token in _CLOSING:
            return self.group(depth)
        self.take()
        if token == "\\frac":
            top, bottom = self.argument(depth), self.argument(depth)
            return _capped(top / bottom)
        if token == "\\binom":
            top, bottom = self.argument(depth), self.argument(depth)
            if top.denominator != 1 or bottom.denominator != 1 or min(top, bottom) < 0:
                raise _NotANumberError
            if top > MAX_FACTORIAL:
                raise TooLargeError
            return _capped(Fraction(comb(top.numerator, bottom.numerator)))
        if token == "\\sqrt":
            return _root(self.argument(depth))
        if not token or not (token[0].isdigit() or token[0] == "."):
            raise _NotANumberError
        return self.mixed(literal(token), depth)

    def mixed(self, whole: Fraction, depth: int) -> Fraction:
        r"""`2\frac{1}{3}` is two and a third; an integer before a proper fraction always reads as a mixed number."""
        if self.peek() != "\\frac":
            return whole
        part = self.atom(depth)
        if whole.denominator != 1 or not 0 < part < 1:
            raise _NotANumberError
        return whole + part

    def group(self, depth: int) -> Fraction:
        closing = _CLOSING[self.take()]
        value = self.sum(depth + 1)
        if self.take() != closing:
            raise _NotANumberError
        return value

    def argument(self, depth: int) -> Fraction:
        if self.peek() == "{":
            return self.group(depth)
        raise _NotANumberError
