"""Who pays for the solver's time: seconds by text, so that a text which costs too much is left out and its partners are not.

Only book-keeping lives here; `workers` measures, and tries a suspect.
"""

from __future__ import annotations

import re

Text = tuple[str, str]  # (mode, text)

SMALL = 1 / 20  # of the limit: less than that counts as nothing
_LEAST_S = 0.05  # what a comparison may take on any machine without being looked into

_COSTLY = re.compile(r"\\(?:i*int|oint|sum|prod|lim|zeta|Gamma|binom)(?![A-Za-z])|\^|!")


class Charges:
    """The seconds that each text has used, of `limit_s` for all its comparisons together: within one call of
    `MathVerifyWorker.compare`, or within several that are given the same object (the chunks of one problem)."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self.trials: dict[Text, bool] = {}  # whether a suspect was quick against something simple
        self._spent: dict[Text, float] = {}

    def charge(self, text: Text, seconds: float) -> None:
        """Add to what `text` has used."""
        self._spent[text] = self._spent.get(text, 0.0) + seconds

    def left_s(self, left: Text, right: Text) -> float:
        """What a comparison of the two may take: what the one that has used more has left."""
        return self.limit_s - max(self._spent.get(left, 0.0), self._spent.get(right, 0.0))

    def exhausted(self, left: Text, right: Text) -> bool:
        """Whether one of the two has nothing left to speak of."""
        return self.left_s(left, right) <= SMALL * self.limit_s

    def full(self, left: Text, right: Text) -> bool:
        """Whether a comparison of the two has (nearly) the whole limit, so that its verdict is worth remembering."""
        return self.left_s(left, right) >= (1 - 2 * SMALL) * self.limit_s


def unremarkable_s(limit_s: float) -> float:
    """Seconds that a comparison may take without anybody being charged for it."""
    return max(SMALL * limit_s, _LEAST_S)


def by_weight(left: Text, right: Text) -> tuple[Text, Text]:
    """The two, the one first that looks less costly: fewer integrals, sums, powers and factorials, then shorter."""
    first, second = sorted((left, right), key=lambda text: (len(_COSTLY.findall(text[1])), len(text[1]), text))
    return first, second
