"""Text and LaTeX clean-up that changes how an answer is written and never what it says.

Every function is a bounded number of linear passes. No meaning (numbers, units, equality) lives here.
"""

from __future__ import annotations

import re
import unicodedata

_SYMBOLS = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ",
    "÷": "/", "⁄": "/", "∕": "/", "π": r"\pi ", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\neq ", "°": r"^\circ ",
    "±": r"\pm ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "θ": r"\theta ", "≈": r"\approx ",
    "′": "'", "’": "'", "，": ",", "\u2062": "", "ℝ": r"\mathbb{R}", "⟨": r"\langle ", "⟩": r"\rangle ",
}  # fmt: skip
_SUPERSCRIPTS = {ord(s): p for s, p in zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-", strict=True)}
_SUBSCRIPTS = {ord(s): p for s, p in zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True)}
_VULGAR = {c: "\\frac{" + unicodedata.normalize("NFKC", c).replace("⁄", "}{") + "}" for c in "¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"}
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_SPACES = re.compile(r"\s+")
_SUPERSCRIPT_RUN = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+")
_SUBSCRIPT_RUN = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")
_DROPPED_CATEGORIES = ("Cc", "Cf", "Cs", "Co", "Cn")

_WRAPPER = re.compile(
    r"\\(?:text|mbox|textbf|textit|textrm|textnormal|mathrm|mathbf|mathit|mathsf|boldsymbol|hbox)\s*\{([^{}]*)\}"
)
_SPACING = re.compile(r"(?<!\\)\\(?:[,;:! ]|quad\b|qquad\b|thinspace\b|enspace\b|displaystyle\b|textstyle\b)|(?<!\\)~")
_SIZING = re.compile(
    r"\\(?:left|right|bigl|bigr|Bigl|Bigr|biggl|biggr|big|Big|bigg|Bigg)(?![A-Za-z])\s*\.?(?=\s*[()\[\]{}|.\\]|\s*$)"
)
_FRACTIONS = re.compile(r"\\[dtc]frac(?![A-Za-z])")
_SHORT_FRACTION = re.compile(r"\\frac\s*(?:\{([^{}]*)\}|([0-9A-Za-z]))\s*(?:\{([^{}]*)\}|([0-9A-Za-z]))")
_SHORT_ROOT = re.compile(r"\\sqrt\s*([0-9A-Za-z])")
_SHORT_SCRIPT = re.compile(r"([\^_])\s*([0-9A-Za-z])")
_ROOT_CALL = re.compile(r"(?<![A-Za-z])\\?(?:sqrt|√)\s*\(|√\s*(\d+|[A-Za-z])")
_FUNCTION = re.compile(
    r"(?<![\\A-Za-z])(?:(log)(2|10)(?=\s*\()|(arc(?:sin|cos|tan)|(?:sin|cos|tan)h?|cot|sec|csc|log|ln|exp)(?=\s*[(_^]))"
)
_DEGREES = re.compile(
    r"(\\(?:sin|cos|tan|cot|sec|csc))\s*([({]?)\s*(\d{1,6}(?:\.\d{1,6})?)\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ)\s*([)}]?)"
)
_OPERATOR = re.compile(r" ?([-+*/^]) ?|(?<!!) ?= ?")  # `2! = 2` is not `2 != 2`
_SPACE = re.compile(r"(?<=[0-9.])\s+(?=[0-9.])|(\\[A-Za-z]+)\s+(?=[A-Za-z])|\s+")
_PAIRS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**"), ("```", "```"), ("`", "`"), ('"', '"'))
_WHOLE = re.compile(r"\\(?:boxed|text|mbox|textbf|textnormal|textrm|mathrm|mathbf)\s*\{")


def clean_unicode(text: str) -> str:
    """`text` without control, invisible and surrogate characters, with mathematical characters as ASCII or LaTeX."""
    if text.isascii():
        if "\x1b" in text:
            text = _ANSI.sub("", text)
        return _SPACES.sub(" ", text.translate(_ASCII_CONTROLS)).strip()
    text = _ANSI.sub("", text)
    text = _SUPERSCRIPT_RUN.sub(lambda m: "^{" + m.group().translate(_SUPERSCRIPTS) + "}", text)
    text = _SUBSCRIPT_RUN.sub(lambda m: "_{" + m.group().translate(_SUBSCRIPTS) + "}", text)
    out = []
    for char in text:
        if char in _VULGAR:
            out.append(_VULGAR[char])
        elif char in _SYMBOLS:
            out.append(_SYMBOLS[char])
        elif char in "\n\t\r" or unicodedata.category(char) not in _DROPPED_CATEGORIES:
            out.append(char)
    return _SPACES.sub(" ", _ascii_digits(unicodedata.normalize("NFKC", "".join(out)))).strip()


_ASCII_CONTROLS = dict.fromkeys((*range(9), *range(14, 32), 127))


def _ascii_digits(text: str) -> str:
    """`text` with the decimal digits of every script as 0-9."""
    return text if text.isascii() else "".join(str(unicodedata.decimal(c, c)) for c in text)


def undress(text: str) -> str:
    r"""`text` without what merely surrounds it: `$..$`, `\(..\)`, `\boxed{..}`, `\text{..}`, `**..**`, a final full stop."""
    for _ in range(8):
        before = text
        text = text.strip().removeprefix(r"\displaystyle").strip()
        if text.endswith("\\") and not text.endswith("\\\\"):
            text = text[:-1].rstrip()  # what stripping has left of a final `\\ `
        if text.endswith((".", ";", ",")) and not text.endswith(("..", r"\.", r"\;", r"\,")):
            text = text[:-1].rstrip()
        text = _unwrap(text)
        if text == before:
            break
    return text


def _unwrap(text: str) -> str:
    for opening, closing in _PAIRS:
        size = len(opening)
        if len(text) >= size + len(closing) and text.startswith(opening) and text.endswith(closing):
            inner = text[size : -len(closing)]
            if opening not in inner and closing not in inner and not inner.endswith("\\"):
                return inner
    match = _WHOLE.match(text)
    if match and text.endswith("}") and closing_brace(text, match.end() - 1) == len(text) - 1:
        return text[match.end() : -1]
    return text


def closing_brace(text: str, start: int, pair: str = "{}") -> int:
    """The index of the bracket that closes the one at `start` (escaped ones do not count), or -1."""
    depth = 0
    at = start
    while at < len(text):
        char = text[at]
        if char == "\\" and pair == "{}":
            at += 2
            continue
        if char == pair[0]:
            depth += 1
        elif char == pair[1]:
            depth -= 1
            if depth == 0:
                return at
        at += 1
    return -1


def tidy(text: str) -> str:
    r"""`text` in one spelling: no spacing or sizing commands, `\frac{}{}` and `\sqrt{}` with braces, plain `%` and `$`, functions
    as commands (`log_2(3)`, `cos(A)`), angles in degrees inside a function as radians, no spaces around operators."""
    text = re.sub(r",\s*\\!\s*", ",", text).replace("{,}", ",").replace("\\%", "%").replace("\\$", "$")
    text = _SPACING.sub(" ", text)
    text = _SIZING.sub("", text)
    text = _FRACTIONS.sub(r"\\frac", text)
    text = _roots(text)
    text = _SHORT_FRACTION.sub(lambda m: rf"\frac{{{m[1] or m[2] or ''}}}{{{m[3] or m[4] or ''}}}", text)
    text = _SHORT_ROOT.sub(r"\\sqrt{\1}", text)
    text = text.replace("**", "^").replace("<=", r"\le ").replace(">=", r"\ge ").replace("!=", r"\neq ")
    text = re.sub(r"\\leq(?![A-Za-z])", r"\\le", re.sub(r"\\geq(?![A-Za-z])", r"\\ge", text))
    text = text.replace(r"\varnothing", r"\emptyset")
    text = _FUNCTION.sub(lambda m: rf"\log_{{{m[2]}}}" if m[1] else f"\\{m[3]}", text)
    if r"\circ" in text:
        text = _DEGREES.sub(_radians, text)
    return _OPERATOR.sub(lambda m: m[0].strip(), _SPACES.sub(" ", text)).strip()


def _radians(match: re.Match[str]) -> str:
    r"""`\cos 60^\circ` as `\cos(\frac{60\pi}{180})`."""
    function, opening, degrees, closing = match.groups()
    if (opening, closing) not in (("", ""), ("(", ")"), ("{", "}")):
        return match[0]
    return rf"{function}(\frac{{{degrees}\pi}}{{180}})"


def _roots(text: str) -> str:
    r"""`sqrt(3)` and `√3` as `\sqrt{3}`; at most 20 of them, which is far more than an answer has."""
    for _ in range(20):
        match = _ROOT_CALL.search(text)
        if match is None:
            break
        if match[1]:
            text = text[: match.start()] + rf"\sqrt{{{match[1]}}}" + text[match.end() :]
            continue
        end = closing_brace(text, match.end() - 1, "()")
        if end < 0:
            break
        text = text[: match.start()] + r"\sqrt{" + text[match.end() : end] + "}" + text[end + 1 :]
    return text


def squeeze(text: str) -> str:
    r"""The key of tidy, non-numeric `text`: text wrappers opened, scripts braced, spaces only where they keep tokens apart."""
    for _ in range(3):
        text = _WRAPPER.sub(r" \1 ", text)
    text = _SHORT_SCRIPT.sub(r"\1{\2}", text)
    text = _SPACE.sub(lambda m: m[1] + " " if m[1] else (" " if _between_digits(m) else ""), text)
    letters = text.replace("'", "")
    return text.casefold() if len(letters) > 2 and letters.isalpha() else text


def _between_digits(match: re.Match[str]) -> bool:
    text, start, end = match.string, match.start(), match.end()
    return start > 0 and end < len(text) and text[start - 1] in "0123456789." and text[end] in "0123456789."


def nesting(text: str) -> int:
    """How deep the brackets of `text` nest, counting unclosed ones."""
    depth = deepest = 0
    for char in text:
        if char in "{([":
            depth += 1
            deepest = max(deepest, depth)
        elif char in "})]":
            depth = max(0, depth - 1)
    return deepest
