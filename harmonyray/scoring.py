"""What a method asks the learner about a step's samples, before it judges them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from harmonyray.errors import RunError
from harmonyray.protocols import Ask, Runtime
from harmonyray.types import Collected, FloatArray, GroupRows


def scored(runtime: Runtime, asks: Sequence[Ask], statistics: Sequence[str], collected: Collected) -> Collected:
    """`collected` with these statistics (names from `protocols.TOKEN_STATISTICS`) in its groups, under the learner's present
    weights and at the temperature that each view `asks` [V] is sampled at. Where all groups
    have theirs already nothing is computed.

    Raises RunError for one that is not finite.
    """
    if all(group.statistics for group in collected.groups):
        return collected
    plan = [
        GroupRows(group.kept, False, np.zeros(len(group.figures.lengths)), v, ask.sampling.temperature, p)
        for p, problem in enumerate(collected.rollouts)
        for v, (group, ask) in enumerate(zip(problem.groups, asks, strict=True))
    ]
    values = runtime.score(plan, statistics)
    wrong = [name for name, rows in values.items() if not np.isfinite(rows).all()]
    if wrong:
        raise RunError(
            f"the {wrong[0]} of {int((~np.isfinite(values[wrong[0]])).sum())} response(s) is not finite under the learner's "
            "weights (masked logits in its vocabulary, or a model that has diverged): lower learner.lr, or use another method"
        )
    ends = np.cumsum([len(rows.advantages) for rows in plan])[:-1]
    parts = {name: np.split(rows, ends) for name, rows in values.items()}
    groups = []
    for p, group in enumerate(collected.groups):
        own = slice(p * len(asks), (p + 1) * len(asks))
        groups.append(replace(group, statistics={name: _table(rows[own]) for name, rows in parts.items()}))
    return replace(collected, groups=groups)


def _table(rows: Sequence[FloatArray]) -> FloatArray:
    """The views' values float[V, N], nan past each one's own."""
    out = np.full((len(rows), max(len(row) for row in rows)), np.nan)
    for v, row in enumerate(rows):
        out[v, : len(row)] = row
    return out
