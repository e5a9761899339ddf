"""What an engine is asked, with which seeds, and when a problem is whole, is tried again or is left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from harmonyray.config import load_config
from harmonyray.inprocess import InProcessRuntime
from harmonyray.protocols import Ask
from harmonyray.rollouts import Tally, Want, distinct_drafts, figures, keep, prompt_lengths, serve
from harmonyray.seeding import derive_seed
from harmonyray.types import FailedAttempt, Failure, Problem, ProblemRollouts, Prompt, Rollout, SampleRequest, Sampling
from harmonyray.views.reframer import StagedReframer
from harmonyray.views.solver import Solver

PROBLEMS = [Problem("p", "1+1"), Problem("q", "2+2")]
SOLVER = Solver("solver", Solver.Options(template="{question}"))
STAGED = StagedReframer(
    "staged",
    StagedReframer.Options(draft_template="reword {question}", solve_template="{draft}!", samples_per_draft=2, draft_stop=("#",)),
)
SEEDS = (7, "train", 3)


def fine(request: SampleRequest) -> Failure | None:
    return None


class Echo:
    """An engine that answers with the prompt and the seed, the last request first; `fails` may refuse one."""

    policy_version = 4

    def __init__(self, fails: Callable[[SampleRequest], Failure | None] = fine) -> None:
        self.fails, self.asked, self.timeouts = fails, list[SampleRequest](), list[float | None]()

    def count_tokens(self, prompts: object) -> list[int]:
        raise NotImplementedError

    def sample(self, requests: object, policy_version: object) -> list[tuple[Rollout, ...]]:
        raise NotImplementedError

    def stream(
        self, requests: list[SampleRequest], policy_version: int | None, timeout_s: float | None = None
    ) -> Iterator[tuple[int, tuple[Rollout, ...] | Failure]]:
        assert policy_version == 4
        self.timeouts.append(timeout_s)
        served = 0
        while served < len(requests):
            first, served = served, len(requests)
            for i in reversed(range(first, served)):
                self.asked.append(requests[i])
                yield i, self.fails(requests[i]) or tuple(echo(requests[i].prompt, seed) for seed in requests[i].seeds)


def echo(prompt: Prompt, seed: int) -> Rollout:
    one = np.ones(1, dtype=np.int64)
    return Rollout(prompt, one, one, one.astype(np.float32), f"{prompt.text}@{seed}", "stop", 4)


def seed(*parts: int | str) -> int:
    return derive_seed(*SEEDS, *parts)


def test_every_request_and_seed_of_a_staged_view_beside_another() -> None:
    """Five samples of two for each draft: three drafts, the last of which leads to one."""
    plain, cool = Sampling(8), Sampling(9, 0.5, stop=(".",))
    engine = Echo()
    wants = [Want(ask, p, SEEDS) for ask in (Ask(SOLVER, 2, plain), Ask(STAGED, 5, cool)) for p in PROBLEMS]
    got = dict(serve(engine, wants, 4, 2.5))
    assert engine.timeouts == [2.5]
    asked = {view: [r for r in engine.asked if r.prompt.view == view] for view in ("solver", "staged")}
    drafts, answers = asked["staged"][:2], asked["staged"][2:]
    assert {r.sampling for r in asked["solver"]} == {plain}
    assert {r.sampling for r in drafts} == {Sampling(9, 0.5, stop=("#",))} and {r.sampling for r in answers} == {cool}
    assert [r.seeds for r in asked["solver"]] == [tuple(seed(p, "solver", n) for n in range(2)) for p in "qp"]
    assert [r.seeds for r in drafts] == [tuple(seed(p, "staged", "draft", d) for d in range(3)) for p in "qp"]
    for p in "pq":
        own = [r.seeds for r in answers if r.prompt.problem_id == p]
        assert own == [tuple(seed(p, "staged", n) for n in ns) for ns in ([4], [2, 3], [0, 1])]
    for i, problem in enumerate(PROBLEMS):
        solver, staged = got[i], got[2 + i]
        assert not isinstance(solver, Failure) and not isinstance(staged, Failure)
        assert [r.draft for r in solver] == [None, None]
        texts = [f"reword {problem.text}@{seed(problem.id, 'staged', 'draft', d)}" for d in (0, 0, 1, 1, 2)]
        assert [r.draft.text for r in staged if r.draft] == texts
        assert [r.text for r in staged] == [f"{d}!@{seed(problem.id, 'staged', n)}" for n, d in enumerate(texts)]
        assert staged[0].draft is staged[1].draft


def test_a_staged_want_fails_once_whichever_of_its_requests_failed() -> None:
    wants = [Want(Ask(STAGED, 5, Sampling(8)), p, SEEDS) for p in PROBLEMS]
    slow = Failure("too slow")

    def answers_of_p(r: SampleRequest) -> Failure | None:
        return slow if r.prompt.problem_id == "p" and not (r.prompt.text or "").startswith("reword 1+1!") else None

    whole = list(serve(Echo(), wants, 4, None))
    assert sorted(w for w, _ in whole) == [0, 1]
    got = list(serve(Echo(answers_of_p), wants, 4, None))
    assert [(w, isinstance(group, Failure)) for w, group in sorted(got, key=lambda item: item[0])] == [(0, True), (1, False)]


class Letters(Echo):
    """Counts a prompt's letters, a hundred more for one that names the seed `long`."""

    long: int | None = None

    def count_tokens(self, prompts: Any) -> list[int]:
        return [len(prompt.text) + 100 * (str(self.long) in prompt.text) for prompt in prompts]


def test_a_draft_whose_second_prompt_is_too_long_counts_as_an_empty_one() -> None:
    """Three drafts, of which the second is too long: "reword 1+1@" and its seed."""
    seeds = [seed("p", "staged", "draft", d) for d in range(3)]
    engine = Letters()
    engine.long = seeds[1]
    ask = Ask(STAGED, 5, Sampling(8), max_prompt_tokens=100)
    ((_, got),) = serve(engine, [Want(ask, PROBLEMS[0], SEEDS)], 4, None)
    assert not isinstance(got, Failure)
    drafts = [f"reword 1+1@{s}" for s in seeds]
    assert [r.draft.text for r in got if r.draft] == [drafts[d] for d in (0, 0, 1, 1, 2)], "records keep what was said"
    assert [r.prompt.text for r in got] == [f"{drafts[0]}!", f"{drafts[0]}!", "!", "!", f"{drafts[2]}!"]
    assert figures(got).drafts_too_long.tolist() == [False, True, False]
    assert [r.draft.used_text for r in got if r.draft][1:3] == [drafts[0], ""]


def test_a_prompt_is_as_long_as_the_longer_of_both() -> None:
    assert prompt_lengths(Letters(), SOLVER, PROBLEMS) == [3, 3]
    assert prompt_lengths(Letters(), STAGED, PROBLEMS) == [10, 10]
    options = STAGED.options.model_copy(update={"solve_template": "{question} by way of {draft}"})
    assert prompt_lengths(Letters(), StagedReframer("staged", options), PROBLEMS) == [14, 14]


def test_figures_by_hand() -> None:
    prompt = Prompt("p", "v", text="?")
    ids = np.arange(3)

    def one(length: int, reason: str, draft: Rollout | None, changed: bool = False) -> Rollout:
        return Rollout(prompt, ids, np.arange(length), np.zeros(length, np.float32), "", reason, 0, draft, changed)

    a, b = one(4, "stop", None), replace(one(6, "stop", None), too_long=True)
    group = (one(1, "stop", b), one(2, "length", a, True), one(3, "stop", b), one(5, "length", None))
    got = figures(group)
    assert got.lengths.tolist() == [1, 2, 3, 5]
    assert got.truncated.tolist() == [False, True, False, True]
    assert got.mixed.tolist() == [False, True, False, False]
    assert got.draft_of.tolist() == [0, 1, 0, -1]
    assert got.draft_lengths.tolist() == [6, 4]
    assert got.drafts_too_long.tolist() == [True, False]
    assert distinct_drafts(group) == [b, a]


def test_a_problem_is_whole_when_its_last_view_is() -> None:
    tally = Tally([Ask(SOLVER, 1, Sampling(8)), Ask(STAGED, 1, Sampling(8))], PROBLEMS, SEEDS, 2)
    assert tally.places() == [(0, 0), (0, 1), (1, 0), (1, 1)]
    group = keep((echo(Prompt("p", "solver", text=""), 1),))
    other = keep((echo(Prompt("p", "staged", text=""), 2),))
    assert tally.put((1, 0), other) is None
    assert tally.put((0, 1), group) is None
    assert tally.put((0, 0), group) == ProblemRollouts(PROBLEMS[0], (group, other))


def test_another_attempt_draws_from_other_seeds_and_the_last_leaves_the_problem_out() -> None:
    tally = Tally([Ask(SOLVER, 2, Sampling(8)), Ask(STAGED, 2, Sampling(8))], PROBLEMS, SEEDS, 2)
    first = tally.want((0, 1)).request().seeds
    assert tally.fail((0, 1), "slow") == FailedAttempt("q", "solver", 1, "slow", last=False)
    assert not tally.left_out((0, 1))
    again = tally.want((0, 1)).request().seeds
    assert again == tuple(derive_seed(*SEEDS, "attempt", 2, "q", "solver", n) for n in range(2))
    assert not set(first) & set(again)
    assert tally.fail((0, 1), "slower") == FailedAttempt("q", "solver", 2, "slower", last=True)
    assert tally.left_out((0, 1)) and tally.left_out((1, 1)) and not tally.left_out((0, 0))
    group = keep((echo(Prompt("q", "staged", text=""), 1),))
    assert tally.put((1, 1), group) is None and tally.put((0, 1), group) is None  # a late answer changes nothing


@pytest.mark.parametrize(("failures", "whole", "attempts"), [(1, ["q", "p"], [1]), (9, ["q"], [1, 2, 3])])
def test_in_process_a_failed_group_is_asked_again(failures: int, whole: list[str], attempts: list[int]) -> None:
    left = [failures]

    def fails(request: SampleRequest) -> Failure | None:
        if request.prompt.problem_id != "p" or left[0] == 0:
            return None
        left[0] -= 1
        return Failure("no luck")

    rollout = load_config("quickstart", ["rollout.request_timeout_s=5"]).rollout
    engine = Echo(fails)
    runtime = InProcessRuntime(engine, None, rollout)
    got = list(runtime.sample([Ask(SOLVER, 2, Sampling(8))], PROBLEMS, 4, SEEDS))
    assert [item.problem.id for item in got if isinstance(item, ProblemRollouts)] == whole
    failed = [item for item in got if isinstance(item, FailedAttempt)]
    assert [(f.attempt, f.reason) for f in failed] == [(n, "no luck") for n in attempts]
    assert [f.last for f in failed] == [n == 3 for n in attempts]
    assert set(engine.timeouts) == {5.0}
