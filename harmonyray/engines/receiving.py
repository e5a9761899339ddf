"""How an engine of one's own takes part in weight broadcasts, if it can load weights that are handed to it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch

from harmonyray.engines.roll_call import GroupSpec
from harmonyray.engines.weight_group import WeightGroup
from harmonyray.engines.weights import TensorSpec


class LoadsWeights(ABC):
    """Receives in CPU memory, and hands everything to `load_weights`."""

    num_weight_ranks: ClassVar[int] = 1
    weight_transports: ClassVar[tuple[str, ...]] = ("gloo",)

    @abstractmethod
    def load_weights(self, weights: Mapping[str, torch.Tensor], policy_version: int) -> int:
        """Takes up the named weights; returns `harmonyray.engines.weights.checksum` of what the engine then holds."""

    def join_weights(self, group: GroupSpec, rank: int) -> None:
        """Joins a broadcast group, and leaves the one before. Raises WeightSyncError."""
        self._weight_group = WeightGroup(group, rank)

    def receive_weights(self, sent: Sequence[TensorSpec], bucket_bytes: int, policy_version: int) -> None:
        """Takes part in one broadcast. Raises WeightSyncError, and what `load_weights` raises."""
        received = self._weight_group.receive(sent, bucket_bytes, torch.device("cpu"))
        self._checksum = self.load_weights(received.weights, policy_version)

    def held_checksum(self) -> int:
        """What `load_weights` returned for the last broadcast."""
        return self._checksum
