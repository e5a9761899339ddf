"""Dynamic sampling: what is drawn in place of problems that teach nothing, what is counted, and that nothing else changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from eval_helpers import ByText, Echo, Script
from run_helpers import rows, samples, small_run, steady, weights

from harmonyray.algos.advantages import Grpo
from harmonyray.algos.base import MethodBase, MethodContext, labelled, match_label
from harmonyray.clock import Clock
from harmonyray.ledger import read_ledger
from harmonyray.problems.schedule import ProblemSchedule
from harmonyray.protocols import Ask
from harmonyray.resampling import fill
from harmonyray.selectors import select
from harmonyray.types import AnswerGroup, Collected, Judgement, Problem, Sampling

PROBLEMS = [Problem(f"p{i}", "?") for i in range(8)]
VIEWS = [Echo("v")]
ASKS = [Ask(VIEWS[0], 3, Sampling(8))]


class Counting(MethodBase):
    """Majority voting that counts what it has judged."""

    def __init__(self) -> None:
        super().__init__(None, MethodContext(("v",), ByText(VIEWS)))
        self.judged = 0

    def judge(self, groups: Sequence[AnswerGroup], step: int) -> list[Judgement]:
        self.judged += len(groups)
        votes = [select("majority", g.counts(), g.num_samples) for g in groups]
        return [Judgement(g, c, match_label(g, c), labelled(c)) for g, c in zip(groups, votes, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        return {"judged": self.judged}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.judged = state["judged"]


class Scripted:
    """The parts of a loop that `fill` turns. Problems named in `disputed` are answered "a a b", all others "a a a"."""

    def __init__(self, disputed: str, rounds: int, per_step: int = 3) -> None:
        lines = {(p.id, "v"): ("a a b" if p.id in disputed.split() else "a a a", "") for p in PROBLEMS}
        self.sampler, self.audited, self.scored = Script(lines), list[int](), list[list[str]]()
        self.sampler.engine_version = 7  # type: ignore[attr-defined]
        self.schedule, self.method = ProblemSchedule(PROBLEMS, per_step, seed=1), Counting()
        self.parts: Any = SimpleNamespace(
            dynamic_sampling=rounds,
            schedule=self.schedule,
            method=self.method,
            score=self.score,
            audit=lambda groups: self.audited.append(len(groups)),
            advantage=Grpo(Grpo.Options()),
            asks=ASKS,
            runtime=self.sampler,
            grader=ByText(VIEWS),
            seed=1,
        )
        self.drawn = [p.id for p in self.schedule.draw(1)]
        self.further = [p.id for p in self.schedule.further(1)]

    def score(self, collected: Collected) -> Collected:
        self.scored.append([group.problem_id for group in collected.groups])
        return collected

    def fill(self) -> tuple[Collected, dict[str, float]]:
        items = list(self.sampler.sample(ASKS, self.schedule.draw(1), 7, (1, "train", 1)))[::-1]
        got = Collected(items, ByText(VIEWS).group(items), [], 0.0, 0.0)  # type: ignore[arg-type]
        row: dict[str, float] = {}
        return fill(self.parts, 1, got, Clock(), row), row


def order() -> tuple[list[str], list[str]]:
    """Whom step 1 draws, and the others as they would be drawn."""
    return Scripted("", 0).drawn, Scripted("", 0).further


def counts(num_rounds: int, num_problems: int) -> dict[str, float]:
    return {"rollout/num_rounds": num_rounds, "rollout/num_problems": num_problems}


def test_as_many_are_drawn_as_are_lacking_until_none_is() -> None:
    """One of the first three teaches; two are drawn, of which one does; one more is drawn, and does."""
    drawn, further = order()
    s = Scripted(f"{drawn[1]} {further[0]} {further[2]}", rounds=5)
    got, seen = s.fill()
    assert [g.problem_id for g in got.groups] == [p.problem.id for p in got.rollouts] == [*drawn, *further[:3]]
    assert seen == counts(3, 6)
    assert s.sampler.calls == [{"v": 3}, {"v": 2}, {"v": 1}]
    assert s.audited == [3, 5, 6]  # the votes are counted as of all together
    assert s.scored == [drawn, further[:2], further[2:3]]  # nobody twice: it is the learner who computes
    # Nobody's samples depend on when they were drawn.
    alone = {r.prompt.problem_id: r.seeds for r, _, _ in s.sampler.asked}
    other = Scripted("", 5)
    list(other.sampler.sample(ASKS, PROBLEMS, 7, (1, "train", 1)))
    assert alone == {r.prompt.problem_id: r.seeds for r, _, _ in other.sampler.asked if r.prompt.problem_id in alone}


def test_it_ends_at_the_limit_of_rounds() -> None:
    got, seen = Scripted("", rounds=1).fill()
    assert len(got.groups) == 6
    assert seen == counts(2, 6)


def test_it_ends_when_there_are_no_other_problems() -> None:
    got, seen = Scripted("", rounds=9).fill()
    assert sorted(g.problem_id for g in got.groups) == [p.id for p in PROBLEMS]
    assert seen == counts(3, 8)


def test_nothing_is_drawn_where_nothing_is_lacking_and_nothing_judged_where_it_is_off() -> None:
    drawn, _ = order()
    s = Scripted(" ".join(drawn), rounds=2)
    assert s.fill()[1] == counts(1, 3)
    off = Scripted("", rounds=0)
    got, seen = off.fill()
    assert (len(got.groups), seen, off.audited) == (3, {}, [])


def test_the_method_forgets_what_it_was_asked_on_the_way() -> None:
    s = Scripted("", rounds=2)
    s.method.judged = 5
    s.fill()
    assert s.method.judged == 5


RUN = (
    "rollout.dynamic_sampling=2",
    "rollout.problems_per_step=3",
    "eval.every=0",
    "checkpoint.every=2",
    "method.selector=reliability",
    "rollout.temperature=0.5",  # colder, so that all samples of some problems earn the same
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("runs") / "whole"
    small_run(run_dir, *RUN, "steps=4")
    return run_dir


def taught(run_dir: Path, step: int) -> set[str]:
    """The problems whose recorded rewards differ within a view that has a label."""
    seen: dict[tuple[str, str], set[float]] = {}
    for row in samples(run_dir):
        if row["step"] == step and row["label"] is not None:
            seen.setdefault((row["problem_id"], row["view"]), set()).add(round(row["reward"], 9))
    return {problem for (problem, _), rewards in seen.items() if len(rewards) > 1}


def test_a_run_learns_from_as_many_problems_as_it_says(whole: Path) -> None:
    for row in rows(whole):
        own = {s["problem_id"] for s in samples(whole) if s["step"] == row["step"]}
        assert row["rollout/num_problems"] == len(own) == len([r for r in read_ledger(whole) if r.step == row["step"]])
        assert row["train/num_problems"] == len(taught(whole, row["step"])) <= 3
        assert row["train/num_problems"] == 3 or row["rollout/num_rounds"] == 3 or len(own) == 8
        assert row["rollout/complete_share"] == 1
    assert any(row["rollout/num_rounds"] > 1 for row in rows(whole))


def test_resumed_it_is_the_same_run(whole: Path) -> None:
    parts = whole.with_name("parts")
    small_run(parts, *RUN, "steps=2")
    small_run(parts, *RUN, "steps=4", resume=True)
    assert weights(parts / "model") == weights(whole / "model")
    assert samples(parts) == samples(whole)
    assert steady(parts)[2:] == steady(whole)[2:]


def test_with_lag_further_problems_come_from_the_engines_weights(whole: Path) -> None:
    ahead = whole.with_name("ahead")
    small_run(ahead, *RUN, "steps=4", "rollout.lag=1", "checkpoint.every=4")
    versions = {step: {s["policy_version"] for s in samples(ahead) if s["step"] == step} for step in (1, 2, 3, 4)}
    assert versions == {1: {0}, 2: {0}, 3: {1}, 4: {2}}
    assert any(row["rollout/num_rounds"] > 1 for row in rows(ahead)[1:])
