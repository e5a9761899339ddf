"""Values that stay in Ray's object store: the driver holds references, and whoever needs the content fetches it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import ray
from ray.exceptions import ObjectLostError

from harmonyray.errors import RolloutsLostError

T = TypeVar("T", covariant=True)


@dataclass(frozen=True, slots=True)
class Stored(Generic[T]):
    """A `types.Kept` behind an object reference."""

    ref: Any

    def get(self) -> T:
        try:
            value: T = ray.get(self.ref)
        except ObjectLostError as e:
            raise RolloutsLostError(
                "rollouts are gone with the node that kept them; go on from the last checkpoint with --resume"
            ) from e
        return value
