"""The data that flows through a step: plain, frozen, slotted. No behaviour beyond shapes, no heavy imports.

Letters for shapes: V views, N samples per view, C clusters, P problems per step, B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

T = TypeVar("T", covariant=True)


@dataclass(frozen=True, slots=True)
class Problem:
    """A question without its answer. `kind` tells the extraction what an answer looks like: math, number or choice;
    `category` (a level, a subject) is what evaluations are broken down by, empty for none; `rewordings` are other wordings of
    the question that came with the data, by the name of their column."""

    id: str
    text: str
    kind: str = "math"
    choices: tuple[str, ...] = ()
    category: str = ""
    rewordings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GoldAnswer:
    """The reference answer of one problem. Only evaluation, and methods that declare `needs_gold`, may hold one."""

    problem_id: str
    text: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a view asks an engine: plain `text`, or chat `messages` for the tokenizer's template (exactly one of them).

    `template_options` are passed on to the chat template (`enable_thinking`, for one). `response_prefix` is how the response
    begins: the engine generates what follows, and a rollout's text does not repeat it.
    """

    problem_id: str
    view: str
    text: str | None = None
    messages: tuple[Mapping[str, str], ...] = ()
    template_options: Mapping[str, Any] = field(default_factory=dict)
    response_prefix: str = ""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample. `temperature` 0 is greedy. `top_p` 1 keeps the whole distribution (training needs that). A response ends
    before the first of the texts in `stop`, whose tokens still belong to the rollout."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """One prompt, one seed per wanted sample and how to sample; the samples of a request are one group and travel together."""

    prompt: Prompt
    seeds: tuple[int, ...]
    sampling: Sampling


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no group: a request that ran out of time or memory, or whose response was malformed."""

    reason: str


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled response.

    `prompt_ids` int[T_prompt] and `token_ids` int[T] are tokens (`token_ids` includes the stop token when one was
    sampled), `logprobs` float32[T] the log-probability (nats) of each sampled token under the engine's policy at the
    sampling temperature. `finish_reason` is "stop" or "length". `policy_version` is the one that the first token was drawn
    under; `changed_policy` says that a later one drew the last. `draft` is the rollout whose text `prompt` was made from, in a
    view that asks twice (see `protocols.StagedView`); several rollouts may share one. `too_long`: of a draft, whether the prompt
    made from it would be.
    """

    prompt: Prompt
    prompt_ids: IntArray
    token_ids: IntArray
    logprobs: Float32Array
    text: str
    finish_reason: str
    policy_version: int
    draft: Rollout | None = None
    changed_policy: bool = False
    too_long: bool = False

    @property
    def used_text(self) -> str:
        """What is made of a draft: its text, or nothing if the prompt made from that would be too long."""
        return "" if self.too_long else self.text


@dataclass(frozen=True, slots=True)
class ParsedResponse:
    """What a view read out of one response. `missing` in [0, 1] is the share of required sections that are absent or
    placeholders (0 for a view without sections); `copied` in [0, 1] the share of the rewording's 5-grams taken from
    the original question."""

    answer: str | None
    missing: float = 0.0
    copied: float = 0.0
    rewritten: str | None = None
    strategy: str | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """What is kept of a ParsedResponse when its texts are put away. `strategy`: the named one's short name; `reworded`: whether
    there was a rewording; `numbers_kept`: the share of the question's distinct numbers that it states too, None without a
    rewording or without numbers."""

    answer: str | None
    missing: float = 0.0
    copied: float = 0.0
    strategy: str | None = None
    reworded: bool = False
    numbers_kept: float | None = None


@dataclass(frozen=True, slots=True)
class Texts:
    """What the views read at length, [V][N]: rewordings, and strategies as they were written; None where there is none."""

    rewritten: tuple[tuple[str | None, ...], ...]
    strategy: tuple[tuple[str | None, ...], ...]


class Kept(Protocol[T]):
    """A value that may be in another process's memory, or on another machine: `get` brings it here.

    Raises RolloutsLostError if it is gone with its node.
    """

    def get(self) -> T: ...


@dataclass(frozen=True, slots=True)
class Here(Generic[T]):
    """A `Kept` that is in this process."""

    value: T

    def get(self) -> T:
        return self.value


@dataclass(frozen=True, slots=True)
class GroupFigures:
    """What is known of a group's N rollouts without their content: `lengths` int[N] in tokens, `truncated` bool[N] (ended by
    the limit), `mixed` bool[N] (begun under one policy version and ended under another), `draft_of` int[N] which of the D
    drafts each came from (-1: none), `draft_lengths` int[D], `drafts_too_long` bool[D] (for a second prompt). Drafts are numbered
    by the sample that they first appear at."""

    lengths: IntArray
    truncated: BoolArray
    mixed: BoolArray
    draft_of: IntArray
    draft_lengths: IntArray
    drafts_too_long: BoolArray


@dataclass(frozen=True, slots=True)
class RolloutGroup:
    """The samples of one problem in one view: their figures here, the rollouts [N] wherever they are kept."""

    figures: GroupFigures
    kept: Kept[tuple[Rollout, ...]]


@dataclass(frozen=True, slots=True)
class ProblemRollouts:
    """Everything sampled for one problem: `groups` [V], views in the run's order. It is never split."""

    problem: Problem
    groups: tuple[RolloutGroup, ...]

    def fetch(self) -> tuple[tuple[Rollout, ...], ...]:
        """The rollouts themselves, [V][N]. Raises RolloutsLostError."""
        return tuple(group.kept.get() for group in self.groups)


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """A problem that could not be sampled in `view`: the `attempt` (from 1), why it failed, and whether it was the `last`; the
    problem is left out then."""

    problem_id: str
    view: str
    attempt: int
    reason: str
    last: bool


@dataclass(frozen=True, slots=True)
class AnswerGroup:
    """The answers of one problem, clustered over all of its views.

    `cluster_ids` int[V, N]: cluster of each sample, -1 where it has no answer or past `num_samples[v]`.
    `num_samples` int[V]. `representatives` [C]: the text of each cluster's first member; clusters are numbered by the
    sample at which they first appear. `read[v][n]` is what the view read, without the `texts`. `num_timeouts`: comparisons given
    up. `statistics`: for a method that asks for them (see `protocols.TOKEN_STATISTICS`), by name the means over each sample's
    response tokens, float[V, N], nan past `num_samples[v]`.
    """

    problem_id: str
    cluster_ids: IntArray
    num_samples: IntArray
    representatives: tuple[str, ...]
    read: tuple[tuple[Reading, ...], ...] = ()
    texts: Kept[Texts] = Here(Texts((), ()))
    num_timeouts: int = 0
    statistics: Mapping[str, FloatArray] = field(default_factory=dict)

    def counts(self) -> IntArray:
        """Samples per cluster and view, int[C, V]."""
        out = np.zeros((len(self.representatives), len(self.num_samples)), dtype=np.int64)
        for v, row in enumerate(self.cluster_ids):
            out[:, v] = np.bincount(row[row >= 0], minlength=len(self.representatives))
        return out


@dataclass(frozen=True, slots=True)
class Collected:
    """`rollouts` [P] and `groups` [P] of the problems that are whole, in the order they were asked in; every `failed` attempt;
    and the seconds until the last response, and from there to the last grade."""

    rollouts: Sequence[ProblemRollouts]
    groups: Sequence[AnswerGroup]
    failed: Sequence[FailedAttempt]
    generate_s: float
    grade_s: float


@dataclass(frozen=True, slots=True)
class Consensus:
    """A selector's verdict on one problem.

    `label` [V]: the pseudo-label's cluster for each view, or None where the selector abstains (most selectors give every
    view the same one). `scores` float[C], or float[C, V] where views are judged apart; `support` float[C, V] are the
    frequencies p[c, v]; `margin` is the winner's score minus the runner-up's (the winner's own score if it is alone).
    """

    label: tuple[int | None, ...]
    scores: FloatArray
    support: FloatArray
    margin: float
    tie: bool = False


@dataclass(frozen=True, slots=True)
class Judgement:
    """A method's verdict on one problem: `rewards` float[V, N] (nan past a view's samples, and for those that only voted) and
    `trained` bool[V], false for the views whose samples are left out of the update (an abstention, for one)."""

    group: AnswerGroup
    consensus: Consensus
    rewards: FloatArray
    trained: BoolArray
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GroupRows:
    """The rows that one group's rollouts, or their distinct drafts (`of_drafts`), are in an update: `advantages` float[N] (or
    [D]; nan: no row), the `part` of the loss they belong to, the temperature they were sampled at, and the index of their
    `problem` in the step. `num_tokens` int[N]: how many of a response's tokens count, from its first; None: all. The content
    stays where it is kept."""

    kept: Kept[tuple[Rollout, ...]]
    of_drafts: bool
    advantages: FloatArray
    part: int
    temperature: float
    problem: int
    num_tokens: IntArray | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows of one update, right-padded. Rows of a problem are adjacent and no row leaves without the others.

    `token_ids` int[B, T] prompt and response; `lengths` int[B] tokens in use; `response_mask` bool[B, T] true on the response
    tokens that count; `old_logprobs` float32[B, T] the engine's, and `advantages` float32[B, T], both 0 outside the mask;
    `part` int[B]: the part of the loss a row belongs to, which is averaged on its own (a view's responses, a view's drafts).
    `temperatures` float32[B] are those the rows were sampled at; `problem` int[B] is the index of each row's problem in the step.
    """

    token_ids: IntArray
    lengths: IntArray
    response_mask: BoolArray
    old_logprobs: Float32Array
    advantages: Float32Array
    part: IntArray
    temperatures: Float32Array
    problem: IntArray

    @property
    def num_rows(self) -> int:
        return len(self.lengths)


@dataclass(frozen=True, slots=True)
class UpdateReport:
    """What an update did: the policy version after it and its metrics."""

    policy_version: int
    metrics: Mapping[str, float]
