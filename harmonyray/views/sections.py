"""Reading the sections of a reframer response and measuring its rewording. Plain text functions, linear in the response.

How this differs from the published implementation, on purpose:
  - a heading counts only at the start of a line (Markdown marks and "1." may precede it), so "FINAL SOLUTION:" or
    "a chemist has a solution: 5 litres" is no heading;
  - sections count only in the order asked for: a SOLUTION ahead of its problem does not count beside it;
  - a placeholder is a section that says nothing else, so a problem may be about "the placeholder digit";
  - a rewording never contains the marks of the next heading, nor the heading itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from harmonyray.answers.extract import strip_thinking

NGRAM = 5

_NAMES = ("strategy", "rewritten problem", "solution")
# One bounded run per part and no nesting: every line is scanned once.
_HEADING = re.compile(
    r"^[ \t#>*_\-]*(?:[0-9]{1,2}[.)][ \t*_]*)?(strategy|rewritten problem|solution)[ \t*_]*:(?:\*\*|__)?",
    re.IGNORECASE | re.MULTILINE | re.ASCII,
)
_MARKS = " \t\r\n*`"

_LONGEST_PLACEHOLDER = 200
_BRACKETED = re.compile(r"\[[^\[\]\\]*\]|<[^<>\\]*>|\{[^{}\\]*\}|\([^()\\]*\)")
_TWO_LETTERS = re.compile(r"[^\W\d_]{2}")
_PLACEHOLDER_WORDS = frozenset(
    {
        "n/a", "na", "none", "null", "nil", "nothing", "not applicable", "todo", "to do", "tbd", "tba", "to be determined",
        "placeholder", "a placeholder", "the placeholder", "same", "same as above", "same as original", "same as the original",
        "insert here", "your strategy", "your strategy here", "your rewritten problem", "your rewritten problem here",
        "your solution", "your solution here", "xxx",
    }
)  # fmt: skip

_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Sections:
    """The text of each section, None where it is missing or a placeholder."""

    strategy: str | None
    rewritten: str | None
    solution: str | None

    @property
    def missing(self) -> float:
        """The share of the three sections that is missing, in [0, 1]: the F of the format penalty."""
        return (self.strategy, self.rewritten, self.solution).count(None) / 3


def split_sections(response: str) -> Sections:
    """The three sections of a reframer response.

    Taken are the headings that form the longest run in the right order, the earliest where several are as long.
    STRATEGY and REWRITTEN PROBLEM end at the next heading of any kind, SOLUTION at the end of the response. Thinking (up to
    the last "</think>", or after a "<think>" that is never closed) is part of no section.
    """
    text = strip_thinking(response)
    headings = list(_HEADING.finditer(text))
    ranks = [_NAMES.index(match[1].lower()) for match in headings]
    found: list[str | None] = [None, None, None]
    for i in _longest_in_order(ranks):
        last = ranks[i] == len(_NAMES) - 1 or i + 1 == len(headings)
        body = text[headings[i].end() : None if last else headings[i + 1].start()].strip(_MARKS)
        found[ranks[i]] = None if is_placeholder(body) else body
    return Sections(*found)


def _longest_in_order(ranks: list[int]) -> tuple[int, ...]:
    """Positions of the longest strictly increasing run of `ranks` (values 0 to 2), the earliest such; one that reaches a
    higher rank goes before one that does not."""
    best: list[tuple[int, ...]] = [()] * len(_NAMES)
    for i, rank in enumerate(ranks):
        before = max(best[:rank], key=len, default=())
        if len(before) + 1 > len(best[rank]):
            best[rank] = (*before, i)
    return max(reversed(best), key=len)


def is_placeholder(text: str) -> bool:
    """Whether a section's text only holds the place of one.

    That is: no letter or digit at all ("", "...", "[...]", "---"), nothing but one bracket around words ("<the
    strategy>", "[your solution here]"; an interval such as "[0, 1]" is no words), or one of a few stock words ("N/A").
    """
    if len(text) > _LONGEST_PLACEHOLDER:
        return not any(c.isalnum() for c in text)
    bare = text.strip()
    if not any(c.isalnum() for c in bare):
        return True
    if _BRACKETED.fullmatch(bare):
        return _TWO_LETTERS.search(bare) is not None
    return " ".join(bare.casefold().strip(".!:;\"'").split()) in _PLACEHOLDER_WORDS


def copied_share(original: str, rewritten: str | None) -> float:
    """The share of the rewording that is copied: of its word 5-grams, counted with repetition, those that occur in `original`.

    Words are runs of letters, digits and underscores, compared without case. A rewording of fewer than five words is one
    n-gram of its own length; one without words, or None, copies nothing. Returns a value in [0, 1].
    """
    words = _words(rewritten or "")
    if not words:
        return 0.0
    n = min(NGRAM, len(words))
    known = set(_ngrams(_words(original), n))
    grams = _ngrams(words, n)
    return sum(gram in known for gram in grams) / len(grams)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _ngrams(words: list[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
