"""Selectors inside selectors: how an option names another selector, and what a wrapper passes on to those it holds."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationInfo, field_validator

from harmonyray.errors import ConfigError
from harmonyray.protocols import Selector
from harmonyray.registry import PluginOptions, PluginSpec, make_options, resolve
from harmonyray.selectors.applying import fit, learns, restore, state_of, weigh
from harmonyray.types import FloatArray


class SelectorSpec(PluginSpec):
    """A selector by name with its options, as in the YAML: `{type: harmonic, smoothing: 1}` or just `harmonic`."""

    kind = "selectors"

    def parse(self) -> PluginOptions:
        """The validated options; raises ConfigError for a class that is no selector, too."""
        selector_class(self.type)
        return super().parse()

    def build(self) -> Selector:
        """The selector this names."""
        selector: Selector = super().build()
        return selector


def selector_class(name: str) -> type[Any]:
    """The class of a selector by its name. Raises ConfigError for an unknown one, and for a class that lacks methods."""
    cls = resolve("selectors", name)
    missing = [] if callable(getattr(cls, "select", None)) else ["select(counts, num_samples, *, step, key)"]
    if inspect.isabstract(cls):
        missing += sorted(cls.__abstractmethods__)
    if missing:
        raise ConfigError(
            f"selectors type {name!r}: class {cls.__name__} has no {', '.join(missing)}; subclass harmonyray.selectors.Selector "
            "and write scores(support, counts, num_samples), or write select yourself"
        )
    return cls


def build_selector(name: str, options: Mapping[str, Any]) -> Selector:
    """The selector `name` with these options. Raises ConfigError for an unknown name or option."""
    cls = selector_class(name)
    selector: Selector = cls(make_options("selectors", name, "", options))
    return selector


class NestingOptions(PluginOptions):
    """Options that name other selectors. A bare name that needs options of its own is told how to give them."""

    @field_validator("of", "first", "then", mode="before", check_fields=False)
    @classmethod
    def _complete(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, str):
            needed = [name for name, field in selector_class(value).Options.model_fields.items() if field.is_required()]
            if needed:
                where = info.field_name
                dotted = " ".join(f"-o {where}.{name}=..." for name in needed)
                inner = ", ".join(f"{name}: ..." for name in needed)
                raise ConfigError(
                    f"{where}={value}: selector {value!r} needs options of its own ({', '.join(needed)}); write "
                    f"-o {where}.type={value} {dotted}, or in YAML {where}: {{type: {value}, {inner}}}"
                )
        return value


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

    def weigh_views(self, factors: FloatArray) -> None:
        """Multiplies the views' weights in every selector inside by factors float[V]. Raises ConfigError if one has none."""
        for selector in self.inner:
            weigh(selector, factors)

    def state_dict(self) -> dict[str, Any]:
        """The states of the selectors inside, in order."""
        return {"inner": [state_of(selector) for selector in self.inner]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts back what `state_dict` gave."""
        for selector, inner in zip(self.inner, state["inner"], strict=True):
            restore(selector, inner)
