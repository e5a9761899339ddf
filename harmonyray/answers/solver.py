"""math-verify, called the way this package needs it. Imported by the child process only.

Its own timeouts are off (`signal.alarm` with a silent False), each text is parsed once, and two expressions whose values
plainly differ are told apart by these values, because asking sympy to simplify their difference takes a hundred times longer.
"""

from __future__ import annotations

import contextlib
import logging
import zlib
from dataclasses import dataclass
from typing import Any

import math_verify.parser
from latex2sympy2_extended import latex2sympy2
from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify
from math_verify.grader import is_assignment_relation, is_equation
from sympy import Derivative, Eq, Expr, Float, Integer, Integral, Limit, Product, Rational, Sum, Symbol
from sympy.core.function import AppliedUndef

from harmonyray.answers.arithmetic import MAX_DIGITS, evaluate

_CACHED_TEXTS = 4096
_CLEARLY_DIFFERENT = 1e-3  # relative; above what four rounded digits can cause
_COSTLY = (Integral, Sum, Product, Derivative, Limit, AppliedUndef)


@dataclass(frozen=True, slots=True)
class Parsed:
    """`found`: what math-verify read, [] for nothing. `value`: the expression at a fixed point, None if it has none."""

    found: list[Any]
    value: complex | None


def _number(text: str) -> Expr:
    """The number that `text` spells: digits exactly, a decimal as sympy's Float."""
    digits = text.strip()
    if len(digits) > MAX_DIGITS or not digits.removeprefix("-").replace(".", "", 1).isdecimal():
        raise ValueError("not a number")
    return Float(digits) if "." in digits else Integer(int(digits))


def _arithmetic(text: str) -> Expr:
    """The exact value of plain arithmetic."""
    value = evaluate(text.rstrip(" .").replace("**", "^").replace("×", "*").replace("÷", "/"))
    if value is None:
        raise ValueError("not arithmetic")
    return Rational(value.numerator, value.denominator)


def _replace_python_evaluation() -> None:
    """Both libraries read numbers with `sympify`, which runs the text as Python: here nothing from a model is ever run.

    What they would run is digits and operators only, so the values stay the same; it is also most of the parsing time.
    """
    latex2sympy2.Number = _number
    latex2sympy2._Latex2Sympy.parse_number = lambda self, text: _number(text.replace(",", ""))
    math_verify.parser.Number = _number
    math_verify.parser.parse_expr = lambda text, evaluate: _arithmetic(text)


class Solver:
    """Parses and compares; caches parses."""

    def __init__(self) -> None:
        logging.disable(logging.CRITICAL)
        _replace_python_evaluation()
        latex = LatexExtractionConfig(boxed_match_priority=0)
        self._configs = {"latex": [latex], "prose": [latex, ExprExtractionConfig()]}
        self._parsed: dict[tuple[str, str], Parsed] = {}
        # build the grammar and the regular expressions now rather than inside the first pair's limit
        self.equal(self.parse(("latex", r"$\frac{x}{2}$")), self.parse(("prose", "the answer is $x/2$ or 1/2")), 6)
        self.forget()

    def knows(self, text: tuple[str, str]) -> bool:
        """Whether `parse` would answer from memory."""
        return text in self._parsed

    def forget(self) -> None:
        """Drop the cached parses."""
        self._parsed.clear()

    def parse(self, text: tuple[str, str]) -> Parsed:
        """What math-verify reads in `(mode, text)`: "latex" is one formula in `$..$`, "prose" a text that holds one."""
        if text not in self._parsed:
            if len(self._parsed) >= _CACHED_TEXTS:
                self.forget()
            mode, body = text
            found: list[Any] = []
            # PermissionError is the audit hook's; any other Exception is math-verify's way of saying that it cannot read
            with contextlib.suppress(Exception):
                found = parse(body, self._configs[mode], fallback_mode="no_fallback", parsing_timeout=None)
            self._parsed[text] = Parsed(found, None if "%" in body else _value(found))
        return self._parsed[text]

    def equal(self, left: Parsed, right: Parsed, places: int) -> bool:
        """Whether two non-empty parses are the same, floats to `places` decimals. Symmetric, unlike math-verify itself.

        One way round math-verify reads any equation as its right side. `2x + z = 1` is not `1`, so an equation is
        compared with something else only if it is an assignment.
        """
        if left.value is not None and right.value is not None:
            scale = max(abs(left.value), abs(right.value))
            if abs(left.value - right.value) > _CLEARLY_DIFFERENT * scale:
                return False
        a, b = left.found[0], right.found[0]
        if _is_condition(a) != _is_condition(b) and not (is_equation(a) and is_equation(b)):
            return False
        if verify(left.found, right.found, float_rounding=places, timeout_seconds=None):
            return True
        # only unlike kinds (a relation and a set, a tuple and a set) are treated differently the other way round, and
        # finding two things unequal is the expensive part
        alike = type(a) is type(b) or (isinstance(a, Expr) and isinstance(b, Expr))
        return not alike and verify(right.found, left.found, float_rounding=places, timeout_seconds=None)


def _is_condition(parsed: Any) -> bool:
    """One equation in unknowns that gives none of them (a chain `a + b = 2 + 3 = 5` is a calculation)."""
    return isinstance(parsed, Eq) and not is_assignment_relation(parsed) and bool(parsed.free_symbols)


def _value(found: list[Any]) -> complex | None:
    """The expression with every unknown at a positive number that depends on its name alone; None if it has no such value.

    A bare symbol has none: math-verify compares names and words by their letters.
    """
    if not found or not isinstance(found[0], Expr) or isinstance(found[0], Symbol) or found[0].has(*_COSTLY):
        return None
    point = {s: 0.5 + zlib.crc32(s.name.encode()) % 1009 / 997 for s in found[0].free_symbols if isinstance(s, Symbol)}
    with contextlib.suppress(Exception):  # no numeric value, in one of sympy's many ways of saying so
        value = complex(found[0].evalf(15, subs=point))
        return value if abs(value) < 1e300 and value == value else None
    return None
