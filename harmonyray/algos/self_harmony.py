"""Self-Harmony (arXiv 2511.01191): a selector's consensus over views is the pseudo-label; every view is rewarded by it.

Rewards: the first view gets what its answers earn, R = 1[y = y*] unless `reward` says otherwise; every further view R = (1 −
w_f·F)(1 − w_d·D)·1[y' = y*] with F the share of required sections that are missing and D = 1 − JS(p_first, p_view) / ln 2.
`combine: additive` subtracts the penalties instead, from wrong answers too.

D, and the sharpness penalty, are one number per problem and view, so advantages normalised within a view cancel them (gated:
up to their scale, which normalising undoes). `copy_penalty` is a per-sample form that acts (the share of the rewording's
5-grams that are copied), and `advantage.group: problem` makes the published form act.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from harmonyray.algos.answer_rewards import RewardSpec
from harmonyray.algos.base import MethodBase, MethodContext, blank_rewards, labelled, require_views
from harmonyray.algos.exact_votes import as_clusters, exact_counts
from harmonyray.algos.rewards import Term, diversity_penalty, gate, sharpness_penalty, subtract
from harmonyray.registry import PluginOptions
from harmonyray.selectors.applying import fit_and_select, restore, state_of, weigh
from harmonyray.selectors.nested import SelectorSpec
from harmonyray.types import AnswerGroup, Consensus, FloatArray, Judgement

COMBINE = {"gated": gate, "additive": subtract}


class Sharpness(PluginOptions):
    """The penalty on a view whose number m of samples that reach the label is far from a wanted one: w min(1, (m - m*)^2 /
    (M^2 / 4)) for M samples."""

    weight: float = Field(gt=0, le=1, description="w_s")
    target: float = Field(ge=0, le=1, description="the wanted share m* / M of the view's samples that reach the label")


class SelfHarmony(MethodBase):
    class Options(PluginOptions):
        selector: SelectorSpec = SelectorSpec(type="harmonic")
        reward: RewardSpec = Field(RewardSpec(type="match"), description="what an answer earns")
        combine: Literal["gated", "additive"] = Field(
            "gated", description="penalties scale the answer's reward, or are subtracted"
        )
        reward_fused_answers: bool = Field(True, description="whether answers earn anything in the views after the first")
        format_penalty: float = Field(0.1, ge=0, le=1, description="w_f, on missing sections")
        diversity_penalty: float = Field(0.1, ge=-1, le=1, description="w_d, on views that agree; negative rewards agreement")
        copy_penalty: float = Field(0.0, ge=0, le=1, description="on rewordings that copy the question, per sample")
        exact_votes: bool = Field(
            False, description="votes counted by an answer's exact text, rewards by equality: as in the published code"
        )
        sharpness: Sharpness | None = Field(None, description="{weight, target}: on views too sure of the label, or too unsure")

        @model_validator(mode="after")
        def _possible(self) -> SelfHarmony.Options:
            weights = (self.format_penalty, self.diversity_penalty, self.copy_penalty, self.sharpness)
            if not self.reward_fused_answers and self.combine == "gated":
                raise ValueError(
                    "reward_fused_answers is false and combine is gated, which scales a reward that is 0: set combine to additive"
                )
            if not self.reward_fused_answers and not any(weights):
                raise ValueError(
                    "reward_fused_answers is false and every penalty is 0, which leaves the fused views without any reward: "
                    "give format_penalty, copy_penalty, diversity_penalty or sharpness a weight"
                )
            return self

    options: Options

    def __init__(self, options: Any, context: MethodContext) -> None:
        super().__init__(options, context)
        self.selector = options.selector.build()
        self.reward = options.reward.build()

    @classmethod
    def check(cls, options: Any, views: Mapping[str, int]) -> None:
        require_views("self_harmony", views, 2)
        options.selector.build().select([[1] * len(views)], [1] * len(views))  # weights for another number of views, for one

    @classmethod
    def check_weighing(cls, options: Any, views: tuple[str, ...]) -> None:
        """Raises ConfigError where the selector has no weights that `weigh_views` could lower."""
        weigh(options.selector.build(), np.ones(len(views)))

    def judge(self, groups: Sequence[AnswerGroup], step: int) -> list[Judgement]:
        chosen = self._select(groups, step)
        return [self._judge_one(group, consensus) for group, consensus in zip(groups, chosen, strict=True)]

    def _select(self, groups: Sequence[AnswerGroup], step: int) -> list[Consensus]:
        texts = [exact_counts(g) for g in groups] if self.options.exact_votes else None
        counts = [g.counts() for g in groups] if texts is None else [c for c, _ in texts]
        num_samples, keys = [g.num_samples for g in groups], [g.problem_id for g in groups]
        chosen = fit_and_select(self.selector, counts, num_samples, step=step - 1, keys=keys)  # selectors count steps from 0
        if texts is None:
            return chosen
        return [as_clusters(c, cluster_of, g) for c, (_, cluster_of), g in zip(chosen, texts, groups, strict=True)]

    def weigh_views(self, factors: FloatArray) -> None:
        """Multiplies the views' weights in the vote by factors float[V]. Raises ConfigError if the selector has none."""
        weigh(self.selector, factors)

    def state_dict(self) -> dict[str, Any]:
        return {"selector": state_of(self.selector)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        restore(self.selector, state["selector"])

    def _judge_one(self, group: AnswerGroup, consensus: Consensus) -> Judgement:
        rewards = blank_rewards(group)
        metrics: dict[str, float] = {}
        for v, n in enumerate(group.num_samples.tolist()):
            if v == 0 or self.options.reward_fused_answers:
                rewards[v, :n] = self.reward.rewards(group, consensus, v)
            if v > 0:
                terms, shown = self._penalties(group, consensus, v)
                rewards[v, :n] = COMBINE[self.options.combine](rewards[v, :n], terms)
                metrics |= {f"reward/{self.context.views[v]}/{key}": value for key, value in shown.items()}
        return Judgement(group, consensus, rewards, labelled(consensus), metrics)

    def _penalties(self, group: AnswerGroup, consensus: Consensus, v: int) -> tuple[list[Term], dict[str, float]]:
        """The weighted penalties of a fused view's samples, and what of them is logged."""
        options = self.options
        missing = np.array([p.missing for p in group.read[v]])
        copied = np.array([p.copied for p in group.read[v]])
        agreement = diversity_penalty(consensus.support[:, 0], consensus.support[:, v])
        terms: list[Term] = [
            (options.format_penalty, missing),
            (options.diversity_penalty, agreement),
            (options.copy_penalty, copied),
        ]
        shown = {"format_compliance": _complement(missing), "copied": float(copied.mean()), "agreement": agreement}
        if options.sharpness is not None:
            n, label = int(group.num_samples[v]), consensus.label[v]
            num_matches = 0 if label is None else int((group.cluster_ids[v, :n] == label).sum())
            penalty = sharpness_penalty(num_matches, options.sharpness.target * n, n)
            terms.append((options.sharpness.weight, penalty))
            shown["sharpness"] = penalty
        return terms, shown


def _complement(shares: FloatArray) -> float:
    return float(1 - shares.mean())
