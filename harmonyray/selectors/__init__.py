"""Answer frequencies in, pseudo-label out. Numpy only, integers in: texts and models live elsewhere."""

from __future__ import annotations

from typing import Any

from harmonyray import registry
from harmonyray.selectors.base import Selector, SelectorOptions, WeightedOptions
from harmonyray.types import Consensus

__all__ = ["Selector", "SelectorOptions", "WeightedOptions", "select"]


def select(name: str, counts: Any, num_samples: Any, *, step: int = 0, key: str = "", **options: Any) -> Consensus:
    """The consensus of one problem, e.g. `select("harmonic", [[3, 1], [1, 2]], [4, 4], weights=[0.6, 0.4])`.

    `name`: a built-in selector or `package.module:Class`. `counts` int[C, V]: samples per cluster and view, clusters in
    the order of first appearance. `num_samples` int[V]: all samples of a view, those without an answer too. `step` and
    `key` (the problem's id) feed schedules and seeds. `options` are those of the YAML.

    Raises ConfigError for an unknown name or option and for arrays that do not fit.
    """
    parsed = registry.make_options("selectors", name, "", options)
    consensus: Consensus = registry.resolve("selectors", name)(parsed).select(counts, num_samples, step=step, key=key)
    return consensus
