"""Using a selector on many problems, whatever it offers: the optional `select_many`, `fit` and state of the protocols.

A selector needs `select` alone. What it has beyond that is found by interface, never by name, so that selectors of the user's
own and wrapped ones are treated like the built-in ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from harmonyray.errors import ConfigError
from harmonyray.protocols import BatchSelector, FittedSelector, Selector, WeighsViews
from harmonyray.types import Consensus, FloatArray


def learns(selector: Selector) -> bool:
    """Whether a selector must see all problems before it selects any."""
    return isinstance(selector, FittedSelector) and selector.needs_all


def fit(selector: Selector, counts: Sequence[Any], num_samples: Any, *, step: int = 0) -> None:
    """Shows the votes of a step (or of a file) to a selector that learns from them; does nothing to any other."""
    if isinstance(selector, FittedSelector):
        selector.fit(counts, num_samples, step=step)


def select_all(
    selector: Selector, counts: Sequence[Any], num_samples: Any, *, step: int = 0, keys: Sequence[str] | None = None
) -> list[Consensus]:
    """The consensus of every problem, [P]: counts [P] of int[C_p, V], num_samples int[P, V], `keys` [P] the problems' ids.

    At once where the selector can, else one by one. Raises ConfigError for arrays that do not fit.
    """
    if keys is not None and len(keys) != len(counts):
        raise ConfigError(f"keys must name each of the {len(counts)} problems, got {len(keys)}")
    if isinstance(selector, BatchSelector):
        return selector.select_many(counts, num_samples, step=step, keys=keys)
    return select_each(selector, counts, num_samples, step=step, keys=keys)


def select_each(
    selector: Selector, counts: Sequence[Any], num_samples: Any, *, step: int = 0, keys: Sequence[str] | None = None
) -> list[Consensus]:
    """`select_all` by a loop over the problems."""
    rows = np.asarray(num_samples)
    if len(rows) != len(counts):
        raise ConfigError(f"num_samples must have one row for each of the {len(counts)} problems, got {len(rows)}")
    names = keys if keys is not None else [""] * len(counts)
    return [selector.select(c, n, step=step, key=key) for c, n, key in zip(counts, rows, names, strict=True)]


def fit_and_select(
    selector: Selector, counts: Sequence[Any], num_samples: Any, *, step: int = 0, keys: Sequence[str] | None = None
) -> list[Consensus]:
    """`fit` on these problems, then `select_all` of them: what training does at every step and a vote does with a file."""
    fit(selector, counts, num_samples, step=step)
    return select_all(selector, counts, num_samples, step=step, keys=keys)


def weigh(selector: Selector, factors: FloatArray) -> None:
    """Multiplies the views' weights in a selector's votes by `factors` float[V]. Raises ConfigError for one without weights."""
    if not isinstance(selector, WeighsViews):
        raise ConfigError(
            f"'audit.action' is down_weight, but selector {type(selector).__name__} does not weigh views: use one with an option "
            "'weights' (harmonyray list selectors), or audit.action=report"
        )
    selector.weigh_views(factors)


def state_of(selector: Selector) -> dict[str, Any]:
    """What a selector has learned, JSON-ready for a checkpoint; empty for one that learns nothing."""
    return selector.state_dict() if isinstance(selector, FittedSelector) else {}


def restore(selector: Selector, state: Mapping[str, Any]) -> None:
    """Puts back what `state_of` gave. Raises ConfigError if a state is given to a selector that has none."""
    if isinstance(selector, FittedSelector):
        selector.load_state_dict(state)
    elif state:
        raise ConfigError(f"selector {type(selector).__name__} has no state to restore, got {sorted(state)}")
