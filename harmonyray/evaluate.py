"""Evaluation: the only holder of gold answers beside the ground-truth method. Accuracy per view and of votes over views.

Evaluation seeds depend on the run's seed, problem, view and sample but not on the step: evaluations of one run are paired,
do not disturb training, and `harmonyray eval` repeats them exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harmonyray.protocols import Grader, Sampler, View
from harmonyray.rollouts import sample_problems
from harmonyray.selectors import select
from harmonyray.types import AnswerGroup, Consensus, GoldAnswer, IntArray, Judgement, Problem, ProblemRollouts, Sampling


@dataclass(frozen=True, slots=True)
class EvalSettings:
    """Sampling of an evaluation: k samples per problem and view at `sampling`, and one greedy response."""

    num_samples: int
    sampling: Sampling
    seed: int


class Evaluator:
    """Scores a policy on problems with gold answers. `views` in the run's order; the first is the solver."""

    def __init__(
        self,
        problems: Sequence[Problem],
        gold: Mapping[str, GoldAnswer],
        views: Sequence[View],
        sampler: Sampler,
        grader: Grader,
        settings: EvalSettings,
    ) -> None:
        self.problems = [p for p in problems if p.id in gold]
        self.gold, self.views, self.sampler, self.grader, self.settings = gold, list(views), sampler, grader, settings

    def evaluate(self, policy_version: int) -> dict[str, float]:
        """`eval/{view}/avg_at_k`, `pass_at_k`, `majority_at_k`, `greedy` for every view, and over all views
        `eval/majority_at_k`, `eval/harmonic_at_k`; `eval/{view}/avg_at_k/{category}` where problems have one.
        Shares in [0, 1]. Empty if no problem has a gold answer."""
        if not self.problems:
            return {}
        sampled = self._ask(self.settings.num_samples, self.settings.sampling, policy_version)
        greedy = self._ask(1, Sampling(self.settings.sampling.max_tokens, temperature=0), policy_version)
        groups, right = self._grade(sampled)
        greedy_groups, greedy_right = self._grade(greedy)
        out: dict[str, float] = {}
        for v, view in enumerate(self.views):
            hits = [_hits(g, r, v) for g, r in zip(groups, right, strict=True)]
            votes = [_label_right(g, r, "majority", v) for g, r in zip(groups, right, strict=True)]
            out[f"eval/{view.name}/avg_at_k"] = float(np.mean([h.mean() for h in hits]))
            out[f"eval/{view.name}/pass_at_k"] = float(np.mean([h.any() for h in hits]))
            out[f"eval/{view.name}/majority_at_k"] = float(np.mean(votes))
            out[f"eval/{view.name}/greedy"] = float(
                np.mean([_hits(g, r, v).mean() for g, r in zip(greedy_groups, greedy_right, strict=True)])
            )
            for category in sorted({p.category for p in self.problems if p.category}):
                part = [h.mean() for p, h in zip(self.problems, hits, strict=True) if p.category == category]
                out[f"eval/{view.name}/avg_at_k/{category}"] = float(np.mean(part))
        for name in ("majority", "harmonic"):
            out[f"eval/{name}_at_k"] = float(np.mean([_label_right(g, r, name) for g, r in zip(groups, right, strict=True)]))
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
            out["consensus/majority_label_accuracy"] = float(np.mean([_label_right(g, r, "majority", 0) for g, r in labelled]))
        for prefix, made in chosen.items():
            labels = [(made[i].label[0], r) for i, r in zip(places, right, strict=True)]
            scored = [r[label] for label, r in labels if label is not None]
            if scored:
                out[f"{prefix}/label_accuracy"] = float(np.mean(scored))
        return out

    def _ask(self, num_samples: int, sampling: Sampling, policy_version: int) -> list[ProblemRollouts]:
        counts = [num_samples] * len(self.views)
        seed_parts = (self.settings.seed, "eval")
        return sample_problems(self.sampler, self.views, counts, self.problems, sampling, policy_version, seed_parts)

    def _grade(self, sampled: Sequence[ProblemRollouts]) -> tuple[list[AnswerGroup], list[np.ndarray]]:
        groups = self.grader.group(sampled)
        return groups, self._right(groups)

    def _right(self, groups: Sequence[AnswerGroup]) -> list[np.ndarray]:
        """For each group whether each of its clusters is right, bool[C]."""
        equal = iter(self.grader.equal([(self.gold[g.problem_id].text, a) for g in groups for a in g.representatives]))
        return [np.array([next(equal) for _ in g.representatives], dtype=bool) for g in groups]


def _hits(group: AnswerGroup, right: np.ndarray, v: int) -> np.ndarray:
    """bool[N]: which samples of view v are right."""
    ids: IntArray = group.cluster_ids[v, : group.num_samples[v]]
    return np.append(right, False)[ids]


def _label_right(group: AnswerGroup, right: np.ndarray, selector: str, v: int | None = None) -> bool:
    """Whether a selector's label (over all views, or over view v alone) is right; an abstention is not."""
    columns = slice(None) if v is None else slice(v, v + 1)
    label = select(selector, group.counts()[:, columns], group.num_samples[columns]).label[0]
    return label is not None and bool(right[label])
