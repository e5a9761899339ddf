"""Selectors that wrap others: Bootstrap resamples, Schedule changes over at a step, Mixed draws one per problem.

Laplace smoothing and abstention are options of every scoring selector instead (`smoothing`, `min_score`, `min_margin`).
All of them compose: `{type: schedule, first: majority, num_steps: 20, then: {type: bootstrap, of: harmonic}}`.
Random choices are a function of (seed, step, key), key being the problem's id. Bootstrap goes through many problems one by one
(every problem draws from its own seed); its resamples of a problem are selected together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field, ValidationInfo, field_validator

from harmonyray.protocols import Selector
from harmonyray.seeding import derive_seed
from harmonyray.selectors.applying import select_all
from harmonyray.selectors.base import check_proportions, proportions
from harmonyray.selectors.deciding import AbstainOptions, Votes, check_votes, decide
from harmonyray.selectors.nested import NestingOptions, SelectorSpec, Wrapper
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


class Bootstrap(Wrapper):
    """Score: the share of resamples in which the selector `of` picks the cluster, in [0, 1].

    Each of `num_resamples` draws `size` samples per view with replacement (None: as many as there are). float[C, V] if
    `of` judges views apart. A resample on which it abstains counts for no cluster, so that `min_score: 0.5` asks for a
    label that more than half of the resamples agree on.
    """

    class Options(AbstainOptions, NestingOptions):
        of: SelectorSpec
        num_resamples: int = Field(default=100, ge=1)
        size: int | None = Field(default=None, ge=1)
        seed: int = 0

    def __init__(self, options: Options) -> None:
        self.options = options
        self.inner = [options.of.build()]

    def select(self, counts: Any, num_samples: Any, *, step: int = 0, key: str = "") -> Consensus:
        """The consensus of counts int[C, V] and num_samples int[V]; raises ConfigError for arrays that do not fit."""
        options = self.options
        votes = check_votes(counts, num_samples)
        if len(votes.counts) == 0:
            return decide(np.zeros(0), votes, options)
        rng = np.random.default_rng(derive_seed(options.seed, "bootstrap", step, key))
        drawn = resample(votes, options.size, options.num_resamples, rng)
        sizes = votes.num_samples if options.size is None else np.where(votes.num_samples > 0, options.size, 0)
        names = [f"{key}/resample-{r}" for r in range(options.num_resamples)]
        chosen = select_all(self.inner[0], list(drawn), np.tile(sizes, (len(drawn), 1)), step=step, keys=names)
        apart = any(consensus.scores.ndim == 2 for consensus in chosen)
        picked = np.zeros(votes.counts.shape)
        for consensus in chosen:
            for v, label in enumerate(consensus.label):
                if label is not None:
                    picked[label, v] += 1
        shares = picked / options.num_resamples
        return decide(shares if apart else shares[:, 0], votes, options)


class Schedule(Wrapper):
    """Selector `first` for the first `num_steps` steps (step 0 to num_steps - 1), `then` from there on. A file of answers is
    step 0 as a whole; a run is replayed at the steps it had."""

    class Options(NestingOptions):
        first: SelectorSpec
        num_steps: int = Field(ge=0)
        then: SelectorSpec

    def __init__(self, options: Options) -> None:
        self.num_steps = options.num_steps
        self.inner = [options.first.build(), options.then.build()]

    def select(self, counts: Any, num_samples: Any, *, step: int = 0, key: str = "") -> Consensus:
        """The consensus that the selector in charge at `step`, counted from 0, gives."""
        return self._in_charge(step).select(counts, num_samples, step=step, key=key)

    def select_many(
        self, counts: Sequence[Any], num_samples: Any, *, step: int = 0, keys: Sequence[str] | None = None
    ) -> list[Consensus]:
        """`select` of every problem: counts [P] of int[C_p, V], num_samples int[P, V], keys [P]."""
        return select_all(self._in_charge(step), counts, num_samples, step=step, keys=keys)

    def _in_charge(self, step: int) -> Selector:
        return self.inner[0 if step < self.num_steps else 1]


class Mixed(Wrapper):
    """One of the selectors `of`, drawn for every problem and step with probabilities proportional to `probs`."""

    class Options(NestingOptions):
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
        self.inner = [spec.build() for spec in options.of]
        self.probs = proportions(options.probs)
        self.seed = options.seed

    def select(self, counts: Any, num_samples: Any, *, step: int = 0, key: str = "") -> Consensus:
        """The consensus of the selector drawn for (seed, step, key)."""
        return self.inner[self._drawn(step, key)].select(counts, num_samples, step=step, key=key)

    def select_many(
        self, counts: Sequence[Any], num_samples: Any, *, step: int = 0, keys: Sequence[str] | None = None
    ) -> list[Consensus]:
        """`select` of every problem: counts [P] of int[C_p, V], num_samples int[P, V], keys [P]. Problems that draw the same
        selector go to it together."""
        names = list(keys) if keys is not None else [""] * len(counts)
        rows = np.asarray(num_samples)
        drawn = [self._drawn(step, key) for key in names]
        out: list[Any] = [None] * len(counts)
        for index, selector in enumerate(self.inner):
            places = [i for i, d in enumerate(drawn) if d == index]
            mine = select_all(selector, [counts[i] for i in places], rows[places], step=step, keys=[names[i] for i in places])
            for place, consensus in zip(places, mine, strict=True):
                out[place] = consensus
        return out

    def _drawn(self, step: int, key: str) -> int:
        rng = np.random.default_rng(derive_seed(self.seed, "mixed", step, key))
        return int(rng.choice(len(self.inner), p=self.probs))
