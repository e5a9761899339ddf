"""Small groups of answers, and a method's judgement of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from harmonyray.algos.base import MethodContext
from harmonyray.types import AnswerGroup, GoldAnswer, Judgement, ProblemRollouts, Reading

NAN = float("nan")


class ToyGrader:
    """Answers are equal if they are, written in lower case; remembers the pairs it was asked for."""

    def __init__(self) -> None:
        self.asked: list[list[tuple[str, str]]] = []

    def group(self, rollouts: Sequence[ProblemRollouts]) -> list[AnswerGroup]:
        raise AssertionError("a method gets answers that are grouped already")

    def equal(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        self.asked.append(list(pairs))
        return [gold.lower() == answer.lower() for gold, answer in pairs]


class Blind(ToyGrader):
    def equal(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        raise AssertionError("a label-free method compares nothing with a gold answer")


def group(
    ids: list[list[int]],
    answers: str = "abcdefgh",
    problem: str = "p",
    missing: dict[int, list[float]] | None = None,
    copied: dict[int, list[float]] | None = None,
    texts: list[list[str]] | None = None,
    **statistics: list[list[float]],
) -> AnswerGroup:
    """Views may differ in length. `missing` and `copied` by view; 0 where not given. `texts`: the answers as written."""
    width = max(len(row) for row in ids)
    table = np.array([row + [-1] * (width - len(row)) for row in ids])
    num_clusters = table.max(initial=-1) + 1
    parsed = tuple(
        tuple(
            Reading(
                (texts[v][n] if texts else answers[i]) if i >= 0 else None,
                missing=(missing or {}).get(v, [0.0] * width)[n],
                copied=(copied or {}).get(v, [0.0] * width)[n],
            )
            for n, i in enumerate(row)
        )
        for v, row in enumerate(ids)
    )
    num_samples, names = np.array([len(row) for row in ids]), tuple(answers[:num_clusters])
    means = {name: np.array([row + [NAN] * (width - len(row)) for row in rows]) for name, rows in statistics.items()}
    return AnswerGroup(problem, table, num_samples, names, parsed, statistics=means)


def judge(
    method: Any, groups: list[AnswerGroup], gold: dict[str, str] | None = None, step: int = 1, **options: Any
) -> list[Judgement]:
    views = tuple(f"view{v}" for v in range(len(groups[0].num_samples)))
    answers = {key: GoldAnswer(key, text) for key, text in (gold or {}).items()}
    context = MethodContext(views, ToyGrader() if gold is not None else Blind(), answers)
    judged: list[Judgement] = method(method.Options.model_validate(options), context).judge(groups, step)
    assert [j.group for j in judged] == groups
    return judged


def assert_rewards(judged: Judgement, want: list[list[float]]) -> None:
    assert judged.rewards == pytest.approx(np.array(want), abs=1e-9, nan_ok=True)
