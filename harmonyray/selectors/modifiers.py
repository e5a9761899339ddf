"""Selectors that wrap others: Bootstrap resamples, Schedule changes over at a step, Mixed draws one per problem.

Laplace smoothing and abstention are options of every scoring selector instead (`smoothing`, `min_score`, `min_margin`).
All of them compose: `{type: schedule, first: majority, num_steps: 20, then: {type: bootstrap, of: harmonic}}`.
Random choices are a function of (seed, step, key), key being the problem's id.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field, ValidationInfo, field_validator

from harmonyray.registry import PluginOptions
from harmonyray.seeding import derive_seed
from harmonyray.selectors.base import AbstainOptions, Votes, check_proportions, check_votes, decide
from harmonyray.selectors.nested import SelectorSpec
from harmonyray.types import Consensus, IntArray


def resample(votes: Votes, size: int | None, num_resamples: int, rng: np.random.Generator) -> IntArray:
    """Counts of samples drawn with replacement, int[R, C, V]; `size` per view, None for as many as the view has.

    Samples without an answer are drawn too, and a view without samples stays empty.
    """
    num_clusters, num_views = votes.counts.shape
    out = np.zeros((num_resamples, num_clusters, num_views), dtype=np.int64)
    for v, n in enumerate(votes.num_samples):
        if n == 0:
            continue
        answered = votes.counts[:, v]
        with_none = np.append(answered, n - answered.sum())
        out[:, :, v] = rng.multinomial(n if size is None else size, with_none / n, size=num_resamples)[:, :-1]
    return out


class Bootstrap:
    """Score: the share of resamples in which the selector `of` picks the cluster, in [0, 1].

    Each of `num_resamples` draws `size` samples per view with replacement (None: as many as there are). float[C, V] if
    `of` judges views apart. A resample on which it abstains counts for no cluster, so that `min_score: 0.5` asks for a
    label that more than half of the resamples agree on.
    """

    class Options(AbstainOptions):
        of: SelectorSpec
        num_resamples: int = Field(default=100, ge=1)
        size: int | None = Field(default=None, ge=1)
        seed: int = 0

    def __init__(self, options: Options) -> None:
        self.options = options
        self.inner = options.of.build()

    def select(self, counts: Any, num_samples: Any, *, step: int = 0, key: str = "") -> Consensus:
        """The consensus of counts int[C, V] and num_samples int[V]; raises ConfigError for arrays that do not fit."""
        options = self.options
        votes = check_votes(counts, num_samples)
        if len(votes.counts) == 0:
            return decide(np.zeros(0), votes, options)
        rng = np.random.default_rng(derive_seed(options.seed, "bootstrap", step, key))
        drawn = resample(votes, options.size, options.num_resamples, rng)
        sizes = votes.num_samples if options.size is None else np.where(votes.num_samples > 0, options.size, 0)
        picked = np.zeros(votes.counts.shape)
        apart = False
        for r, sample in enumerate(drawn):
            consensus = self.inner.select(sample, sizes, step=step, key=f"{key}/resample-{r}")
            apart = apart or consensus.scores.ndim == 2
            for v, label in enumerate(consensus.label):
                if label is not None:
                    picked[label, v] += 1
        shares = picked / options.num_resamples
        return decide(shares if apart else shares[:, 0], votes, options)


class Schedule:
    """Selector `first` for the first `num_steps` steps (step 0 to num_steps - 1), `then` from there on."""

    class Options(PluginOptions):
        first: SelectorSpec
        num_steps: int = Field(ge=0)
        then: SelectorSpec

    def __init__(self, options: Options) -> None:
        self.num_steps = options.num_steps
        self.first = options.first.build()
        self.then = options.then.build()

    def select(self, counts: Any, num_samples: Any, *, step: int = 0, key: str = "") -> Consensus:
        """The consensus that the selector in charge at `step`, counted from 0, gives."""
        selector = self.first if step < self.num_steps else self.then
        return selector.select(counts, num_samples, step=step, key=key)


class Mixed:
    """One of the selectors `of`, drawn for every problem and step with probabilities proportional to `probs`."""

    class Options(PluginOptions):
        of: tuple[SelectorSpec, ...] = Field(min_length=1)
        probs: tuple[float, ...]
        seed: int = 0

        @field_validator("probs")
        @classmethod
        def _usable(cls, value: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
            check_proportions(value, "probs")
            # `of` is absent here when it was refused itself.
            if "of" in info.data and len(value) != len(info.data["of"]):
                raise ValueError(f"give one probability for each of the {len(info.data['of'])} selectors in 'of'")
            return value

    def __init__(self, options: Options) -> None:
        self.selectors = [spec.build() for spec in options.of]
        self.probs = np.asarray(options.probs) / sum(options.probs)
        self.seed = options.seed

    def select(self, counts: Any, num_samples: Any, *, step: int = 0, key: str = "") -> Consensus:
        """The consensus of the selector drawn for (seed, step, key)."""
        rng = np.random.default_rng(derive_seed(self.seed, "mixed", step, key))
        index = int(rng.choice(len(self.selectors), p=self.probs))
        return self.selectors[index].select(counts, num_samples, step=step, key=key)
