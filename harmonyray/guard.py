"""The collapse guard: from a run's metrics, step by step, to a verdict on whether it still learns anything worth having.

Pure: rows of metrics in, verdicts out. It reads the figures named in `KEYS` and `OF_VIEWS` and no others, none of which knows a
gold answer. What is then done (a checkpoint, another learning rate) is `guarding.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harmonyray.config_sections import GuardConfig

ENTROPY, JS, KL = KEYS = ("consensus/entropy", "consensus/js", "train/kl")
OF_VIEWS = {"length": "rollout/{}/length", "answered": "rollout/{}/answered"}
SIGNS = ("sharpening", "divergence", "length", "answered", "kl")
START_STEPS = 3  # the run's first steps, which the later ones are compared with
KEPT_STEPS = 100  # of the latest steps' figures; `guard.window` is no longer
JS_FLOOR = 0.05  # nats; below it single stray answers decide what share of the entropy lies between views

Figures = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Alarm:
    """Signs that were out of their limits in every one of the last `guard.window` steps up to `step`: by name, what was seen.
    The first step of theirs is `onset`: a checkpoint of an earlier step is good."""

    step: int
    onset: int
    signs: Mapping[str, str]

    @property
    def text(self) -> str:
        return "; ".join(f"{name}: {seen}" for name, seen in self.signs.items())


class Guard:
    """Looks at the rows of one run. `views` [V] are their names; `voted`: whether the labels come from the answers (where they
    are given, agreement that grows is no sign of anything). Its state is JSON-ready."""

    def __init__(self, limits: GuardConfig, views: Sequence[str], voted: bool) -> None:
        self.limits, self.views, self.voted = limits, list(views), voted
        self.start: list[dict[str, float]] = []
        self.recent: list[dict[str, float]] = []

    def look(self, row: Mapping[str, float]) -> Alarm | None:
        """Takes in a step's metrics, its number under "step"; None while nothing is wrong."""
        keys = ["step", *KEYS, *(key.format(view) for key in OF_VIEWS.values() for view in self.views)]
        figures = {key: float(row[key]) for key in keys if key in row}
        if len(self.start) < START_STEPS:
            self.start.append(figures)
        self.recent = [*self.recent, figures][-KEPT_STEPS:]
        if len(self.start) < START_STEPS or len(self.recent) < self.limits.window:
            return None
        seen = [dict(self._complaints(each)) for each in self.recent]
        since = {sign: _since(sign, seen) for sign in SIGNS}
        firing = [sign for sign in SIGNS if len(seen) - since[sign] >= self.limits.window]
        if not firing:
            return None
        onset = self.recent[min(since[sign] for sign in firing)]["step"]
        return Alarm(int(figures["step"]), int(onset), {sign: seen[-1][sign] for sign in firing})

    def go_back(self, step: int) -> None:
        """Forgets what was seen after `step`."""
        self.start = [figures for figures in self.start if figures["step"] <= step]
        self.recent = [figures for figures in self.recent if figures["step"] <= step]

    def state_dict(self) -> dict[str, Any]:
        return {"start": self.start, "recent": self.recent}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.start, self.recent = list(state["start"]), list(state["recent"])

    def _complaints(self, now: Figures) -> Iterator[tuple[str, str]]:
        """The signs that a step shows, each with what was seen."""
        if self.voted and len(self.views) == 1:
            yield from _sharpening(now[ENTROPY], self._at_start(ENTROPY), self.limits.min_entropy_left)
        elif self.voted:
            yield from _divergence(now, self._js_share_at_start(), self.limits.max_divergence)
        for view in self.views:
            key = OF_VIEWS["length"].format(view)
            yield from _length(view, now[key], self._at_start(key), self.limits.max_length_change)
            key = OF_VIEWS["answered"].format(view)
            yield from _answered(view, now[key], self._at_start(key), self.limits.min_answered_left)
        if KL in now and not now[KL] <= self.limits.max_kl:  # not a number is beyond any limit
            yield "kl", f"{now[KL]:.3g} nats a token from the model that the run began with (guard.max_kl {self.limits.max_kl:g})"

    def _at_start(self, key: str) -> float:
        """A figure's mean over the first steps."""
        return sum(figures[key] for figures in self.start) / len(self.start)

    def _js_share_at_start(self) -> float:
        entropy = self._at_start(ENTROPY)
        return self._at_start(JS) / entropy if entropy else 0.0


def _since(sign: str, seen: Sequence[Mapping[str, str]]) -> int:
    """The index of the first of the latest steps that show a sign in a row; their number if the last does not."""
    first = len(seen)
    while first and sign in seen[first - 1]:
        first -= 1
    return first


def _sharpening(now: float, start: float, least: float) -> Iterator[tuple[str, str]]:
    """The samples of the only view agree ever more, and nothing but themselves says that they are right."""
    if now < least * start:
        yield (
            "sharpening",
            f"the answers' entropy is {now:.3g} nats, {now / start:.2f} of that at the start (guard.min_entropy_left {least:g}), "
            "and no second view confirms them",
        )


def _divergence(now: Figures, start: float, most: float) -> Iterator[tuple[str, str]]:
    """Every view becomes sure of its answers, and not of the same ones: of the pooled answers' entropy, which is the views' own
    plus the Jensen-Shannon divergence between them, the latter's share grows from `start` towards 1."""
    if now[JS] < JS_FLOOR or not now[ENTROPY]:
        return
    share = now[JS] / now[ENTROPY]
    if share > start + most * (1 - start):
        yield (
            "divergence",
            f"{share:.2f} of the answers' entropy is between the views, {start:.2f} at the start (guard.max_divergence {most:g})",
        )


def _length(view: str, now: float, start: float, most: float) -> Iterator[tuple[str, str]]:
    if start and not 1 / most <= now / start <= most:
        yield (
            "length",
            f"{view}'s responses have {now:.0f} tokens, {start:.0f} at the start (guard.max_length_change {most:g})",
        )


def _answered(view: str, now: float, start: float, least: float) -> Iterator[tuple[str, str]]:
    if now < least * start:
        yield (
            "answered",
            f"{now:.2f} of {view}'s responses have an answer, {start:.2f} at the start (guard.min_answered_left {least:g})",
        )
