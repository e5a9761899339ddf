"""Evaluation: the only holder of gold answers beside the ground-truth method. Accuracy per view and of votes over views.

Evaluation seeds depend on the run's seed, problem, view and sample but not on the step or the part: evaluations of one run are
paired, do not disturb training, and `harmonyray eval` repeats them exactly. What the figures mean is `measures`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace

import numpy as np

from harmonyray.collect import collect
from harmonyray.errors import RunError
from harmonyray.measures import Scores, flat_metrics, labels_right, score_problems
from harmonyray.protocols import Ask, Grader, Sampler, View
from harmonyray.types import (
    AnswerGroup,
    BoolArray,
    Consensus,
    FloatArray,
    GoldAnswer,
    Judgement,
    Problem,
    ProblemRollouts,
    Sampling,
)


@dataclass(frozen=True, slots=True)
class EvalSettings:
    """Sampling of an evaluation: k samples per problem and view at `sampling` [V], and one greedy response; `chunk_problems`
    problems at once; `max_prompt_tokens` as in `protocols.Ask`."""

    num_samples: int
    sampling: Sequence[Sampling]
    seed: int
    chunk_problems: int
    max_prompt_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Graded:
    """A chunk of a part's problems as they were answered, greedily or sampled: `rollouts` [P], the answers' `groups` [P], and
    for each which of its clusters are right, `right` [P] of bool[C]."""

    part: str
    greedy: bool
    rollouts: Sequence[ProblemRollouts]
    groups: Sequence[AnswerGroup]
    right: Sequence[BoolArray]

    def only(self, ids: Set[str]) -> Graded:
        """The problems with these ids."""
        kept = [i for i, item in enumerate(self.rollouts) if item.problem.id in ids]
        rollouts, groups, right = self.rollouts, self.groups, self.right
        return replace(
            self, rollouts=[rollouts[i] for i in kept], groups=[groups[i] for i in kept], right=[right[i] for i in kept]
        )


Progress = Callable[[int, int], None]
"""Told how many problems are done, of how many."""

Record = Callable[[Graded], None]
"""Given every chunk; what it does not keep is gone."""


class Evaluator:
    """Scores a policy on problems with gold answers. `views` in the run's order; the first is the solver.

    `parts` are evaluated one after the other and apart, each under its name: `eval` for the problems that are adapted to,
    `holdout` for those that are not. Problems without a gold answer are left out.
    """

    def __init__(
        self,
        parts: Mapping[str, Sequence[Problem]],
        gold: Mapping[str, GoldAnswer],
        views: Sequence[View],
        sampler: Sampler,
        grader: Grader,
        settings: EvalSettings,
    ) -> None:
        self.parts = {name: [p for p in problems if p.id in gold] for name, problems in parts.items()}
        self.gold, self.views, self.sampler, self.grader, self.settings = gold, list(views), sampler, grader, settings
        self._failure = "none"  # of sampling, the last

    def evaluate(self, policy_version: int) -> dict[str, float]:
        """For every part with problems, here `eval`: `eval/{view}/avg_at_k`, `pass_at_k`, `pass_at_{j}`, `majority_at_k`,
        `greedy` for every view, over all views `eval/majority_at_k`, `eval/harmonic_at_k`; each with its interval, `.._low`
        and `.._high`; `eval/num_problems`; and where problems have a category `eval/.../{category}`. Shares in [0, 1]."""
        return self.metrics(self.score(policy_version))

    def metrics(self, scored: Mapping[str, Scores]) -> dict[str, float]:
        """The flat metrics of what `score` gave."""
        out: dict[str, float] = {}
        for part, scores in scored.items():
            out |= flat_metrics(part, scores, self.settings.seed)
        return out

    def score(self, policy_version: int, progress: Progress | None = None, record: Record | None = None) -> dict[str, Scores]:
        """What every problem scored, by part, in the parts' order of problems; parts without problems are left out.

        At most `chunk_problems` problems' responses are held at a time. How many changes nothing but what an engine batches
        together, and so the last bits of its arithmetic. A problem that could not be sampled is left out and counted.

        Raises RunError for a part of which nothing could be sampled.
        """
        total, done = sum(map(len, self.parts.values())), 0
        out = {}
        for part, problems in self.parts.items():
            scored: list[dict[str, FloatArray]] = []
            whole: list[Problem] = []
            for chunk in self._chunks(problems):
                if progress is not None:
                    progress(done, total)
                answered, values = self._score_chunk(part, chunk, policy_version, record)
                done += len(chunk)
                whole += answered
                scored += [values] if answered else []
            if problems and not whole:
                raise RunError(
                    f"none of the {len(problems)} problems of '{part}' could be sampled; the last failure: {self._failure}"
                )
            if whole:
                values = {name: np.concatenate([some[name] for some in scored]) for name in scored[0]}
                out[part] = Scores(values, tuple(p.category for p in whole), len(problems) - len(whole))
        if progress is not None:
            progress(done, total)
        return out

    def label_metrics(
        self, judgements: Sequence[Judgement], verdicts: Mapping[str, Sequence[Consensus]] | None = None
    ) -> dict[str, float]:
        """How right the pseudo-labels were, of the problems that have a gold answer; empty without any.

        `label_accuracy` is over labelled problems (left out when there are none), `upper_bound` the share of problems with
        any right sample, `majority_label_accuracy` what majority voting over the first view's samples would have scored on the
        labelled problems.
        `selectors/{name}/label_accuracy` is what the `verdicts` [P] of another selector would have scored, over its own labels.
        """
        places = [i for i, j in enumerate(judgements) if j.group.problem_id in self.gold]
        if not places:
            return {}
        known = [judgements[i] for i in places]
        right = self._right([j.group for j in known])
        chosen = {"consensus": [j.consensus for j in judgements]}
        chosen |= {f"selectors/{name}": list(made) for name, made in (verdicts or {}).items()}
        labelled = [(j.group, r) for j, r in zip(known, right, strict=True) if j.consensus.label[0] is not None]
        out = {"consensus/upper_bound": float(np.mean([r.any() for r in right]))}
        if labelled:
            groups, of_groups = zip(*labelled, strict=True)
            out["consensus/majority_label_accuracy"] = float(np.mean(labels_right(groups, of_groups, "majority", 0)))
        for prefix, made in chosen.items():
            labels = [(made[i].label[0], r) for i, r in zip(places, right, strict=True)]
            scored = [r[label] for label, r in labels if label is not None]
            if scored:
                out[f"{prefix}/label_accuracy"] = float(np.mean(scored))
        return out

    def _chunks(self, problems: Sequence[Problem]) -> Iterator[Sequence[Problem]]:
        size = self.settings.chunk_problems
        return (problems[i : i + size] for i in range(0, len(problems), size))

    def _score_chunk(
        self, part: str, problems: Sequence[Problem], policy_version: int, record: Record | None
    ) -> tuple[list[Problem], dict[str, FloatArray]]:
        """The problems of one chunk that could be sampled, in both ways, and float[P] by measure of these."""
        sampled = self._graded(part, problems, policy_version, greedy=False)
        greedy = self._graded(part, [item.problem for item in sampled.rollouts], policy_version, greedy=True)
        answered = [item.problem for item in greedy.rollouts]
        if len(answered) < len(sampled.rollouts):
            sampled = sampled.only({p.id for p in answered})
        if not answered:
            return [], {}
        if record is not None:
            record(sampled)
            record(greedy)
        names = [view.name for view in self.views]
        return answered, score_problems(names, (sampled.groups, sampled.right), (greedy.groups, greedy.right))

    def _graded(self, part: str, problems: Sequence[Problem], policy_version: int, greedy: bool) -> Graded:
        settings = self.settings
        num_samples = 1 if greedy else settings.num_samples
        sampling = [replace(s, temperature=0, top_p=1.0) for s in settings.sampling] if greedy else settings.sampling
        longest = settings.max_prompt_tokens
        asks = [Ask(view, num_samples, s, max_prompt_tokens=longest) for view, s in zip(self.views, sampling, strict=True)]
        got = collect(self.sampler, self.grader, asks, problems, policy_version, (settings.seed, "eval"))
        if got.failed:
            self._failure = f"problem {got.failed[-1].problem_id!r}, view {got.failed[-1].view!r}: {got.failed[-1].reason}"
        return Graded(part, greedy, got.rollouts, got.groups, self._right(got.groups))

    def _right(self, groups: Sequence[AnswerGroup]) -> list[BoolArray]:
        """For each group which of its clusters are right, bool[C]."""
        equal = iter(self.grader.equal([(self.gold[g.problem_id].text, a) for g in groups for a in g.representatives]))
        return [np.array([next(equal) for _ in g.representatives], dtype=bool) for g in groups]
