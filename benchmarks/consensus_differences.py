"""Where the clusters of `consensus.py` differ from naive math-verify's, and why: only reasons that a pair's own verdicts prove.

Both sides join transitively, so a pair may be together for the sake of a third answer; then that is the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

from harmonyray.answers.equivalence import Equivalence
from harmonyray.answers.extract import extract_answer

THIRD = "joined through a third answer"
Two = tuple[str, str]


def differences(
    questions: Sequence[tuple[str, list[list[str]]]],
    mine: list[list[int]],
    other: list[list[int]],
    equivalence: Equivalence,
    naive: Any,
) -> list[dict[str, str]]:
    """The distinct pairs of answers that one side joins and the other does not, each with a reason that the pair alone shows."""
    out: dict[tuple[str, str, str], dict[str, str]] = {}
    for (name, views), a, b in zip(questions, mine, other, strict=True):
        responses = [text for row in views for text in row]
        texts = [extract_answer(text) or "" for text in responses]
        for i, j in combinations(range(len(texts)), 2):
            joined = [ids[i] == ids[j] >= 0 for ids in (a, b)]
            if joined[0] == joined[1]:
                continue
            left, right = sorted((texts[i], texts[j]))
            if (name, left, right) not in out:
                why = why_here if joined[0] else why_there
                what = "joined here only" if joined[0] else "joined by math-verify only"
                pair = (texts[i], texts[j]), (responses[i], responses[j])
                out[name, left, right] = {
                    "question": name, "a": left, "b": right, "what": what, "why": why(*pair, equivalence, naive)
                }  # fmt: skip
    return list(out.values())


def why_here(texts: Two, responses: Two, equivalence: Equivalence, naive: Any) -> str:
    """Why this package joins a pair that naive math-verify does not, by the verdicts on the pair alone."""
    if not equivalence.check([texts])[0].equal:
        return THIRD
    parsed = [naive.parse(text) for text in responses]
    if not all(parsed):
        return "math-verify reads nothing in one of them"
    if naive.equal(parsed[1], parsed[0]):
        return "math-verify says equal the other way round only"
    decided = equivalence.decide([texts])[0]
    if decided is not None and decided.equal:
        return "equal by exact reading here; math-verify says different"
    return "equal by the solver here, math-verify on normalised texts; different on the responses"


def why_there(texts: Two, responses: Two, equivalence: Equivalence, naive: Any) -> str:
    """Why naive math-verify joins a pair that this package does not, by the verdicts on the pair alone."""
    if not naive.equal(*(naive.parse(text) for text in responses)):
        return THIRD
    verdict = equivalence.check([texts])[0]
    if verdict.status != "ok":
        return {"timeout": "given up here", "unparsable": "no mathematics, or no answer, here"}[verdict.status]
    exact = equivalence.decide([texts])[0] is not None
    return "different by exact reading here; math-verify says equal" if exact else "different by the solver here"
