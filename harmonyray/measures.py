"""What an evaluation measures, as numbers per problem and their means: numpy and the selectors, no model and no text.

Every figure is a mean over problems of what each problem scored, in [0, 1]: so a category is a subset of the problems, and an
interval is a resampling of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harmonyray.seeding import derive_seed
from harmonyray.selectors import select_many
from harmonyray.types import AnswerGroup, BoolArray, FloatArray, IntArray

CONFIDENCE = 0.95
RESAMPLES = 2000
BY_CATEGORY = ("avg_at_k", "pass_at_k", "majority_at_k", "harmonic_at_k", "greedy")
_BLOCK = 2**22  # numbers of the resampling held at once
_NOT_IN_NAMES = re.compile(r"[^\w.\- ]+|^\.+$")  # what MLflow refuses in a metric's name, and the slash that nests names

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Scores:
    """What the problems of one part scored: `values` float[P] in [0, 1] by measure (`solver/avg_at_k`, `majority_at_k`, ...)
    and `categories` [P], empty where a problem has none. `num_failed` further ones could not be sampled."""

    values: Mapping[str, FloatArray]
    categories: tuple[str, ...]
    num_failed: int = 0

    @property
    def num_problems(self) -> int:
        return len(self.categories)


def hits(group: AnswerGroup, right: BoolArray) -> BoolArray:
    """Which samples are right, bool[V, N], of which clusters are, bool[C]. No answer is not right."""
    return np.append(right, False)[group.cluster_ids]


def labels_right(groups: Sequence[AnswerGroup], right: Sequence[BoolArray], selector: str, view: int | None = None) -> FloatArray:
    """1 where a selector's label is right, float[P]; an abstention is not. `right` [P] of bool[C]: which clusters are.

    The votes are those of all views, or of `view` alone.
    """
    columns = slice(None) if view is None else slice(view, view + 1)
    counts = [group.counts()[:, columns] for group in groups]
    num_samples = np.array([group.num_samples[columns] for group in groups])
    labels = [consensus.label[0] for consensus in select_many(selector, counts, num_samples)]
    return np.array([label is not None and bool(r[label]) for label, r in zip(labels, right, strict=True)], dtype=np.float64)


def pass_at(num_right: IntArray, num_samples: int, j: int) -> FloatArray:
    """The chance that j of a problem's samples, drawn without putting back, hold a right one: float[P] of `num_right` int[P].

    1 - C(n - c, j) / C(n, j), from n samples, c of them right (Chen et al. 2021, arXiv 2107.03374, equation 1): an unbiased
    estimator of pass@j for samples that are independent. Those of a staged view that share a draft are not; for j > 1 it then
    says what j of these n hold, which on average is less than j independent samples would. Raises ValueError unless
    1 <= j <= n.
    """
    if not 1 <= j <= num_samples:
        raise ValueError(f"pass@{j} cannot be estimated from {num_samples} samples; expected 1 <= j <= {num_samples}")
    wrong = num_samples - num_right
    drawn = np.arange(j)
    # With fewer than j wrong samples a factor is 0: every draw of j holds a right one.
    factors = np.maximum(wrong[:, None] - drawn, 0) / (num_samples - drawn)
    return 1.0 - factors.prod(axis=1)


def pass_sizes(num_samples: int) -> list[int]:
    """The j of pass@j that are reported: 1, 2, 4, ... up to the number of samples, and that number itself."""
    return [*(2**i for i in range((num_samples - 1).bit_length())), num_samples]


def score_problems(
    views: Sequence[str],
    sampled: tuple[Sequence[AnswerGroup], Sequence[BoolArray]],
    greedy: tuple[Sequence[AnswerGroup], Sequence[BoolArray]],
) -> dict[str, FloatArray]:
    """What each problem scored, float[P] by measure; k is the number of samples of a view, the same for all problems.

    `sampled` and `greedy`: groups [P], and for each which of its clusters are right, bool[C]. Measures: `{view}/avg_at_k`,
    `{view}/pass_at_k`, `{view}/pass_at_{j}`, `{view}/majority_at_k`, `{view}/greedy`, `majority_at_k` and `harmonic_at_k`.
    """
    groups, right = sampled
    num_right = np.array([hits(g, r).sum(axis=1) for g, r in zip(groups, right, strict=True)])
    greedy_right = np.array([hits(g, r).mean(axis=1) for g, r in zip(*greedy, strict=True)])
    out: dict[str, FloatArray] = {}
    for v, view in enumerate(views):
        k = int(groups[0].num_samples[v])
        out[f"{view}/avg_at_k"] = num_right[:, v] / k
        out[f"{view}/pass_at_k"] = pass_at(num_right[:, v], k, k)
        out |= {f"{view}/pass_at_{j}": pass_at(num_right[:, v], k, j) for j in pass_sizes(k)}
        out[f"{view}/majority_at_k"] = labels_right(groups, right, "majority", v)
        out[f"{view}/greedy"] = greedy_right[:, v]
    return out | {f"{name}_at_k": labels_right(groups, right, name) for name in ("majority", "harmonic")}


def bootstrap_interval(values: FloatArray, seed: int) -> tuple[FloatArray, FloatArray]:
    """95 % percentile intervals (low float[M], high float[M]) of the means of `values` float[M, P] over its P problems.

    RESAMPLES times P problems are drawn with putting back, the same ones for all M measures (Efron and Tibshirani 1993,
    chapter 13). It covers which problems happened to be asked and not what the model happened to say. Equal values give
    zero width. Raises ValueError without problems.
    """
    num_measures, num_problems = values.shape
    if num_problems == 0:
        raise ValueError("no interval without problems; expected values of shape [M, P] with P >= 1")
    rng = np.random.default_rng(seed)
    mean = values.mean(axis=1)
    spread = (values - mean[:, None]).T  # resampling what is left of the mean keeps a constant exactly constant
    block = max(1, _BLOCK // num_problems)
    means = np.empty((RESAMPLES, num_measures))
    for start in range(0, RESAMPLES, block):
        size = min(block, RESAMPLES - start)
        times = rng.multinomial(num_problems, np.full(num_problems, 1 / num_problems), size=size)
        # Not a matrix product, whose last bits depend on the number of threads.
        means[start : start + size] = mean + np.einsum("rp,pm->rm", times, spread) / num_problems
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    return low, high


def intervals(scores: Scores, seed: int) -> dict[str, Interval]:
    """The 95 % interval (low, high) of every measure over all problems, by its name."""
    return _named_intervals(scores.values, derive_seed(seed, "bootstrap"))


def category_intervals(scores: Scores, seed: int) -> dict[str, Interval]:
    """The 95 % intervals of the measures in BY_CATEGORY within each category, by `{name}/{category}`."""
    out: dict[str, Interval] = {}
    for category, members in categories(scores):
        part = {f"{name}/{category}": values[members] for name, values in scores.values.items() if _by_category(name)}
        out |= _named_intervals(part, derive_seed(seed, "bootstrap", category))
    return out


def means(scores: Scores) -> dict[str, float]:
    """The mean of every measure by its name, those in BY_CATEGORY also within each category, `{name}/{category}`; and
    `num_problems`, `num_problems/{category}`."""
    out = {name: float(np.mean(values)) for name, values in scores.values.items()}
    out["num_problems"] = float(scores.num_problems)
    if scores.num_failed:
        out["num_failed"] = float(scores.num_failed)
    for category, members in categories(scores):
        out |= {f"{n}/{category}": float(np.mean(v[members])) for n, v in scores.values.items() if _by_category(n)}
        out[f"num_problems/{category}"] = float(len(members))
    return out


def categories(scores: Scores) -> Iterator[tuple[str, IntArray]]:
    """(category as it stands in metric names, indices of its problems) in alphabetical order; none for problems without one.

    Characters that a metric's name cannot have become "_"; categories that differ in nothing else are one.
    """
    named = [_NOT_IN_NAMES.sub("_", category) for category in scores.categories]
    for category in sorted({name for name in named if name}):
        yield category, np.flatnonzero([name == category for name in named])


def flat_metrics(prefix: str, scores: Scores, seed: int) -> dict[str, float]:
    """`means` under `{prefix}/`, and beside each measure over all problems its interval, `{name}_low` and `{name}_high`."""
    out = {f"{prefix}/{name}": value for name, value in means(scores).items()}
    for name, (low, high) in intervals(scores, seed).items():
        out |= {f"{prefix}/{name}_low": low, f"{prefix}/{name}_high": high}
    return out


def _named_intervals(values: Mapping[str, FloatArray], seed: int) -> dict[str, Interval]:
    low, high = bootstrap_interval(np.array(list(values.values())), seed)
    return dict(zip(values, zip(low.tolist(), high.tolist(), strict=True), strict=True))


def _by_category(name: str) -> bool:
    return name.rpartition("/")[2] in BY_CATEGORY
