"""What the loop needs of its parts. Anything that has these methods can take a part's place, remote or in-process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from harmonyray.types import (
    AnswerGroup,
    Batch,
    Collected,
    Consensus,
    FailedAttempt,
    Failure,
    FloatArray,
    GroupRows,
    Judgement,
    ParsedResponse,
    Problem,
    ProblemRollouts,
    Prompt,
    Rollout,
    SampleRequest,
    Sampling,
    UpdateReport,
)

Seeds = tuple[int | str, ...]

UNTRAINED = 0
"""The policy version of a model as it was loaded; one that is not trained keeps it."""

TOKEN_STATISTICS = {
    "entropy": "entropy of the next-token distribution, nats",
    "self_certainty": "KL from the uniform distribution over the vocabulary to it, nats",
}
"""What a method may ask a learner for: each is averaged over the tokens of a response."""


class View(Protocol):
    """Renders prompts and parses responses; never calls a model."""

    name: str

    def render(self, problem: Problem) -> Prompt: ...

    def parse(self, problem: Problem, response: str) -> ParsedResponse: ...


@runtime_checkable
class StagedView(View, Protocol):
    """A view that asks twice: `render` asks for a draft (a rewording, say), `follow_up` asks for an answer by way of it.

    Every draft leads to `samples_per_draft` responses. `draft_sampling` says how drafts are sampled, given how responses are. A
    draft whose second prompt would be too long counts as an empty text: `follow_up` and `parse_staged` are given that.
    Optional: a view without these is asked once.
    """

    samples_per_draft: int

    def draft_sampling(self, sampling: Sampling) -> Sampling: ...

    def follow_up(self, problem: Problem, draft: str) -> Prompt: ...

    def parse_staged(self, problem: Problem, draft: str, response: str) -> ParsedResponse: ...


class Selector(Protocol):
    """Frequencies to a label. `counts` int[C, V], `num_samples` int[V]; `step` and `key` feed schedules and seeds."""

    def select(self, counts: Any, num_samples: Any, *, step: int = 0, key: str = "") -> Consensus: ...


@runtime_checkable
class BatchSelector(Protocol):
    """A selector that also takes many problems at once: counts [P] of int[C_p, V], num_samples int[P, V], keys [P].

    Gives what `select` gives one by one. Optional.
    """

    def select_many(
        self, counts: Sequence[Any], num_samples: Any, *, step: int = 0, keys: Sequence[str] | None = None
    ) -> list[Consensus]: ...


@runtime_checkable
class Stateful(Protocol):
    """Something that learns beside the weights: its state is JSON-ready and travels with the checkpoints. Optional."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


@runtime_checkable
class FittedSelector(Stateful, Protocol):
    """A selector that learns from unlabeled votes: `fit` sees all problems of a step (of a file) before any of them is selected.

    `needs_all` says whether it does (a wrapper of selectors that learn nothing does not). Optional.
    """

    needs_all: bool

    def fit(self, counts: Sequence[Any], num_samples: Any, *, step: int = 0) -> None: ...


@runtime_checkable
class WeighsViews(Protocol):
    """A selector, or a method that votes with one, whose views' weights can be multiplied by `factors` float[V] from step to
    step. Optional."""

    def weigh_views(self, factors: FloatArray) -> None: ...


class Method(Protocol):
    """Answer groups to rewards.

    Optional: `token_statistics`, names from TOKEN_STATISTICS that `judge` then finds in every group, computed by the learner with
    the weights that are about to be updated.
    """

    needs_gold: bool

    def judge(self, groups: Sequence[AnswerGroup], step: int) -> list[Judgement]: ...


def token_statistics(method: Any) -> tuple[str, ...]:
    """What a method, or its class, asks for; one of the user's own may say nothing of it."""
    wanted: tuple[str, ...] = getattr(method, "token_statistics", ())
    return wanted


class Advantage(Protocol):
    """Rewards float[V, N] of one problem to advantages of the same shape; nan (absent, untrained) stays nan."""

    def advantages(self, rewards: FloatArray) -> FloatArray: ...


class Loss(Protocol):
    """A policy loss per token: (loss, whether the clip was active), each of the inputs' shape (torch tensors).

    The tokens are a micro-batch's, row after row, and `rows` says which row each is in. `old_logprobs` are the learner's own
    where the objective weighs the engine's by itself. A loss with `corrects_lag = True` gets the engine's in any case and weighs
    them; the objective then does not. One with `clips = True` bounds the ratio to `old_logprobs`, and its options do nothing
    where these are the present ones: with weights by the objective only its defaults are accepted.
    """

    def per_token(self, logprobs: Any, old_logprobs: Any, advantages: Any, rows: Any) -> tuple[Any, Any]: ...


class Engine(Protocol):
    """Generates. `sample` returns one tuple of rollouts per request, in the requests' order; `stream` yields groups as they
    finish, each with its request's index, and a Failure in the place of a group that could not be made.

    `requests` of `stream` may grow while it is served: the caller may append between two groups. A request fails `timeout_s`
    seconds after the engine began with it. On actors it also takes part in broadcasts:
    `engines.receiving` says how. Both raise StaleWeightsError if `policy_version` is not the one held (None: any).
    """

    policy_version: int

    def count_tokens(self, prompts: Sequence[Prompt]) -> list[int]: ...

    def sample(self, requests: Sequence[SampleRequest], policy_version: int | None) -> list[tuple[Rollout, ...]]: ...

    def stream(
        self, requests: list[SampleRequest], policy_version: int | None, timeout_s: float | None = None
    ) -> Iterator[tuple[int, tuple[Rollout, ...] | Failure]]: ...


@dataclass(frozen=True, slots=True)
class Ask:
    """How a view is asked: for how many samples of a problem, sampled how. `trained`: whether the trained model answers.
    `first_view_mask`: whether its n-th response counts in an update no further than the first view's n-th is long.
    `max_prompt_tokens`: what the second prompt of a view that asks twice may have; None: no limit."""

    view: View
    num_samples: int
    sampling: Sampling
    trained: bool = True
    first_view_mask: bool = False
    max_prompt_tokens: int | None = None

    @property
    def draft_sampling(self) -> Sampling:
        """How the first call of a view that asks twice is sampled; `sampling` itself for any other."""
        return self.view.draft_sampling(self.sampling) if isinstance(self.view, StagedView) else self.sampling

    @property
    def num_first(self) -> int:
        """How many rollouts the first call draws: the samples, or the drafts that lead to them (the last may lead to fewer)."""
        return -(-self.num_samples // self.view.samples_per_draft) if isinstance(self.view, StagedView) else self.num_samples


@runtime_checkable
class Sleeps(Protocol):
    """An engine that can free memory for others while it is not needed. Optional."""

    def sleep(self) -> None: ...

    def wake(self) -> None: ...


class Sampler(Protocol):
    """All engines of all views behind one call.

    `sample` asks for every problem in every view of `asks` [V] at once, and yields a problem as soon as all of its views have
    answered; a FailedAttempt where one could not. Sample n of a view draws from the seed (*seed_parts, problem, view, n).
    """

    def count_tokens(self, views: Sequence[View], problems: Sequence[Problem]) -> dict[str, list[int]]: ...

    def sample(
        self, asks: Sequence[Ask], problems: Sequence[Problem], policy_version: int | None, seed_parts: Seeds
    ) -> Iterator[ProblemRollouts | FailedAttempt]: ...


class Grader(Protocol):
    """Responses to clustered answers, and answers against references, by the one notion of equality.

    `group` takes problems as they come and returns their groups in that order; it may grade some while it waits for others.
    """

    def group(self, rollouts: Iterable[ProblemRollouts]) -> list[AnswerGroup]: ...

    def equal(self, pairs: Sequence[tuple[str, str]]) -> list[bool]: ...


class Learner(Protocol):
    """Trains. `policy_version` counts its updates."""

    policy_version: int

    def update(self, batch: Batch, step: int) -> UpdateReport: ...

    def save(self, directory: Path) -> None:
        """Writes what `load` needs; model and tokenizer to `directory / "model"`, as transformers loads them."""
        ...

    def load(self, directory: Path) -> None: ...


@runtime_checkable
class Scores(Protocol):
    """A learner that gives `statistics` (names from TOKEN_STATISTICS) of its present model, float[B] by name: the mean over the
    response tokens of every row. Optional: without it no method may ask for any."""

    def score(self, batch: Batch, statistics: Sequence[str]) -> Mapping[str, FloatArray]: ...


@runtime_checkable
class ScalesRate(Protocol):
    """A learner whose learning rate can be made `scale` times what its schedule says, from then on; `save` and `load` keep it.
    Optional: without it a run cannot be rolled back."""

    def scale_rate(self, scale: float) -> None: ...


class Runtime(Sampler, Protocol):
    """Engines and learner behind one object, and the broadcast between them."""

    @property
    def policy_version(self) -> int:
        """The learner's."""
        ...

    @property
    def engine_version(self) -> int:
        """The policy version that the trained engines hold, or load; behind the learner's between an update and a `sync`."""
        ...

    def prepare(self, asks: Sequence[Ask], problems: Sequence[Problem]) -> None:
        """Says what will be sampled next, so that its prompts can be made ready meanwhile."""
        ...

    def score(self, plan: Sequence[GroupRows], statistics: Sequence[str]) -> Mapping[str, FloatArray]:
        """The learner's `Scores.score` of the plan's rows."""
        ...

    def update(self, plan: Sequence[GroupRows], step: int) -> UpdateReport: ...

    def sync(self, given: Callable[[Mapping[str, float]], object] | None = None) -> Mapping[str, float]:
        """Brings every engine to the learner's policy version. Returns metrics of what the learner gave; `given` gets them once,
        as soon as it has: the learner may learn while the engines load the weights."""
        ...

    def take_restarts(self) -> int:
        """Actors restarted since the last call."""
        ...


class Tracker(Protocol):
    """Records a step: its metrics, what was sampled, how it was judged, and what other selectors would have chosen (a
    `harmonyray.ledger.StepLedger`)."""

    def log_step(
        self, step: int, row: Mapping[str, float], collected: Collected, judgements: Sequence[Judgement], ledger: Any = None
    ) -> None: ...

    def log_failed(self, step: int, failed: Sequence[FailedAttempt]) -> None:
        """Only the failed attempts of a step of which nothing is learned."""
        ...
