"""Updates that are left out because their gradients are not finite, and when that is too many."""

from __future__ import annotations

from pydantic import Field, PositiveInt

from harmonyray.errors import NotFiniteError
from harmonyray.registry import PluginOptions


class SkipOptions(PluginOptions):
    """What every learner does about gradients that are not finite."""

    max_skipped_updates: PositiveInt = Field(
        3, description="so many updates in a row whose gradients are not finite end the run, the last batch kept for inspection"
    )


class Skips:
    """Counts the updates in a row that were left out. `limit` of them are too many."""

    def __init__(self, limit: int) -> None:
        self.limit, self.in_a_row = limit, 0

    def count(self, skipped: bool, step: int) -> None:
        """Raises NotFiniteError if this one, of `step`, is one too many."""
        self.in_a_row = self.in_a_row + 1 if skipped else 0
        if self.in_a_row >= self.limit:
            raise NotFiniteError(
                f"step {step}: the gradients of {self.in_a_row} updates in a row are not finite (learner.max_skipped_updates = "
                f"{self.limit}), and nothing was learned from them"
            )

    def forget(self) -> None:
        """What was counted so far belongs to another state of the learner."""
        self.in_a_row = 0
