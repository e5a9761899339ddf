"""What is asked, with which seeds, and how answers come back to their problems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from harmonyray.rollouts import Ask, sample_problems
from harmonyray.seeding import derive_seed
from harmonyray.types import Problem, Rollout, SampleRequest, Sampling
from harmonyray.views.reframer import StagedReframer
from harmonyray.views.solver import Solver

PROBLEMS = [Problem("p", "1+1"), Problem("q", "2+2")]
SOLVER = Solver("solver", Solver.Options(template="{question}"))
STAGED = StagedReframer(
    "staged",
    StagedReframer.Options(draft_template="reword {question}", solve_template="{draft}!", samples_per_draft=2, draft_stop=("#",)),
)


class Echo:
    """Answers with the prompt and the seed; keeps what it was asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[Mapping[str, Sequence[SampleRequest]], Mapping[str, Sampling], int]] = []

    def count_tokens(self, prompts: object) -> dict[str, list[int]]:
        raise NotImplementedError

    def sample(
        self, requests: Mapping[str, Sequence[SampleRequest]], sampling: Mapping[str, Sampling], policy_version: int
    ) -> dict[str, list[tuple[Rollout, ...]]]:
        self.calls.append((requests, sampling, policy_version))
        one = np.ones(1, dtype=np.int64)
        return {
            view: [
                tuple(
                    Rollout(r.prompt, one, one, one.astype(np.float32), f"{r.prompt.text}@{seed}", "stop", policy_version)
                    for seed in r.seeds
                )
                for r in asked
            ]
            for view, asked in requests.items()
        }


def seed(*parts: int | str) -> int:
    return derive_seed(7, "train", 3, *parts)


def test_every_call_and_seed_of_a_staged_view_beside_another() -> None:
    """Five samples of two for each draft: three drafts, the last of which leads to one."""
    sampler = Echo()
    plain, cool = Sampling(8), Sampling(9, 0.5, stop=(".",))
    got = sample_problems(sampler, [Ask(SOLVER, 2, plain), Ask(STAGED, 5, cool)], PROBLEMS, 4, (7, "train", 3))
    (first, how_first, version), (second, how_second, _) = sampler.calls
    assert version == 4
    assert how_first == {"solver": plain, "staged": Sampling(9, 0.5, stop=("#",))}
    assert how_second == {"staged": cool}
    assert [r.seeds for r in first["solver"]] == [tuple(seed(p, "solver", n) for n in range(2)) for p in "pq"]
    assert [r.seeds for r in first["staged"]] == [tuple(seed(p, "staged", "draft", d) for d in range(3)) for p in "pq"]
    for p in "pq":
        own = [r.seeds for r in second["staged"] if r.prompt.problem_id == p]
        assert own == [tuple(seed(p, "staged", n) for n in ns) for ns in ([0, 1], [2, 3], [4])]
    assert list(second) == ["staged"]
    for problem, rollouts in zip(PROBLEMS, got, strict=True):
        assert rollouts.problem == problem
        solver, staged = rollouts.rollouts
        assert [r.draft for r in solver] == [None, None]
        drafts = [f"reword {problem.text}@{seed(problem.id, 'staged', 'draft', d)}" for d in (0, 0, 1, 1, 2)]
        assert [r.draft.text for r in staged if r.draft] == drafts
        assert [r.text for r in staged] == [f"{d}!@{seed(problem.id, 'staged', n)}" for n, d in enumerate(drafts)]
        assert staged[0].draft is staged[1].draft


def test_views_that_ask_once_are_asked_once() -> None:
    sampler = Echo()
    sample_problems(sampler, [Ask(SOLVER, 3, Sampling(8))], PROBLEMS, 0, (1,))
    assert len(sampler.calls) == 1
