"""Problems to sample requests and back: every view of a problem is asked in one call and returns as one group.

A view that asks twice has its drafts sampled along with the other views' responses, and its own responses in a second call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from harmonyray.protocols import Sampler, StagedView, View
from harmonyray.seeding import derive_seed
from harmonyray.types import Problem, ProblemRollouts, Rollout, SampleRequest, Sampling

Seeds = tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class Ask:
    """How a view is asked: for how many samples of a problem, sampled how. `trained`: whether the trained model answers."""

    view: View
    num_samples: int
    sampling: Sampling
    trained: bool = True

    @property
    def draft_sampling(self) -> Sampling:
        """How the first call of a view that asks twice is sampled; `sampling` itself for any other."""
        return self.view.draft_sampling(self.sampling) if isinstance(self.view, StagedView) else self.sampling

    @property
    def num_first(self) -> int:
        """How many rollouts the first call draws: the samples, or the drafts that lead to them (the last may lead to fewer)."""
        return -(-self.num_samples // self.view.samples_per_draft) if isinstance(self.view, StagedView) else self.num_samples


def sample_problems(
    sampler: Sampler, asks: Sequence[Ask], problems: Sequence[Problem], policy_version: int, seed_parts: Seeds
) -> list[ProblemRollouts]:
    """The rollouts of the problems in all views `asks` [V], in order.

    Sample n of view v draws from the seed (*seed_parts, problem, view, n), draft d from (..., view, "draft", d).
    """
    first = {
        ask.view.name: [
            SampleRequest(ask.view.render(p), _seeds(ask.num_first, *seed_parts, p.id, ask.view.name, *_kind(ask.view)))
            for p in problems
        ]
        for ask in asks
    }
    sampled = sampler.sample(first, {ask.view.name: ask.draft_sampling for ask in asks}, policy_version)
    staged = [(ask, ask.view) for ask in asks if isinstance(ask.view, StagedView)]
    if staged:
        second = {v.name: _follow_ups(v, ask.num_samples, problems, sampled[v.name], seed_parts) for ask, v in staged}
        answers = sampler.sample(second, {view.name: ask.sampling for ask, view in staged}, policy_version)
        for _, view in staged:
            sampled[view.name] = _by_problem(sampled[view.name], answers[view.name])
    return [ProblemRollouts(p, tuple(sampled[ask.view.name][i] for ask in asks)) for i, p in enumerate(problems)]


def _seeds(count: int, *parts: int | str) -> tuple[int, ...]:
    return tuple(derive_seed(*parts, n) for n in range(count))


def _kind(view: View) -> tuple[str, ...]:
    return ("draft",) if isinstance(view, StagedView) else ()


def _follow_ups(
    view: StagedView, num_samples: int, problems: Sequence[Problem], drafts: Sequence[tuple[Rollout, ...]], seed_parts: Seeds
) -> list[SampleRequest]:
    """One request a draft, in the order problems × drafts."""
    out = []
    for problem, group in zip(problems, drafts, strict=True):
        seeds = _seeds(num_samples, *seed_parts, problem.id, view.name)
        for d, draft in enumerate(group):
            own = seeds[d * view.samples_per_draft : (d + 1) * view.samples_per_draft]
            out.append(SampleRequest(view.follow_up(problem, draft.text), own))
    return out


def _by_problem(drafts: Sequence[tuple[Rollout, ...]], answers: Sequence[tuple[Rollout, ...]]) -> list[tuple[Rollout, ...]]:
    """Every problem's responses in the order of their drafts, each with its draft."""
    groups = iter(answers)
    return [tuple(replace(rollout, draft=draft) for draft in group for rollout in next(groups)) for group in drafts]
