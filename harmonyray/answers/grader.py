"""The grader of a run: responses to answer groups, and answers against references, by one notion of equality.

A plain class: it may live in the driver or inside an actor, on any thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from threading import Lock
from types import TracebackType

import numpy as np
from pydantic import Field

from harmonyray.answers.cluster import cluster_answers
from harmonyray.answers.equivalence import DEFAULT_LIMIT_S, DEFAULT_MAX_CHARS, DEFAULT_MEMORY_MB, Equivalence, Statistics
from harmonyray.errors import ConfigError
from harmonyray.protocols import StagedView, View
from harmonyray.registry import PluginOptions
from harmonyray.types import AnswerGroup, Here, ParsedResponse, Problem, ProblemRollouts, Reading, Rollout, Texts
from harmonyray.views.numbers import kept_share
from harmonyray.views.strategies import named_strategy

MAX_NAME = 64  # characters that are kept of a strategy's name


class AnswerGrader:
    """A `protocols.Grader`. `views` are the run's, in the order of `ProblemRollouts.rollouts`.

    Use as a context manager or call `close()`: it owns a child process. Several threads take turns, problem by problem.
    """

    class Options(PluginOptions):
        """`limit_s`: seconds for one comparison in the solver; `memory_mb`: the solver's address space; `max_chars`:
        longer answers are compared by their text only."""

        limit_s: float = Field(default=DEFAULT_LIMIT_S, gt=0)
        memory_mb: int = Field(default=DEFAULT_MEMORY_MB, ge=512)
        max_chars: int = Field(default=DEFAULT_MAX_CHARS, ge=1)

    def __init__(self, views: Sequence[View], options: Options | None = None) -> None:
        options = options or self.Options()
        self._views = tuple(views)
        self._equivalence = Equivalence(options.limit_s, options.memory_mb, options.max_chars)
        self._turn = Lock()

    def __enter__(self) -> AnswerGrader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def statistics(self) -> Statistics:
        """Counts of the comparisons so far."""
        return self._equivalence.statistics

    def group(self, rollouts: Iterable[ProblemRollouts]) -> list[AnswerGroup]:
        """Parse every response with its view and cluster the answers of each problem; one group per problem, in order.

        Raises GraderError if the solver cannot be kept alive.
        """
        return [self._group(item) for item in rollouts]

    def equal(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """Whether the answers of each pair are the same; given up or unreadable is False."""
        with self._turn:
            return [verdict.equal for verdict in self._equivalence.check(pairs)]

    def close(self) -> None:
        """End the solver's process. Calling it twice is fine."""
        self._equivalence.close()

    def _group(self, item: ProblemRollouts) -> AnswerGroup:
        assert len(item.groups) == len(self._views), f"{len(item.groups)} views of rollouts, {len(self._views)} views"
        parsed = [
            [_parse(view, item.problem, rollout) for rollout in row] for view, row in zip(self._views, item.fetch(), strict=True)
        ]
        with self._turn:
            clustering = cluster_answers([[response.answer for response in row] for row in parsed], self._equivalence)
        return AnswerGroup(
            problem_id=item.problem.id,
            cluster_ids=clustering.cluster_ids,
            num_samples=np.array([len(row) for row in parsed], dtype=np.int64),
            representatives=clustering.representatives,
            read=tuple(tuple(reading(item.problem, response) for response in row) for row in parsed),
            texts=Here(
                Texts(
                    tuple(tuple(response.rewritten for response in row) for row in parsed),
                    tuple(tuple(response.strategy for response in row) for row in parsed),
                )
            ),
            num_timeouts=clustering.num_timeouts,
        )


def reading(problem: Problem, parsed: ParsedResponse) -> Reading:
    """What is kept of a response: its figures, not its texts."""
    text, strategy = parsed.rewritten, parsed.strategy
    kept = None if text is None else kept_share(problem.text, text)
    named = None if strategy is None else named_strategy(strategy)[:MAX_NAME]
    return Reading(parsed.answer, parsed.missing, parsed.copied, named, text is not None, kept)


def _parse(view: View, problem: Problem, rollout: Rollout) -> ParsedResponse:
    if rollout.draft is None:
        parsed = view.parse(problem, rollout.text)
    else:
        assert isinstance(view, StagedView), f"view {view.name!r} has rollouts with drafts, but cannot read them"
        parsed = view.parse_staged(problem, rollout.draft.used_text, rollout.text)
    if not isinstance(parsed, ParsedResponse):  # a view of the user's own
        raise ConfigError(
            f"view {view.name!r} ({type(view).__module__}:{type(view).__qualname__}) read a response as {parsed!r}; expected a "
            "ParsedResponse: return ParsedResponse(answer=None) where there is no answer"
        )
    return parsed
