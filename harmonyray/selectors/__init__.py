"""Answer frequencies in, pseudo-label out. Numpy only, integers in: texts and models live elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harmonyray import protocols, registry
from harmonyray.selectors.applying import fit_and_select
from harmonyray.selectors.base import Selector, SelectorOptions, WeightedOptions
from harmonyray.types import Consensus

__all__ = ["Selector", "SelectorOptions", "WeightedOptions", "default_selectors", "select", "select_many"]


def select(name: str, counts: Any, num_samples: Any, *, step: int = 0, key: str = "", **options: Any) -> Consensus:
    """The consensus of one problem, e.g. `select("harmonic", [[3, 1], [1, 2]], [4, 4], weights=[0.6, 0.4])`.

    `name`: a built-in selector or `package.module:Class`. `counts` int[C, V]: samples per cluster and view, clusters in
    the order of first appearance. `num_samples` int[V]: all samples of a view, those without an answer too. `step` and
    `key` (the problem's id) feed schedules and seeds. `options` are those of the YAML. A selector that learns from the votes
    of many problems has learned nothing here; `select_many` lets it.

    Raises ConfigError for an unknown name or option and for arrays that do not fit.
    """
    consensus: Consensus = _build(name, options).select(counts, num_samples, step=step, key=key)
    return consensus


def select_many(
    name: str, counts: Sequence[Any], num_samples: Any, *, keys: Sequence[str] | None = None, step: int = 0, **options: Any
) -> list[Consensus]:
    """The consensus of every problem, [P]: what `select` gives one by one, many times faster.

    `counts` [P] of int[C_p, V], `num_samples` int[P, V], `keys` [P] the problems' ids (for seeded selectors), the rest as in
    `select`. A selector that learns (`reliability`) is fitted on these problems first. Raises ConfigError for an unknown name
    or option, and for arrays that do not fit, naming the problem.
    """
    return fit_and_select(_build(name, options), counts, num_samples, step=step, keys=keys)


def default_selectors() -> dict[str, protocols.Selector]:
    """Every built-in selector that needs no option, by name, with its default options."""
    classes = {name: registry.resolve("selectors", name) for name in registry.BUILT_IN["selectors"]}
    complete = {n: c for n, c in classes.items() if not any(f.is_required() for f in c.Options.model_fields.values())}
    return {name: cls(cls.Options()) for name, cls in complete.items()}


def _build(name: str, options: dict[str, Any]) -> Any:
    parsed = registry.make_options("selectors", name, "", options)
    return registry.resolve("selectors", name)(parsed)
