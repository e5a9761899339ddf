"""Accuracy per view and of votes over views, worked out by hand from scripted answers; and what an evaluation asks for."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from eval_helpers import CHUNK, ByText, Echo, Script

from harmonyray.answers.grader import AnswerGrader
from harmonyray.collect import collect
from harmonyray.evaluate import EvalSettings, Evaluator
from harmonyray.protocols import Ask
from harmonyray.types import (
    Consensus,
    GoldAnswer,
    Judgement,
    Problem,
    Sampling,
)
from harmonyray.views.solver import Solver

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


def asks(*num_samples: int) -> list[Ask]:
    return [Ask(Echo(name), n, SIX) for name, n in zip(("solver", "reframer"), num_samples, strict=True)]


def make(lines: Mapping[tuple[str, str], tuple[str, str]] = LINES, k: int = 6, seed: int = 0) -> tuple[Evaluator, Script, ByText]:
    views = [Echo("solver"), Echo("reframer")]
    script, grader = Script(lines), ByText(views)
    evaluator = Evaluator({"eval": PROBLEMS}, GOLD, views, script, grader, EvalSettings(k, [SIX, SIX], seed, CHUNK))
    return evaluator, script, grader


PASS = {1: 2 / 6, 2: 1 - (4 / 6) * (3 / 5), 4: 1 - (4 * 3 * 2 * 1) / (6 * 5 * 4 * 3), 6: 1}  # of a: two right samples of six
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
    **{f"eval/{view}/pass_at_{j}": share / 2 for view in ("solver", "reframer") for j, share in PASS.items()},
    # Each category is one problem.
    "eval/solver/pass_at_k/easy": 1,
    "eval/solver/pass_at_k/hard": 0,
    "eval/solver/majority_at_k/easy": 1,
    "eval/solver/majority_at_k/hard": 0,
    "eval/solver/greedy/easy": 1,
    "eval/solver/greedy/hard": 0,
    "eval/reframer/pass_at_k/easy": 1,
    "eval/reframer/pass_at_k/hard": 0,
    "eval/reframer/majority_at_k/easy": 0,
    "eval/reframer/majority_at_k/hard": 0,
    "eval/reframer/greedy/easy": 0,
    "eval/reframer/greedy/hard": 1,
    "eval/majority_at_k/easy": 0,
    "eval/majority_at_k/hard": 0,
    "eval/harmonic_at_k/easy": 1,
    "eval/harmonic_at_k/hard": 0,
    "eval/num_problems": 2,
    "eval/num_problems/easy": 1,
    "eval/num_problems/hard": 1,
}


def shares(metrics: Mapping[str, float]) -> dict[str, float]:
    """The means, without intervals and counts."""
    return {k: v for k, v in metrics.items() if "num_problems" not in k and not k.endswith(("_low", "_high"))}


def test_every_number_by_hand() -> None:
    evaluator, _, _ = make()
    got = evaluator.evaluate(policy_version=3)
    ends = {k for k in got if k.endswith(("_low", "_high"))}
    assert {k: v for k, v in got.items() if k not in ends} == {k: pytest.approx(v) for k, v in EXPECTED.items()}
    measures = {k for k in shares(got) if not k.endswith(("/easy", "/hard"))}
    assert ends == {f"{k}_{end}" for k in measures for end in ("low", "high")}
    for name in measures:  # of two problems, four resamples: both ends are reached where the two differ
        values = (got[f"{name}_low"], got[f"{name}_high"])
        assert values == pytest.approx((0, 2 * got[name])), name


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
    assert set(shares(make(silent)[0].evaluate(0)).values()) == {0.0}


def test_all_right() -> None:
    right = {(p, v): (" ".join(["1" if p == "a" else "7"] * 6), "1" if p == "a" else "7") for p, v in LINES}
    assert set(shares(make(right)[0].evaluate(0)).values()) == {1.0}


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
        list(training.sample(asks(6, 6), PROBLEMS[:2], 0, (0, "train", step)))
    drawn = [seed for r, _, _ in training.asked for seed in r.seeds]
    assert len(set(drawn)) == len(drawn) == 72
    assert not held & set(drawn)


def test_rollouts_come_back_by_problem_and_view() -> None:
    views = [Echo("solver"), Echo("reframer")]
    got = collect(Script(LINES), ByText(views), asks(6, 6), PROBLEMS[:2], 5, (0, "x"))
    assert [item.problem.id for item in got.rollouts] == [group.problem_id for group in got.groups] == ["a", "b"]
    assert got.failed == []
    for item in got.rollouts:
        for view, row in zip(("solver", "reframer"), item.fetch(), strict=True):
            assert " ".join(s.text for s in row) == LINES[item.problem.id, view][0]
            assert {(s.prompt.view, s.policy_version) for s in row} == {(view, 5)}


def test_without_gold_there_is_nothing_to_say() -> None:
    views = [Echo("solver")]
    script = Script({})
    evaluator = Evaluator({"eval": PROBLEMS}, {}, views, script, ByText(views), EvalSettings(6, [SIX], 0, CHUNK))
    assert (evaluator.evaluate(0), evaluator.label_metrics([], []), script.asked) == ({}, {}, [])


# --- how right the pseudo-labels were ------------------------------------------------------------------------------------------


def judgement(problem: str, solver: str, reframer: str, label: str | None) -> Judgement:
    views = [Echo("solver"), Echo("reframer")]
    script = Script({(problem, "solver"): (solver, ""), (problem, "reframer"): (reframer, "")})
    wanted = asks(len(solver.split()), len(reframer.split()))
    (group,) = collect(script, ByText(views), wanted, [Problem(problem, "?")], 0, (0,)).groups
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
    evaluator, judgements = make()[0], [judgement(*case) for case in cases]
    got = evaluator.label_metrics(judgements, evaluator.mark(judgements))
    assert got.get("consensus/label_accuracy") == expected[0]
    assert (got.get("consensus/majority_label_accuracy"), got["consensus/upper_bound"]) == expected[1:]


def test_the_real_grader_compares_by_value() -> None:
    problem, gold = Problem("p", "half?"), {"p": GoldAnswer("p", "0.5")}
    view = Solver("solver", Solver.Options())
    said = r"\boxed{\frac{1}{2}} \boxed{2/4} \boxed{0.25} unsure"
    script = Script({("p", "solver"): (said, r"\boxed{50\%}")})
    with AnswerGrader([view]) as grader:
        got = Evaluator({"eval": [problem]}, gold, [view], script, grader, EvalSettings(4, [SIX], 0, CHUNK)).evaluate(0)
    assert got["eval/solver/avg_at_k"] == 0.5
    assert got["eval/solver/majority_at_k"] == got["eval/harmonic_at_k"] == 1
