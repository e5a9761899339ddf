"""Problems to sample requests and back: every view of a problem is asked in one call and returns as one group."""

from __future__ import annotations

from collections.abc import Sequence

from harmonyray.protocols import Sampler, View
from harmonyray.seeding import derive_seed
from harmonyray.types import Problem, ProblemRollouts, SampleRequest, Sampling


def sample_problems(
    sampler: Sampler,
    views: Sequence[View],
    num_samples: Sequence[int],
    problems: Sequence[Problem],
    sampling: Sampling,
    policy_version: int,
    seed_parts: tuple[int | str, ...],
) -> list[ProblemRollouts]:
    """All views' rollouts of the problems, in order. Sample n of view v draws from the seed (*seed_parts, problem, view, n)."""
    requests = {
        view.name: [
            SampleRequest(view.render(p), tuple(derive_seed(*seed_parts, p.id, view.name, n) for n in range(count)))
            for p in problems
        ]
        for view, count in zip(views, num_samples, strict=True)
    }
    sampled = sampler.sample(requests, sampling, policy_version)
    return [ProblemRollouts(p, tuple(sampled[view.name][i] for view in views)) for i, p in enumerate(problems)]
