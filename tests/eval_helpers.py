"""Scripted parts of an evaluation: a view that reads whole responses, a sampler that says what is written, a grader by text;
and small real evaluations of the quickstart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harmonyray.protocols import Ask, Seeds, View
from harmonyray.rollouts import Want, keep
from harmonyray.run_eval import find_eval_config, load_eval_config, run_evaluation
from harmonyray.types import (
    AnswerGroup,
    FailedAttempt,
    ParsedResponse,
    Problem,
    ProblemRollouts,
    Prompt,
    Reading,
    Rollout,
    SampleRequest,
    Sampling,
)

CHUNK = 256  # more than these evaluations have problems
LOCAL = ["runtime.type=in_process"]
EIGHT = [*LOCAL, "problems.limit=8"]


def evaluate(*overrides: str, samples: int = 4, out: Path | None = None) -> dict[str, Any]:
    """The quickstart's model on eight of its problems."""
    name = find_eval_config("quickstart", None)
    return run_evaluation(load_eval_config(name, "quickstart", "quickstart", samples, [*EIGHT, *overrides]), out=out)


def steady(result: dict[str, Any]) -> dict[str, Any]:
    """A result without what differs between two equal evaluations."""
    return {k: v for k, v in result.items() if k not in ("wall_seconds", "out", "mlflow_run_id")}


class Echo:
    """A view that reads the whole response as the answer; "-" is none."""

    def __init__(self, name: str) -> None:
        self.name = name

    def render(self, problem: Problem) -> Prompt:
        return Prompt(problem.id, self.name, text=f"{self.name}: {problem.text}")

    def parse(self, problem: Problem, response: str) -> ParsedResponse:
        return ParsedResponse(None if response == "-" else response)


class Script:
    """A sampler that says what is written for (problem, view): sampled answers, and one for temperature 0."""

    def __init__(self, lines: Mapping[tuple[str, str], tuple[str, str]]) -> None:
        self.lines, self.asked = lines, list[tuple[SampleRequest, Sampling, int]]()
        self.calls = list[dict[str, int]]()

    def count_tokens(self, views: Sequence[View], problems: Sequence[Problem]) -> dict[str, list[int]]:
        raise AssertionError("an evaluation counts no tokens")

    def sample(
        self, asks: Sequence[Ask], problems: Sequence[Problem], policy_version: int | None, seed_parts: Seeds
    ) -> Iterator[ProblemRollouts | FailedAttempt]:
        """The last problem first: the order in which problems come back must not matter."""
        assert policy_version is not None
        self.calls.append({ask.view.name: len(problems) for ask in asks})
        requests = {(ask.view.name, p.id): Want(ask, p, seed_parts).request() for ask in asks for p in problems}
        self.asked += [(r, r.sampling, policy_version) for r in requests.values()]
        for p in reversed(problems):
            own = [(ask.view.name, requests[ask.view.name, p.id]) for ask in asks]
            yield ProblemRollouts(p, tuple(keep(self._one(view, r, r.sampling, policy_version)) for view, r in own))

    def texts(self, view: str, r: SampleRequest, sampling: Sampling) -> list[str]:
        sampled, greedy = self.lines[r.prompt.problem_id, view]
        return greedy.split() if sampling.temperature == 0 else sampled.split()

    def _one(self, view: str, r: SampleRequest, sampling: Sampling, version: int) -> tuple[Rollout, ...]:
        texts = self.texts(view, r, sampling)
        assert len(texts) == len(r.seeds)
        ids, logprobs = np.zeros(0, np.int64), np.zeros(0, np.float32)
        return tuple(Rollout(r.prompt, ids, ids, logprobs, text, "stop", version) for text in texts)


class ByText:
    """A grader for which texts are the same answer, and "one" is 1."""

    def __init__(self, views: Sequence[Echo]) -> None:
        self.views, self.compared = views, list[tuple[str, str]]()

    def group(self, rollouts: Iterable[ProblemRollouts]) -> list[AnswerGroup]:
        return [self._one(item) for item in rollouts]

    def _one(self, item: ProblemRollouts) -> AnswerGroup:
        read = tuple(
            tuple(Reading(v.parse(item.problem, s.text).answer) for s in row)
            for v, row in zip(self.views, item.fetch(), strict=True)
        )
        answers = list(dict.fromkeys(r.answer for row in read for r in row if r.answer is not None))
        ids = np.array([[-1 if r.answer is None else answers.index(r.answer) for r in row] for row in read])
        return AnswerGroup(item.problem.id, ids, np.array([len(row) for row in read]), tuple(answers), read)

    def equal(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        self.compared += pairs
        same = {"one": "1"}
        return [same.get(a, a) == same.get(b, b) for a, b in pairs]
