"""Selectors inside selectors: how an option names another selector, and how it is built."""

from __future__ import annotations

from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, model_validator

from harmonyray import registry
from harmonyray.types import Consensus


class AnySelector(Protocol):
    """What the wrappers ask of the selectors they hold."""

    def select(self, counts: Any, num_samples: Any, *, step: int = 0, key: str = "") -> Consensus: ...


class SelectorSpec(BaseModel):
    """A selector by name with its options, as in the YAML: `{type: harmonic, smoothing: 1}` or just `harmonic`.

    Raises ConfigError for an unknown type or option.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    type: str

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"type": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _known(self) -> SelectorSpec:
        registry.make_options("selectors", self.type, self.type, self.model_extra or {})
        return self

    def build(self) -> AnySelector:
        """The selector this names."""
        options = registry.make_options("selectors", self.type, self.type, self.model_extra or {})
        selector: AnySelector = registry.resolve("selectors", self.type)(options)
        return selector
