"""One problem in one view: what an engine is asked for, what comes back, and when a problem is whole.

A view that asks twice has its drafts sampled first, and its responses as soon as a problem's drafts are there. Nothing here
knows where an engine is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from harmonyray.protocols import Ask, Engine, Seeds, StagedView, View
from harmonyray.seeding import derive_seed
from harmonyray.types import (
    FailedAttempt,
    Failure,
    GroupFigures,
    Here,
    Problem,
    ProblemRollouts,
    Rollout,
    RolloutGroup,
    SampleRequest,
)

Place = tuple[int, int]
"""A view's and a problem's index: what is asked for and counted."""


@dataclass(frozen=True, slots=True)
class Want:
    """One problem in one view. Sample n draws from the seed (*seed_parts, problem, view, n), draft d from
    (*seed_parts, problem, view, "draft", d)."""

    ask: Ask
    problem: Problem
    seed_parts: Seeds

    def seeds(self, count: int, *kind: str) -> tuple[int, ...]:
        parts = (*self.seed_parts, self.problem.id, self.ask.view.name, *kind)
        return tuple(derive_seed(*parts, n) for n in range(count))

    def request(self) -> SampleRequest:
        """The first that an engine is asked: for the samples, or for the drafts that lead to them."""
        kind = ("draft",) if isinstance(self.ask.view, StagedView) else ()
        prompt = self.ask.view.render(self.problem)
        return SampleRequest(prompt, self.seeds(self.ask.num_first, *kind), self.ask.draft_sampling)

    def follow_ups(self, drafts: Sequence[Rollout]) -> list[SampleRequest]:
        """The requests that a problem's drafts lead to, one for each."""
        view, seeds = self.ask.view, self.seeds(self.ask.num_samples)
        assert isinstance(view, StagedView)
        each = view.samples_per_draft
        prompts = [view.follow_up(self.problem, draft.used_text) for draft in drafts]
        return [SampleRequest(p, seeds[d * each : (d + 1) * each], self.ask.sampling) for d, p in enumerate(prompts)]

    def measured(self, engine: Engine, drafts: tuple[Rollout, ...]) -> tuple[Rollout, ...]:
        """The drafts, with the mark of those whose second prompt would be too long."""
        view, limit = self.ask.view, self.ask.max_prompt_tokens
        assert isinstance(view, StagedView)
        if limit is None:
            return drafts
        lengths = engine.count_tokens([view.follow_up(self.problem, draft.text) for draft in drafts])
        return tuple(replace(draft, too_long=length > limit) for draft, length in zip(drafts, lengths, strict=True))


@dataclass(slots=True)
class _Staged:
    """The drafts of a want, and the responses to each, which come in any order."""

    drafts: tuple[Rollout, ...]
    answers: dict[int, tuple[Rollout, ...]] = field(default_factory=dict)

    def responses(self) -> tuple[Rollout, ...] | None:
        """All responses in the order of their drafts, each with its draft; None while some are missing."""
        if len(self.answers) < len(self.drafts):
            return None
        return tuple(replace(r, draft=draft) for d, draft in enumerate(self.drafts) for r in self.answers[d])


def serve(
    engine: Engine, wants: Sequence[Want], policy_version: int | None, timeout_s: float | None
) -> Iterator[tuple[int, tuple[Rollout, ...] | Failure]]:
    """The rollouts [N] of each want as they finish, with the want's index; a Failure if any of its requests failed."""
    requests = [want.request() for want in wants]
    owners: list[tuple[int, int | None]] = [(w, None) for w in range(len(wants))]  # of each request: want, and which draft's
    staged: dict[int, _Staged] = {}
    failed: set[int] = set()
    for r, group in engine.stream(requests, policy_version, timeout_s):
        w, d = owners[r]
        own: tuple[Rollout, ...] | Failure | None = None
        if w in failed:
            continue
        if isinstance(group, Failure):
            failed.add(w)
            own = group
        elif not isinstance(wants[w].ask.view, StagedView):
            own = group
        elif d is None:
            staged[w] = _Staged(wants[w].measured(engine, group))
            more = wants[w].follow_ups(staged[w].drafts)
            owners += [(w, draft) for draft in range(len(more))]
            requests += more  # the engine serves what joins while it streams
        else:
            staged[w].answers[d] = group
            own = staged[w].responses()
        if own is not None:
            yield w, own


def prompt_lengths(engine: Engine, view: View, problems: Sequence[Problem]) -> list[int]:
    """The lengths in tokens of the problems' prompts in a view; where it asks twice, of the longer of both, without a draft."""
    lengths = engine.count_tokens([view.render(p) for p in problems])
    if not isinstance(view, StagedView):
        return lengths
    return [max(pair) for pair in zip(lengths, engine.count_tokens([view.follow_up(p, "") for p in problems]), strict=True)]


def figures(rollouts: Sequence[Rollout]) -> GroupFigures:
    """What is known of a group without its content."""
    drafts = distinct_drafts(rollouts)
    number = {id(draft): d for d, draft in enumerate(drafts)}
    return GroupFigures(
        lengths=np.array([len(r.token_ids) for r in rollouts], dtype=np.int64),
        truncated=np.array([r.finish_reason == "length" for r in rollouts], dtype=bool),
        mixed=np.array([r.changed_policy for r in rollouts], dtype=bool),
        draft_of=np.array([-1 if r.draft is None else number[id(r.draft)] for r in rollouts], dtype=np.int64),
        draft_lengths=np.array([len(draft.token_ids) for draft in drafts], dtype=np.int64),
        drafts_too_long=np.array([draft.too_long for draft in drafts], dtype=bool),
    )


def keep(rollouts: tuple[Rollout, ...]) -> RolloutGroup:
    """A group whose content stays in this process."""
    return RolloutGroup(figures(rollouts), Here(rollouts))


def distinct_drafts(rollouts: Sequence[Rollout]) -> list[Rollout]:
    """The drafts of a group's rollouts, each once, in the order they first appear."""
    return list({id(r.draft): r.draft for r in rollouts if r.draft is not None}.values())


class Tally:
    """What is still wanted of the problems of one call, and which of them are whole. Views `asks` [V], places (v, i)."""

    def __init__(self, asks: Sequence[Ask], problems: Sequence[Problem], seed_parts: Seeds, max_attempts: int) -> None:
        self.asks, self.problems, self.seed_parts, self.max_attempts = asks, problems, seed_parts, max_attempts
        self._groups: list[dict[int, RolloutGroup]] = [{} for _ in problems]
        self._attempts: dict[Place, int] = {}
        self._left_out: set[int] = set()

    def places(self) -> list[Place]:
        """Everything that is wanted, view by view."""
        return [(v, i) for v in range(len(self.asks)) for i in range(len(self.problems))]

    def want(self, place: Place) -> Want:
        """What to ask for; another attempt draws from other seeds, since the old ones might fail again."""
        (v, i), attempt = place, self._attempts.get(place, 1)
        again = ("attempt", attempt) if attempt > 1 else ()
        return Want(self.asks[v], self.problems[i], (*self.seed_parts, *again))

    def put(self, place: Place, group: RolloutGroup) -> ProblemRollouts | None:
        """Takes a group; the problem if it is whole now, unless it is left out."""
        v, i = place
        self._groups[i][v] = group
        if i in self._left_out or len(self._groups[i]) < len(self.asks):
            return None
        return ProblemRollouts(self.problems[i], tuple(self._groups[i][view] for view in range(len(self.asks))))

    def fail(self, place: Place, reason: str) -> FailedAttempt:
        """Takes a failure; unless it is the `last`, the place is to be asked for again."""
        v, i = place
        attempt = self._attempts.get(place, 1)
        self._attempts[place] = attempt + 1
        last = attempt >= self.max_attempts or i in self._left_out
        if last:
            self._left_out.add(i)
        return FailedAttempt(self.problems[i].id, self.asks[v].view.name, attempt, reason, last)

    def left_out(self, place: Place) -> bool:
        """Whether the place's problem has failed for good, in this view or another."""
        return place[1] in self._left_out
