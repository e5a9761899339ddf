"""Problems to sample requests and back: every view of a problem is asked in one call and returns as one group.

A view that asks twice has its drafts sampled along with the other views' responses, and its own responses in a second call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from harmonyray.protocols import Sampler, StagedView, View
from harmonyray.seeding import derive_seed
from harmonyray.types import Problem, ProblemRollouts, Rollout, SampleRequest, Sampling

Seeds = tuple[int | str, ...]


def sample_problems(
    sampler: Sampler,
    views: Sequence[View],
    num_samples: Sequence[int],
    problems: Sequence[Problem],
    sampling: Sequence[Sampling],
    policy_version: int,
    seed_parts: Seeds,
) -> list[ProblemRollouts]:
    """All views' rollouts of the problems, in order; `num_samples` [V] and `sampling` [V] belong to the views.

    Sample n of view v draws from the seed (*seed_parts, problem, view, n), draft d from (..., view, "draft", d).
    """
    first = {
        view.name: [
            SampleRequest(view.render(p), _seeds(_num_first(view, n), *seed_parts, p.id, view.name, *_kind(view)))
            for p in problems
        ]
        for view, n in zip(views, num_samples, strict=True)
    }
    how = {view.name: (s, _draft_sampling(view, s)) for view, s in zip(views, sampling, strict=True)}
    sampled = sampler.sample(first, {name: drafts for name, (_, drafts) in how.items()}, policy_version)
    staged = [(view, n) for view, n in zip(views, num_samples, strict=True) if isinstance(view, StagedView)]
    if staged:
        second = {view.name: _follow_ups(view, n, problems, sampled[view.name], seed_parts) for view, n in staged}
        answers = sampler.sample(second, {view.name: how[view.name][0] for view, _ in staged}, policy_version)
        for view, _ in staged:
            sampled[view.name] = _by_problem(sampled[view.name], answers[view.name])
    return [ProblemRollouts(p, tuple(sampled[view.name][i] for view in views)) for i, p in enumerate(problems)]


def _seeds(count: int, *parts: int | str) -> tuple[int, ...]:
    return tuple(derive_seed(*parts, n) for n in range(count))


def _kind(view: View) -> tuple[str, ...]:
    return ("draft",) if isinstance(view, StagedView) else ()


def _num_first(view: View, num_samples: int) -> int:
    """How many rollouts the first call draws: the samples, or the drafts that lead to them (the last may lead to fewer)."""
    return -(-num_samples // view.samples_per_draft) if isinstance(view, StagedView) else num_samples


def _draft_sampling(view: View, sampling: Sampling) -> Sampling:
    return view.draft_sampling(sampling) if isinstance(view, StagedView) else sampling


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
