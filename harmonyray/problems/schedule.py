"""Which problems a step draws: a pure function of seed and step, so a resumed run goes on with the same data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from harmonyray.seeding import derive_seed
from harmonyray.types import Problem


class ProblemSchedule:
    """Every epoch is a new permutation; what does not fill a whole step is left for another epoch's permutation."""

    def __init__(self, problems: Sequence[Problem], per_step: int, seed: int) -> None:
        self.problems = list(problems)
        self.per_step = min(per_step, len(self.problems))
        self.seed = seed

    @property
    def steps_per_epoch(self) -> int:
        return len(self.problems) // self.per_step

    def draw(self, step: int) -> list[Problem]:
        """The problems of a step (from 1), none twice."""
        epoch, position = divmod(step - 1, self.steps_per_epoch)
        order = self._permutation("order", epoch)
        return [self.problems[i] for i in order[position * self.per_step : (position + 1) * self.per_step]]

    def further(self, step: int) -> list[Problem]:
        """All the problems that the step does not draw, in the order in which they may take others' places. What other steps draw
        stays the same."""
        drawn = {problem.id for problem in self.draw(step)}
        return [self.problems[i] for i in self._permutation("further", step) if self.problems[i].id not in drawn]

    def _permutation(self, *what: int | str) -> Any:
        return np.random.Generator(np.random.Philox(derive_seed(self.seed, *what))).permutation(len(self.problems))
