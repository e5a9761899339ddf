"""Values that stay in Ray's object store: the driver holds references, and whoever needs the content fetches it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import ray
from ray.exceptions import ObjectLostError

from harmonyray.errors import RolloutsLostError
from harmonyray.types import Here, ProblemRollouts, RolloutGroup

T = TypeVar("T", covariant=True)


@dataclass(frozen=True, slots=True)
class Stored(Generic[T]):
    """A `types.Kept` behind an object reference."""

    ref: Any

    def get(self) -> T:
        value: T = _fetch(self.ref)
        return value


def brought(rollouts: Sequence[ProblemRollouts]) -> list[ProblemRollouts]:
    """The same with all rollouts in this process: fetched at once, which is faster than one by one. Raises RolloutsLostError."""
    refs = [group.kept.ref for item in rollouts for group in item.groups if isinstance(group.kept, Stored)]
    found = dict(zip(refs, _fetch(refs), strict=True))

    def here(group: RolloutGroup) -> RolloutGroup:
        return replace(group, kept=Here(found[group.kept.ref])) if isinstance(group.kept, Stored) else group

    return [replace(item, groups=tuple(here(group) for group in item.groups)) for item in rollouts]


def _fetch(refs: Any) -> Any:
    try:
        return ray.get(refs)
    except ObjectLostError as e:
        raise RolloutsLostError(
            "rollouts are gone with the node that kept them; go on from the last checkpoint with --resume"
        ) from e
