"""Answer frequencies in, pseudo-label out. Numpy only, integers in: texts and models live elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harmonyray import protocols, registry
from harmonyray.errors import ConfigError
from harmonyray.selectors.applying import fit_and_select
from harmonyray.selectors.base import Selector, SelectorOptions, WeightedOptions
from harmonyray.selectors.nested import build_selector
from harmonyray.types import Consensus

__all__ = ["Selector", "SelectorOptions", "WeightedOptions", "default_selectors", "select", "select_many"]


def select(
    name: str | Mapping[str, Any], counts: Any, num_samples: Any, *, step: int = 0, key: str = "", **options: Any
) -> Consensus:
    """The consensus of one problem, e.g. `select("harmonic", [[3, 1], [1, 2]], [4, 4], weights=[0.6, 0.4])`.

    `name`: a built-in selector or `package.module:Class`, or a mapping with its options as in the YAML,
    `{"type": "harmonic", "weights": [0.6, 0.4]}`. `counts` int[C, V]: samples per cluster and view, clusters in the order of
    first appearance. `num_samples` int[V]: all samples of a view, those without an answer too. `step` and `key` (the problem's
    id) feed schedules and seeds. `options` are those of the YAML. A selector that learns from the votes of many problems has
    learned nothing here; `select_many` lets it.

    Raises ConfigError for an unknown name or option, for arrays that do not fit, and for scores of a class of your own that
    are not finite or of a wrong shape.
    """
    return _build(name, options).select(counts, num_samples, step=step, key=key)


def select_many(
    name: str | Mapping[str, Any],
    counts: Sequence[Any],
    num_samples: Any,
    *,
    keys: Sequence[str] | None = None,
    step: int = 0,
    **options: Any,
) -> list[Consensus]:
    """The consensus of every problem, [P]: what `select` gives one by one, many times faster.

    `counts` [P]: a list of int[C_p, V], one array for each problem, with as many rows as it has clusters. `num_samples`
    int[P, V]: a row for each problem, the samples of each of its views (`np.tile([16, 16], (P, 1))` where all have 16).
    `keys` [P] the problems' ids (for seeded selectors), the rest as in `select`. A selector that learns (`reliability`) is
    fitted on these problems first. Raises ConfigError as `select` does, naming the problem whose arrays do not fit.
    """
    return fit_and_select(_build(name, options), counts, num_samples, step=step, keys=keys)


def default_selectors() -> dict[str, protocols.Selector]:
    """Every built-in selector that needs no option, by name, with its default options."""
    classes = {name: registry.resolve("selectors", name) for name in registry.BUILT_IN["selectors"]}
    complete = {n: c for n, c in classes.items() if not any(f.is_required() for f in c.Options.model_fields.values())}
    return {name: cls(cls.Options()) for name, cls in complete.items()}


def _build(name: str | Mapping[str, Any], options: dict[str, Any]) -> protocols.Selector:
    if isinstance(name, str):
        return build_selector(name, options)
    if not isinstance(name, Mapping) or not isinstance(name.get("type"), str):
        raise ConfigError(
            f"a selector is a name, or a mapping with its 'type' ({{'type': 'harmonic', 'weights': [0.6, 0.4]}}); got {name!r}"
        )
    given = {key: value for key, value in name.items() if key != "type"}
    twice = [key for key in given if key in options]
    if twice:
        raise ConfigError(f"option {twice[0]!r} is given twice, in the mapping and beside it: leave one of the two out")
    return build_selector(name["type"], given | options)
