"""One answer as the comparison sees it: a bare answer becomes one formula, a sentence or a whole response is searched first."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from harmonyray.answers.compare import MIN_ROUNDED_PLACES
from harmonyray.answers.extract import extract_answer
from harmonyray.answers.latex import clean_unicode, squeeze, tidy, undress
from harmonyray.answers.normalize import MAX_CACHED_CHARS, MAX_KEY_CHARS, Canonical, canonical

DEFAULT_PLACES = 6
_MAX_PROSE_CHARS = 1500
_MIN_PROSE_WORDS = 4
_COMMANDS = re.compile(r"\\[A-Za-z]+\s*(?:\{[A-Za-z ,.']*\})?")
_WORD = re.compile(r"[A-Za-z]{2,}")
_FORMULA = re.compile(r"(?<!\\)\$[^$]+\$|\\\(|\\\[|\\boxed")
# a sentence that says there is no value, whatever numbers it mentions on the way
_NO_VALUE = re.compile(
    r"\b(?:can(?:not|'t) be|there is no|no real|no (?:\w+ )?(?:values?|solutions?)|does(?: not|n't)|not enough|undefined|"
    r"impossible|insufficient)\b",
    re.IGNORECASE,
)
_DIGIT_OR_FORMULA = re.compile(rf"\d|\\[A-Za-z]|[=<>]|{_FORMULA.pattern}")
_ANSWER_IS = re.compile(r"\banswer\s*(?:is\b|:)", re.IGNORECASE)
_DECIMALS = re.compile(r"\d*\.(\d+)")


@dataclass(frozen=True, slots=True)
class Reading:
    """`answer`: its parts. `text`: what a solver gets. `mode`: "latex" (one formula in `$..$`) or "prose"."""

    answer: Canonical
    text: str
    mode: str

    @property
    def source(self) -> tuple[str, str]:
        """What identifies it for a solver: (mode, text)."""
        return (self.mode, self.text)


def read(text: str) -> Reading:
    """The reading of an answer, or of a sentence or response that holds one."""
    return _read_cached(text) if len(text) <= MAX_CACHED_CHARS else _read(text)


def _read(text: str) -> Reading:
    if len(text) > MAX_KEY_CHARS and "\\boxed" not in text[-MAX_KEY_CHARS:]:
        return _formula(text)
    if not _is_prose(text):
        return _formula(text)
    if text.count("\\boxed") <= 1:
        answer = extract_answer(text)
        if answer is not None and answer != text:
            return _formula(answer)
    cleaned = clean_unicode(text[-4 * _MAX_PROSE_CHARS :])[-_MAX_PROSE_CHARS:]
    if not _DIGIT_OR_FORMULA.search(cleaned):
        return Reading(Canonical(squeeze(tidy(cleaned)), cleaned, literal=True), cleaned, "latex")
    no_value = "\\boxed" not in cleaned and _NO_VALUE.search(cleaned) is not None
    return Reading(Canonical(cleaned, cleaned, hazard=no_value), cleaned, "prose")


_read_cached = lru_cache(maxsize=16_384)(_read)


def _formula(text: str) -> Reading:
    answer = canonical(text)
    return Reading(answer, f"${answer.body}$", "latex")


def _is_prose(text: str) -> bool:
    bare = undress(text[-MAX_KEY_CHARS:])
    if _FORMULA.search(bare) or _ANSWER_IS.search(bare):
        return True
    if not bare[:1].isalpha():
        return False
    return len(_WORD.findall(_COMMANDS.sub(" ", bare))) >= _MIN_PROSE_WORDS


def rounding_places(*texts: str) -> int:
    """How many decimals two floats must agree in: the fewest written, from MIN_ROUNDED_PLACES to DEFAULT_PLACES."""
    written = [len(digits) for text in texts for digits in _DECIMALS.findall(text)]
    return min([n for n in written if n >= MIN_ROUNDED_PLACES] + [DEFAULT_PLACES])
