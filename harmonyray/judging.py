"""From a step's answers to what is learned of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harmonyray.clock import Clock
from harmonyray.parts import Parts
from harmonyray.resampling import planned
from harmonyray.rollouts_ahead import Rollouts
from harmonyray.types import Collected, GroupRows, Judgement


def judged(
    p: Parts, step: int, got: Collected, rollouts: Rollouts, clock: Clock, row: dict[str, Any]
) -> tuple[Collected, Sequence[Judgement], Sequence[GroupRows] | None]:
    """The groups with what the method asks the learner for, what it says of them, and the rows to learn from, None for none.

    Meanwhile the weights that the next rollouts begin with are sent: the learner has given them when it is over, however it ends.
    What their broadcast raised comes before other failures. `row` gets the step's metrics of all this.
    """

    def synced() -> None:
        with clock("sync"):
            row.update({f"sync/{key}": value for key, value in rollouts.synced().items()})

    if p.score is not None:
        synced()  # engines do not wait for it, and the learner does one thing at a time
        with clock("score"):
            got = p.score(got)
    try:
        with clock("grade"):
            row |= p.audit(got.groups)
            judgements = p.method.judge(got.groups, step)
            plan, counts = planned(p, got, judgements)
            row |= counts
    finally:
        synced()
    return got, judgements, plan
