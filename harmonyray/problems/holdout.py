"""Which problems are held out: evaluated and never trained on, so that generalising can be told from adapting.

A pure function of the seed and the ids: the order of the file does not matter, and a larger share holds out the same problems
and more.
"""

from __future__ import annotations

from collections.abc import Sequence

from harmonyray.errors import ProblemError
from harmonyray.seeding import derive_seed
from harmonyray.types import Problem


def split_holdout(problems: Sequence[Problem], share: float, seed: int) -> tuple[list[Problem], list[Problem]]:
    """The problems to adapt to and the held-out ones, each in the order of `problems`.

    `share` in (0, 1) of them is held out, to the nearest whole number (a half rounds up). Raises ProblemError if a part
    would be empty.
    """
    num_held_out = int(share * len(problems) + 0.5)
    if not 0 < num_held_out < len(problems):
        empty = "hold out none" if num_held_out <= 0 else "leave none to adapt to"
        raise ProblemError(
            f"holding out a share of {share:g} of {len(problems)} problems would {empty}; expected at least one of each: "
            + ("change problems.holdout" if len(problems) > 1 else "two problems are the fewest that can be split")
        )
    ranked = sorted(problems, key=lambda p: (derive_seed(seed, "holdout", p.id), p.id))
    held_out = {p.id for p in ranked[:num_held_out]}
    return [p for p in problems if p.id not in held_out], [p for p in problems if p.id in held_out]
