r"""The answer in a response, as text: the last `\boxed{}`, `#### 42`, "the answer is ...", a choice letter, the last number.

Linear in the response, never raises on a str, and never interprets what it finds (that is `normalize`).
"""

from __future__ import annotations

import re
from collections import deque

from harmonyray.answers.normalize import MAX_KEY_CHARS

MAX_RESPONSE_CHARS = 200_000
MAX_ANSWER_CHARS = 20_000

_BOXED = "\\boxed"
_BARE_BOX = re.compile(r"\\boxed +([^\s${}\\]+|\\[a-zA-Z]+(?:\{[^{}]*\})*)")
_BOX_OPENING = re.compile(r"\\boxed\s*\{")
_HASHES = re.compile(r"####[ \t]*([^\n]{1,200})")
_HASH_ANSWER = re.compile(r"[-+$€£]{0,2}\s*\d.*|\(?[A-Z]\)?")
_ANSWER_IS = re.compile(r"\banswer\b[*_]*\s*(?:is|=|:)[*_]*\s*:?", re.IGNORECASE)
# "answer: the largest $n$ is 34"
_STATEMENT = re.compile(r"^(?:the|a|an|there)\b[^\n]*\b(?:is|are|equals)\s+(?=\S)", re.IGNORECASE)
_MATH = re.compile(r"\s*(?:\$\$([^$]+)\$\$|\$([^$\n]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\])", re.DOTALL)
_SENTENCE_END = re.compile(r"\n|[.!?](?=\s|$)|<\|")
_DIGITS = r"\d{1,3}(?:\.\d{3})+,\d+|(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"
_NUMBER = re.compile(
    rf"(?<![\w.])[-+−]?[$€£]?(?:(?<!\d,)\d+,(?:\d{{1,2}}|\d{{4,30}})(?![\d,.]\d|\d)|{_DIGITS})"
    r"(?:[eE][-+]?\d{1,3}(?![\w.]))?(?:/\d+)?%?"
    r"|(?<![\w.])[-+−]?\.\d+"
)
# a number that `_NUMBER` has found, with a decimal comma
_DECIMAL_COMMA = re.compile(r"([^\d]*)(?:(\d{1,3}(?:\.\d{3})+)|(\d+)),(\d{1,2}|\d{4,30}|(?<=\.\d{3},)\d+)(?=\D|$)(.*)")
_CHOICE_WORD = re.compile(
    r"\b(?:answer|option|choice)\b(?: (?:is|was|would be))? ?[:=]?[ *_(\[{$]{0,8}([A-Za-z])\b", re.IGNORECASE
)
_CHOICE_PAREN = re.compile(r"\(\s*([A-Z])\s*\)")
_CHOICE_ALONE = re.compile(r"(?<![\w'])([A-Z])(?![\w'])")
_LETTER_ONLY = re.compile(r"[^A-Za-z0-9]*([A-Za-z])[^A-Za-z0-9]*")
_LETTER_FIRST = re.compile(r"[\s*(\[{$\"]*([A-Z])\s*[).:\]]")
_TEXT_COMMAND = re.compile(r"\\(?:text|mathrm|mathbf|textbf|mbox)(?![A-Za-z])")


def extract_answer(text: str, kind: str = "math", num_choices: int = 0) -> str | None:
    r"""The answer that a response ends on, or None when it gives none.

    `kind` is the problem's: "math" and "number" give the answer's text, "choice" an upper-case letter, one of the first
    `num_choices` (0: of A to Z). Order: the last balanced `\boxed{}` (an empty one means no answer), `#### 42`, "the answer
    is ...", a response that is one written number; then, for "number", the last number (a decimal comma in it written as a
    point), and for "choice", the last letter that stands alone. Thinking (`<think>..</think>`, also unclosed) does not
    count. Only the last MAX_RESPONSE_CHARS are read; an answer longer than MAX_ANSWER_CHARS is cut. Raises ValueError on an
    unknown kind.
    """
    if kind not in ("math", "number", "choice"):
        raise ValueError(f"unknown kind of answer {kind!r}; expected 'math', 'number' or 'choice'")
    text = strip_thinking(text)[-MAX_RESPONSE_CHARS:]
    found = last_boxed(text)
    if kind == "choice":
        return choice_letter(text if found is None else found, num_choices)
    if found is None:
        found = _after_hashes(text)
    if found is None:
        found = _after_answer_is(text, kind)
    if found is None and _NUMBER.fullmatch(text.strip()):
        found = text
    if found is None and kind == "number":
        found = _last_number(text)
    found = (found or "").strip()[:MAX_ANSWER_CHARS].strip()
    return found or None


def strip_thinking(text: str) -> str:
    """`text` after its last `</think>`, and without what follows a `<think>` that is never closed."""
    return text.rpartition("</think>")[2].partition("<think>")[0]


def last_boxed(text: str) -> str | None:
    r"""What the last balanced `\boxed{...}` (or `\boxed 7`) holds, "" for an empty one, None when there is no box."""
    if _BOXED not in text:
        return None
    closing = _closing_braces(text)
    best_at, best = -1, None
    for match in _BOX_OPENING.finditer(text):
        end = closing.get(match.end() - 1)
        if end is not None:
            best_at, best = match.start(), (match.end(), end)
    bare = _last(_BARE_BOX, text, max(best_at, 0))
    if bare is not None and bare.start() > best_at:
        return bare[1].rstrip(".,;:!?")
    return None if best is None else text[best[0] : best[1]].strip()


def _closing_braces(text: str) -> dict[int, int]:
    r"""Opening brace -> its closing brace, in one pass; `\{` and `\}` are characters, not braces."""
    pairs: dict[int, int] = {}
    stack: list[int] = []
    for match in re.finditer(r"\\.|[{}]", text, re.DOTALL):
        if match.group() == "{":
            stack.append(match.start())
        elif match.group() == "}" and stack:
            pairs[stack.pop()] = match.start()
    return pairs


def choice_letter(text: str, num_choices: int = 0) -> str | None:
    """The choice that `text` names, upper-case, among the first `num_choices` letters (0: all 26), or None.

    A text that is one letter ("d", "(C)") or starts with one ("B. 12 cm"), else the last "answer is B" / "option b", else
    the last letter in brackets, else the last capital standing alone ("A" and "I" only as the text's last word).
    """
    last = chr(ord("A") + min(num_choices or 26, 26) - 1)
    text = " ".join(_TEXT_COMMAND.sub("", text).split())
    for pattern in (_LETTER_ONLY, _LETTER_FIRST):
        match = pattern.fullmatch(text) if pattern is _LETTER_ONLY else pattern.match(text)
        if match and match[1].upper() <= last:
            return match[1].upper()
    letters = [m[1].upper() for m in _CHOICE_WORD.finditer(text) if not _is_article(text, m)]
    letters = [letter for letter in letters if letter <= last] or [m[1] for m in _CHOICE_PAREN.finditer(text) if m[1] <= last]
    if not letters:
        letters = [m[1] for m in _CHOICE_ALONE.finditer(text) if m[1] <= last and not _is_word(text, m)]
    return letters[-1] if letters else None


def _is_article(text: str, match: re.Match[str]) -> bool:
    """Whether the letter of "answer is a" goes on into a sentence ("the answer is a triangle")."""
    return match[1] in "aI" and re.match(r"\s+[A-Za-z]", text[match.end() : match.end() + 8]) is not None


def _is_word(text: str, match: re.Match[str]) -> bool:
    """Whether a lone capital is the word "A" or "I" rather than a choice."""
    return match[1] in "AI" and re.match(r"\s*[A-Za-z0-9]", text[match.end() : match.end() + 8]) is not None


def _last(pattern: re.Pattern[str], text: str, start: int = 0) -> re.Match[str] | None:
    """The last match of `pattern` from `start` on."""
    found = deque(pattern.finditer(text, start), maxlen=1)
    return found[0] if found else None


def _after_hashes(text: str) -> str | None:
    at = text.rfind("####")
    match = _HASHES.match(text, at) if at >= 0 else None
    if match is None:
        return None
    content = match[1].strip()
    return content if _HASH_ANSWER.fullmatch(content) else None


def _after_answer_is(text: str, kind: str) -> str | None:
    match = _last(_ANSWER_IS, text)
    if match is None:
        return None
    rest = text[match.end() : match.end() + MAX_KEY_CHARS].lstrip(" \t*_")
    if not text[match.end() : match.end() + 2].strip():
        rest = rest.lstrip()
    formula = _MATH.match(rest)
    if formula:
        return next(group for group in formula.groups() if group is not None)
    end = _SENTENCE_END.search(rest)
    content = (rest[: end.start()] if end else rest).strip(" *_`\"'")
    if kind != "number":
        return _STATEMENT.sub("", content)
    numbers = _NUMBER.findall(content.rpartition("=")[2] if "=" in content else content)
    return _with_point(numbers[0]) if numbers else None


def _last_number(text: str) -> str | None:
    match = _last(_NUMBER, text)
    return _with_point(match.group()) if match else None


def _with_point(number: str) -> str:
    """A number with its decimal comma as a point (`15,67`, `12,5` and `1.234,50`: as an answer of any kind, `12,5` is a list)."""
    match = _DECIMAL_COMMA.fullmatch(number)
    return number if match is None else f"{match[1]}{(match[2] or match[3]).replace('.', '')}.{match[4]}{match[5]}"
