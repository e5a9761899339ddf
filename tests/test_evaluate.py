"""Accuracy per view and of votes over views, worked out by hand from scripted answers; and what an evaluation asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from harmonyray.answers.grader import AnswerGrader
from harmonyray.evaluate import EvalSettings, Evaluator
from harmonyray.rollouts import sample_problems
from harmonyray.types import (
    AnswerGroup,
    Consensus,
    GoldAnswer,
    Judgement,
    ParsedResponse,
    Problem,
    ProblemRollouts,
    Prompt,
    Rollout,
    SampleRequest,
    Sampling,
)
from harmonyray.views.solver import Solver


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

    def count_tokens(self, prompts: Mapping[str, Sequence[Prompt]]) -> dict[str, list[int]]:
        raise AssertionError("an evaluation counts no tokens")

    def sample(
        self, requests: Mapping[str, Sequence[SampleRequest]], sampling: Sampling, policy_version: int
    ) -> dict[str, list[tuple[Rollout, ...]]]:
        out: dict[str, list[tuple[Rollout, ...]]] = {}
        for view, asked in requests.items():
            self.asked += [(r, sampling, policy_version) for r in asked]
            out[view] = [self._one(view, r, sampling, policy_version) for r in asked]
        return out

    def _one(self, view: str, r: SampleRequest, sampling: Sampling, version: int) -> tuple[Rollout, ...]:
        sampled, greedy = self.lines[r.prompt.problem_id, view]
        texts = greedy.split() if sampling.temperature == 0 else sampled.split()
        assert len(texts) == len(r.seeds)
        none = np.zeros(0)
        return tuple(Rollout(r.prompt, none, none, none, text, "stop", version) for text in texts)  # type: ignore[arg-type]


class ByText:
    """A grader for which texts are the same answer, and "one" is 1."""

    def __init__(self, views: Sequence[Echo]) -> None:
        self.views, self.compared = views, list[tuple[str, str]]()

    def group(self, rollouts: Sequence[ProblemRollouts]) -> list[AnswerGroup]:
        return [self._one(item) for item in rollouts]

    def _one(self, item: ProblemRollouts) -> AnswerGroup:
        read = tuple(tuple(v.parse(item.problem, s.text) for s in row) for v, row in zip(self.views, item.rollouts, strict=True))
        answers = list(dict.fromkeys(r.answer for row in read for r in row if r.answer is not None))
        ids = np.array([[-1 if r.answer is None else answers.index(r.answer) for r in row] for row in read])
        return AnswerGroup(item.problem.id, ids, np.array([len(row) for row in read]), tuple(answers), read)

    def equal(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        self.compared += pairs
        same = {"one": "1"}
        return [same.get(a, a) == same.get(b, b) for a, b in pairs]


SIX = Sampling(max_tokens=16, temperature=0.8, top_p=0.95)
PROBLEMS = [Problem("a", "1?", category="easy"), Problem("b", "7?", category="hard"), Problem("c", "no gold")]
GOLD = {"a": GoldAnswer("a", "one"), "b": GoldAnswer("b", "7")}
LINES = {
    # "1" twice in each view, "2" once and four times: a majority of 5 for "2", a harmonic mean of 1/3 for "1" against 4/15.
    ("a", "solver"): ("1 1 2 - - -", "1"),
    ("a", "reframer"): ("1 1 2 2 2 2", "3"),
    # "8" five times in one view and never in the other: a majority, and a harmonic mean of 0, which is no label.
    ("b", "solver"): ("8 8 8 8 8 9", "-"),
    ("b", "reframer"): ("- - - - - -", "7"),
}


def make(lines: Mapping[tuple[str, str], tuple[str, str]] = LINES, k: int = 6, seed: int = 0) -> tuple[Evaluator, Script, ByText]:
    views = [Echo("solver"), Echo("reframer")]
    script, grader = Script(lines), ByText(views)
    return Evaluator(PROBLEMS, GOLD, views, script, grader, EvalSettings(k, SIX, seed)), script, grader


EXPECTED = {
    "eval/solver/avg_at_k": (2 / 6 + 0) / 2,
    "eval/solver/pass_at_k": 1 / 2,
    "eval/solver/majority_at_k": 1 / 2,  # "1" of a; "8" of b is wrong
    "eval/solver/greedy": 1 / 2,
    "eval/solver/avg_at_k/easy": 2 / 6,
    "eval/solver/avg_at_k/hard": 0,
    "eval/reframer/avg_at_k": (2 / 6 + 0) / 2,
    "eval/reframer/pass_at_k": 1 / 2,
    "eval/reframer/majority_at_k": 0,  # "2" of a is wrong, b abstains
    "eval/reframer/greedy": 1 / 2,
    "eval/reframer/avg_at_k/easy": 2 / 6,
    "eval/reframer/avg_at_k/hard": 0,
    "eval/majority_at_k": 0,  # "2" and "8"
    "eval/harmonic_at_k": 1 / 2,  # "1"; b abstains, which is not right
}


def test_every_number_by_hand() -> None:
    evaluator, _, _ = make()
    assert evaluator.evaluate(policy_version=3) == {k: pytest.approx(v) for k, v in EXPECTED.items()}


def test_one_sample_a_view() -> None:
    lines = {
        ("a", "solver"): ("1", "1"),
        ("a", "reframer"): ("2", "2"),
        ("b", "solver"): ("7", "7"),
        ("b", "reframer"): ("7", "-"),
    }
    got = make(lines, k=1)[0].evaluate(0)
    assert (got["eval/solver/avg_at_k"], got["eval/reframer/avg_at_k"]) == (1, 0.5)
    assert got["eval/majority_at_k"] == 1  # a tie of 1 and 1 on a goes to the one sampled first
    assert got["eval/harmonic_at_k"] == 0.5  # no common answer on a: no label


def test_nobody_answers() -> None:
    silent = dict.fromkeys(LINES, ("- - - - - -", "-"))
    assert set(make(silent)[0].evaluate(0).values()) == {0.0}


def test_all_right() -> None:
    right = {(p, v): (" ".join(["1" if p == "a" else "7"] * 6), "1" if p == "a" else "7") for p, v in LINES}
    assert set(make(right)[0].evaluate(0).values()) == {1.0}


def test_what_is_asked() -> None:
    evaluator, script, grader = make()
    evaluator.evaluate(policy_version=3)
    assert {r.prompt.problem_id for r, _, _ in script.asked} == {"a", "b"}  # c has no gold
    assert {version for _, _, version in script.asked} == {3}
    sampled = [(r, s) for r, s, _ in script.asked if s.temperature]
    greedy = [(r, s) for r, s, _ in script.asked if not s.temperature]
    assert [len(r.seeds) for r, _ in sampled] == [6] * 4
    assert [len(r.seeds) for r, _ in greedy] == [1] * 4
    assert {s for _, s in sampled} == {SIX}
    assert {(s.max_tokens, s.temperature) for _, s in greedy} == {(16, 0)}
    seeds = [seed for r, _ in sampled for seed in r.seeds]
    assert len(set(seeds)) == 24
    assert all("one" not in str(r.prompt) for r, _, _ in script.asked)
    assert grader.compared[0] == ("one", "1")  # the reference comes first


def test_the_draws_depend_on_the_seed_and_not_on_the_policy() -> None:
    def seeds(seed: int, version: int) -> list[tuple[int, ...]]:
        evaluator, script, _ = make(seed=seed)
        evaluator.evaluate(version)
        return [r.seeds for r, _, _ in script.asked]

    assert seeds(0, 0) == seeds(0, 9)
    assert seeds(0, 0) != seeds(1, 0)


def test_training_and_evaluation_never_draw_alike() -> None:
    evaluator, script, _ = make()
    evaluator.evaluate(0)
    held = {seed for r, _, _ in script.asked for seed in r.seeds}
    training = Script(LINES)
    for step in range(1, 4):
        sample_problems(training, [Echo("solver"), Echo("reframer")], [6, 6], PROBLEMS[:2], SIX, 0, (0, "train", step))
    drawn = [seed for r, _, _ in training.asked for seed in r.seeds]
    assert len(set(drawn)) == len(drawn) == 72
    assert not held & set(drawn)


def test_rollouts_come_back_by_problem_and_view() -> None:
    views = [Echo("solver"), Echo("reframer")]
    got = sample_problems(Script(LINES), views, [6, 6], PROBLEMS[:2], SIX, 5, (0, "x"))
    assert [item.problem.id for item in got] == ["a", "b"]
    for item in got:
        for view, row in zip(views, item.rollouts, strict=True):
            assert " ".join(s.text for s in row) == LINES[item.problem.id, view.name][0]
            assert {(s.prompt.view, s.policy_version) for s in row} == {(view.name, 5)}


def test_without_gold_there_is_nothing_to_say() -> None:
    views = [Echo("solver")]
    script = Script({})
    evaluator = Evaluator(PROBLEMS, {}, views, script, ByText(views), EvalSettings(6, SIX, 0))
    assert (evaluator.evaluate(0), evaluator.label_metrics([]), script.asked) == ({}, {}, [])


# --- how right the pseudo-labels were ------------------------------------------------------------------------------------------


def judgement(problem: str, solver: str, reframer: str, label: str | None) -> Judgement:
    views = [Echo("solver"), Echo("reframer")]
    item = sample_problems(
        Script({(problem, "solver"): (solver, ""), (problem, "reframer"): (reframer, "")}),
        views,
        [len(solver.split()), len(reframer.split())],
        [Problem(problem, "?")],
        SIX,
        0,
        (0,),
    )
    group = ByText(views).group(item)[0]
    index = None if label is None else group.representatives.index(label)
    support = group.counts() / group.num_samples
    consensus = Consensus((index, index), support.mean(axis=1), support, 0.0)
    return Judgement(group, consensus, np.zeros(group.cluster_ids.shape), np.ones(2, bool))


LABELS = [
    ("the label is right", [("a", "1 1 2", "1 2 2", "1")], (1, 1, 1)),
    ("the label is wrong, majority is right", [("a", "1 1 2", "1 2 2", "2")], (0, 1, 1)),
    ("majority counts the first view's samples only", [("a", "2 2 1", "1 1 1", "1")], (1, 0, 1)),
    ("no label", [("a", "1 2 2", "- - -", None)], (None, None, 1)),
    ("nobody answered", [("a", "- - -", "- - -", None)], (None, None, 0)),
    ("half", [("a", "1 1 1", "1 1 1", "1"), ("b", "8 8 8", "9 9 9", "8")], (0.5, 0.5, 0.5)),
    ("accuracy is over labelled problems", [("a", "1 1 1", "1 1 1", "1"), ("b", "7 8 8", "- - -", None)], (1, 1, 1)),
    ("problems without gold are left out", [("a", "1 1 1", "1 1 1", "1"), ("c", "5 5 5", "5 5 5", "5")], (1, 1, 1)),
    ("the upper bound looks at every view", [("b", "8 8 8", "9 9 7", "8")], (0, 0, 1)),
]


@pytest.mark.parametrize(("what", "cases", "expected"), LABELS, ids=[item[0] for item in LABELS])
def test_label_metrics_by_hand(
    what: str, cases: list[tuple[str, str, str, str | None]], expected: tuple[float | None, float, float]
) -> None:
    got = make()[0].label_metrics([judgement(*case) for case in cases])
    assert got.get("consensus/label_accuracy") == expected[0]
    assert (got.get("consensus/majority_label_accuracy"), got["consensus/upper_bound"]) == expected[1:]


def test_the_real_grader_compares_by_value() -> None:
    problem, gold = Problem("p", "half?"), {"p": GoldAnswer("p", "0.5")}
    view = Solver("solver", Solver.Options())
    said = r"\boxed{\frac{1}{2}} \boxed{2/4} \boxed{0.25} unsure"
    script = Script({("p", "solver"): (said, r"\boxed{50\%}")})
    with AnswerGrader([view]) as grader:
        got = Evaluator([problem], gold, [view], script, grader, EvalSettings(4, SIX, 0)).evaluate(0)
    assert got["eval/solver/avg_at_k"] == 0.5
    assert got["eval/solver/majority_at_k"] == got["eval/harmonic_at_k"] == 1
