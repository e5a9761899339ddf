"""The `objective` section of the configuration: what is put around the policy loss (`algos/objective.py` does it). No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from harmonyray.registry import PluginOptions


class ImportanceOptions(PluginOptions):
    """Weights for what an engine drew under log-probs that are not the learner's."""

    type: Literal["none", "truncate", "mask"] = Field(
        default="truncate",
        description="truncate: weight min(learner/engine, high); mask: tokens whose ratio is outside [low, high] are left out; "
        "none: no weights, and the loss's own ratio is against the engine",
    )
    level: Literal["token", "sequence"] = Field(
        default="token", description="whether each token has its own ratio, or that of its response, the product of all"
    )
    low: NonNegativeFloat = Field(default=0.5, description="mask: the smallest ratio")
    high: PositiveFloat = Field(default=2.0, description="truncate: the largest weight; mask: the largest ratio")

    @model_validator(mode="after")
    def _in_order(self) -> ImportanceOptions:
        if self.type == "mask" and self.low >= self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}, so every token would be left out")
        return self


class EntropyBand(PluginOptions):
    """A penalty on entropies outside [low, high], in nats per token."""

    low: NonNegativeFloat
    high: PositiveFloat
    coef: PositiveFloat = Field(description="weight of the distance to the band")

    @model_validator(mode="after")
    def _in_order(self) -> EntropyBand:
        if self.low > self.high:
            raise ValueError(f"low {self.low:g} is above high {self.high:g}: an entropy cannot be in this band")
        return self


class EntropyOptions(PluginOptions):
    coef: NonNegativeFloat = Field(default=0.0, description="weight of the entropy that is added to what is maximised (a bonus)")
    top_share: float = Field(
        default=1.0, gt=0, le=1, description="share of each response's tokens that is trained: those of highest entropy"
    )
    band: EntropyBand | None = Field(default=None, description="{low, high, coef}: where the entropy is kept; null: nowhere")


class ObjectiveOptions(PluginOptions):
    aggregation: Literal["token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm"] = Field(
        default="token-mean", description="how a view's tokens make one number; the views' are summed"
    )
    view_weights: dict[str, NonNegativeFloat] = Field(
        default_factory=dict, description="what a view counts in that sum, by its name; 1 for a view that is not named"
    )
    kl: Literal["k1", "k2", "k3", "abs"] = Field(default="k3", description="estimate of the KL to the run's first model")
    kl_coef: NonNegativeFloat = Field(default=0.005, description="weight of the KL; 0: no reference model is kept")
    kl_in: Literal["loss", "reward"] = Field(
        default="loss", description="loss: a term of it; reward: what a token and all after it cost is taken off its advantage"
    )
    first_view_mask: bool = Field(
        default=False,
        description="a further view's n-th response counts no further than the first view's n-th is long: a fault of the code "
        "published with Self-Harmony, to measure what it does",
    )
    importance: ImportanceOptions = ImportanceOptions()
    entropy: EntropyOptions = EntropyOptions()


@dataclass(frozen=True, slots=True)
class ObjectiveSettings:
    """What a learner is given of it: the options, what each view of the run counts [V], and the longest response in tokens."""

    options: ObjectiveOptions
    view_weights: tuple[float, ...]
    max_response_tokens: int
