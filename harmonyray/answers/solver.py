"""math-verify, called the way this package needs it. Imported by the child process only.

Its own timeouts are off (`signal.alarm` with a silent False), each text is parsed once, and two expressions whose values
plainly differ are told apart by these values, because asking sympy to simplify their difference takes a hundred times longer.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import re
import zlib
from dataclasses import dataclass, replace
from typing import Any

import math_verify.parser
from antlr4.atn.PredictionMode import PredictionMode
from latex2sympy2_extended import latex2sympy2
from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify
from math_verify.grader import is_assignment_relation, is_equation
from sympy import Derivative, Eq, Expr, FiniteSet, Float, I, Integer, Integral, Limit, Product, Rational, Sum, Symbol, Tuple, oo
from sympy.core.function import AppliedUndef

from harmonyray.answers.arithmetic import MAX_DIGITS, evaluate

_CACHED_TEXTS = 4096
_CLEARLY_DIFFERENT = 1e-3  # relative; above what four rounded digits can cause
_CERTAINLY_DIFFERENT = 1e-6  # relative; between expressions without a decimal in them, which nobody rounds
_COSTLY = (Integral, Sum, Product, Derivative, Limit)
_LARGEST = 1e300
_RESIDUE = 1e-12
_INTEGER = re.compile(r"\$(-?[1-9]\d{0,30})\$")  # read as math-verify reads it, without its grammar


@dataclass(frozen=True, slots=True)
class Parsed:
    """`found`: what math-verify read, [] for nothing. `value`: the expression, or an equation's right side, at a fixed
    point, None if it has none. `exact`: whether no decimal is part of it. `items`: the values of a list's or set's items."""

    found: list[Any]
    value: complex | None
    exact: bool
    items: tuple[complex | None, ...] = ()


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


class _QuickParser(latex2sympy2.PSParser):
    """The grammar's parser, in ANTLR's two stages: first without looking at what surrounds a rule (SLL), which takes a
    fraction of the time and, where it finds no error, gives the same tree; then, after an error, with it (LL)."""

    def math(self) -> Any:
        self._interp.predictionMode = PredictionMode.SLL
        try:
            return super().math()
        except Exception:  # noqa: BLE001, the error listener raises bare ones
            self.reset()
            self._interp.predictionMode = PredictionMode.LL
            return super().math()


class Solver:
    """Parses and compares; caches parses."""

    def __init__(self) -> None:
        logging.disable(logging.CRITICAL)
        _replace_python_evaluation()
        latex2sympy2.PSParser = _QuickParser
        latex = LatexExtractionConfig(boxed_match_priority=0)
        formula = replace(latex, normalization_config=replace(latex.normalization_config, units=False))  # `2ab` is not 2 ab
        self._configs = {"latex": [formula], "prose": [latex, ExprExtractionConfig()]}
        self._parsed: dict[tuple[str, str], Parsed] = {}
        # build the grammar and the regular expressions now rather than inside the first pair's limit
        self.equal(self.parse(("latex", r"$\frac{x}{2}$")), self.parse(("prose", "the answer is $x/2$ or 1/2")), 6)
        self.forget()
        # sympy's modules are there to stay: looking through them for garbage takes as long as some twenty comparisons
        gc.collect()
        gc.freeze()

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
            digits = _INTEGER.fullmatch(body) if mode == "latex" else None
            found: list[Any] = [Integer(int(digits[1]))] if digits else []
            # PermissionError is the audit hook's; any other Exception is math-verify's way of saying that it cannot read
            with contextlib.suppress(Exception):
                found = found or parse(body, self._configs[mode], fallback_mode="no_fallback", parsing_timeout=None)
            found = [_with_imaginary_unit(item) for item in found]
            self._parsed[text] = _parsed(found) if "%" not in body else Parsed(found, None, exact=False)
        return self._parsed[text]

    def tells_apart(self, left: Parsed, right: Parsed) -> bool:
        """Whether two non-empty parses differ by the values that parsing found: a matter of microseconds, whatever they are."""
        a, b = left.found[0], right.found[0]
        if _differ(left, right) and (not (is_equation(a) and is_equation(b)) or _give_one_unknown(a, b)):
            return True
        return _has_another_item(left, right) or _has_another_item(right, left)

    def equal(self, left: Parsed, right: Parsed, places: int) -> bool:
        """Whether two non-empty parses are the same, floats to `places` decimals. Symmetric, unlike math-verify itself.

        One way round math-verify reads any equation as its right side. `2x + z = 1` is not `1`, so an equation is
        compared with something else only if it is an assignment.
        """
        if self.tells_apart(left, right):
            return False
        a, b = left.found[0], right.found[0]
        if _is_name_and_number(a, b) or _is_name_and_number(b, a) or _does_not_solve(a, b) or _does_not_solve(b, a):
            return False
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


def _give_one_unknown(a: Any, b: Any) -> bool:
    """Whether both are `x = ...`, of the same x and without it on the right: then they are equal only if the right sides are."""
    equations = isinstance(a, Eq) and isinstance(b, Eq) and isinstance(a.lhs, Symbol) and a.lhs == b.lhs
    return equations and not {a.lhs} & (a.rhs.free_symbols | b.rhs.free_symbols)


def _does_not_solve(a: Any, b: Any) -> bool:
    """Whether `a` is `x = a number` and `b` an equation in x that is plainly not true for that number."""
    if not (isinstance(a, Eq) and isinstance(b, Eq) and isinstance(a.lhs, Symbol) and a.lhs in b.free_symbols):
        return False
    if a.rhs.free_symbols or b.has(*_COSTLY):
        return False
    point = {s: _at(s.name) for s in b.free_symbols if isinstance(s, Symbol)} | {a.lhs: a.rhs}
    left, right = (_number_at(side, point) for side in (b.lhs, b.rhs))
    return _apart(left, right, _CLEARLY_DIFFERENT)


def _is_name_and_number(a: Any, b: Any) -> bool:
    """Whether `a` is a name or a word, and `b` an expression or a collection of them without any."""
    return isinstance(a, Symbol) and isinstance(b, Expr | FiniteSet | Tuple) and not b.free_symbols


def _differ(left: Parsed, right: Parsed) -> bool:
    """Whether the values of both are known and too far apart for the two to be equal.

    An equation counts by its right side: compared with a bare expression, that is all math-verify looks at.
    """
    tolerance = _CERTAINLY_DIFFERENT if left.exact and right.exact else _CLEARLY_DIFFERENT
    return _apart(left.value, right.value, tolerance)


def _apart(a: complex | None, b: complex | None, tolerance: float) -> bool:
    return a is not None and b is not None and abs(a - b) > tolerance * max(abs(a), abs(b))


def _has_another_item(several: Parsed, single: Parsed) -> bool:
    """Whether a list or set has an item that is plainly not the one expression it is compared with."""
    return isinstance(single.found[0], Expr) and any(_apart(item, single.value, _CLEARLY_DIFFERENT) for item in several.items)


def _with_imaginary_unit(item: Any) -> Any:
    """`2i` and `i^2` as complex numbers: an i that is the only letter of an expression is no unknown."""
    if isinstance(item, Expr) and not isinstance(item, Symbol) and {str(s) for s in item.free_symbols} == {"i"}:
        return item.subs(dict.fromkeys(item.free_symbols, I))
    return item


def _parsed(found: list[Any]) -> Parsed:
    items = tuple(_value([item]) for item in found[0].args) if found and isinstance(found[0], FiniteSet | Tuple) else ()
    exact = bool(found) and isinstance(found[0], Expr | Eq) and not found[0].has(Float)
    return Parsed(found, _value(found), exact, items)


def _value(found: list[Any]) -> complex | None:
    """The expression with every unknown at a positive number that depends on its name alone; None if it has no such value.

    An unknown function is taken to be a linear one that depends on its name alone. A bare symbol has no value:
    math-verify compares names and words by their letters.
    """
    expression = found[0].rhs if found and isinstance(found[0], Eq) else found[0] if found else None
    if expression in (oo, -oo):
        return complex(_LARGEST if expression == oo else -_LARGEST)
    if not isinstance(expression, Expr) or isinstance(expression, Symbol) or expression.has(*_COSTLY):
        return None
    with contextlib.suppress(Exception):  # no numeric value, in one of sympy's many ways of saying so
        if expression.has(AppliedUndef):
            expression = expression.replace(lambda e: isinstance(e, AppliedUndef), _linear)
        value = _number_at(expression, {s: _at(s.name) for s in expression.free_symbols if isinstance(s, Symbol)})
        # what terms that cancel leave over is not a value
        return value if value is None or abs(value) > _RESIDUE or expression.is_Number else None
    return None


def _number_at(expression: Any, point: dict[Any, Any]) -> complex | None:
    """The expression with its symbols at `point`, None if that is no (finite) number."""
    with contextlib.suppress(Exception):  # sympy has many ways of saying so
        value = complex(expression.evalf(15, subs=point))
        return value if abs(value) < _LARGEST and value == value else None
    return None


def _at(name: str) -> Rational:
    """A number in [1/2, 3/2) for a name; exact, so that nothing is lost where terms cancel."""
    return Rational(1, 2) + Rational(zlib.crc32(name.encode()) % 1009, 1010)


def _linear(call: AppliedUndef) -> Expr:
    name = str(call.func)
    return _at(name) + sum((_at(f"{name}/{i}") * argument for i, argument in enumerate(call.args)), Integer(0))
