"""The selectors of one vote: their names and options from the command line, and weights in the order of the views."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harmonyray.errors import ConfigError
from harmonyray.overrides import read_items
from harmonyray.protocols import Selector
from harmonyray.registry import nearest
from harmonyray.selectors import default_selectors
from harmonyray.selectors.nested import build_selector

ALL = "all"
DEFAULT = "harmonic"
_WEIGHTS = "weights"


@dataclass(slots=True)
class Candidate:
    """A selector and how it has done so far."""

    name: str
    selector: Selector
    num_abstained: int = 0
    num_ties: int = 0
    num_different: int = 0
    num_right: int = 0


def parse_options(items: Sequence[str]) -> dict[str, Any]:
    """`["lam=2", "of.type=harmonic"]` as nested options. Raises ConfigError for an item that cannot be read."""
    return read_items(items, "-o", "-o lam=1.5 or -o weights=[0.6,0.4]")


def make_candidates(selectors: Sequence[str], options: Mapping[str, Any], views: Sequence[str] | None) -> list[Candidate]:
    """The selectors that `selectors` name (each a name, several with commas, or "all"), every one once, in this order.

    `options` are those of the only one. With `views` its weights may be given by the views' names; before they are known (None)
    weights are not looked at. Raises ConfigError for unknown names and options.
    """
    names = [name.strip() for item in selectors for name in item.split(",")]
    if "" in names:
        raise ConfigError(f"--selector {','.join(selectors)!r}: expected names with one comma between two of them")
    if options and (len(names) > 1 or ALL in names):
        raise ConfigError(f"-o {next(iter(options))!r} belongs to one selector: name it with --selector, and no other")
    out: dict[str, Selector] = {}
    for name in names:
        out |= default_selectors() if name == ALL else {name: build_selector(name, _in_order(options, views))}
    return [Candidate(name, selector) for name, selector in out.items()]


def _in_order(options: Mapping[str, Any], views: Sequence[str] | None) -> dict[str, Any]:
    """The options with the weights as a list in the order of the views."""
    weights = options.get(_WEIGHTS)
    if weights is None:
        return dict(options)
    if views is None:
        return {key: value for key, value in options.items() if key != _WEIGHTS}
    return {**options, _WEIGHTS: _weights(weights, views)}


def _weights(weights: Any, views: Sequence[str]) -> list[Any]:
    numbers = ",".join(str(round(1 / len(views), 2)) for _ in views)
    by_name = ", ".join(f"{view}: {1 / len(views):.2g}" for view in views)
    fix = f"-o weights=[{numbers}] in the order {', '.join(views)}, or by name: -o 'weights={{{by_name}}}'"
    if isinstance(weights, Mapping):
        for name in weights:
            if name not in views:
                raise ConfigError(f"-o weights: no view is called {name!r}: {nearest(str(name), list(views))}; expected {fix}")
        missing = [view for view in views if view not in weights]
        if missing:
            raise ConfigError(f"-o weights: view {missing[0]!r} has no weight (0 leaves it out); expected {fix}")
        return [weights[view] for view in views]
    if isinstance(weights, str):
        numbers = weights.strip("()[] ")
        raise ConfigError(
            f"-o weights={weights} is no list; expected -o weights=[{numbers}] in the order {', '.join(views)}, or by name: "
            f"-o 'weights={{{by_name}}}'"
        )
    if not isinstance(weights, list):
        raise ConfigError(f"-o weights={weights} is one number for {len(views)} views; expected {fix}")
    if len(weights) != len(views):
        raise ConfigError(f"-o weights={weights} has {len(weights)} entries but there are {len(views)} views; expected {fix}")
    return weights
