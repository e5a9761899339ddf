"""Selectors inside selectors: how an option names another selector, and what a wrapper passes on to those it holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harmonyray.protocols import Selector
from harmonyray.registry import PluginSpec
from harmonyray.selectors.applying import fit, learns, restore, state_of


class SelectorSpec(PluginSpec):
    """A selector by name with its options, as in the YAML: `{type: harmonic, smoothing: 1}` or just `harmonic`."""

    kind = "selectors"

    def build(self) -> Selector:
        """The selector this names."""
        selector: Selector = super().build()
        return selector


class Wrapper:
    """A selector that holds others, `inner`: all of them are fitted and have their state kept, used at this step or not."""

    inner: Sequence[Selector]

    @property
    def needs_all(self) -> bool:
        """Whether a selector inside learns from all problems' votes."""
        return any(learns(selector) for selector in self.inner)

    def fit(self, counts: Sequence[Any], num_samples: Any, *, step: int = 0) -> None:
        """Shows the votes, counts [P] of int[C_p, V] and num_samples int[P, V], to every selector inside that learns."""
        for selector in self.inner:
            fit(selector, counts, num_samples, step=step)

    def state_dict(self) -> dict[str, Any]:
        """The states of the selectors inside, in order."""
        return {"inner": [state_of(selector) for selector in self.inner]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts back what `state_dict` gave."""
        for selector, inner in zip(self.inner, state["inner"], strict=True):
            restore(selector, inner)
