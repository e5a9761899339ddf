"""A learner's end of broadcasts for the tests of engines: in this process, the engines' ends in others."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import torch

from harmonyray.actors.broadcast import WeightStore
from harmonyray.engines.roll_call import GroupSpec
from harmonyray.engines.weight_group import WeightGroup
from harmonyray.engines.weights import checksum, specs


class Learner:
    """Rank 0 of a gloo group with one engine, which may be a RemoteEngine, at rank 1 and following."""

    def __init__(self, engine: Any, num_ranks: int = 1, timeout_s: float = 20) -> None:
        self.engine = engine
        self.store = WeightStore("127.0.0.1", 30)
        members = ("learner", *(f"engine, worker {i}" for i in range(num_ranks)))
        self.spec = GroupSpec(self.store.host, self.store.port, "test", members, "gloo", timeout_s)
        joined: list[WeightGroup] = []
        thread = threading.Thread(target=lambda: joined.append(WeightGroup(self.spec, 0, self.store.store)))
        thread.start()
        engine.join_weights(self.spec, 1)
        thread.join(timeout_s)
        self.group = joined[0]

    def broadcast(self, weights: Mapping[str, torch.Tensor], version: int, bucket_bytes: int = 1 << 16) -> int:
        """Sends the weights; returns the checksum of what the engine then holds.

        Raises what either end raised, the engine first.
        """
        sent: list[Any] = []

        def send() -> None:
            try:
                sent.append(self.group.send(weights, specs(weights), bucket_bytes))
            except Exception as e:  # noqa: BLE001 (it is raised below)
                sent.append(e)

        thread = threading.Thread(target=send)
        thread.start()
        self.engine.receive_weights(specs(weights), bucket_bytes, version)
        thread.join(30)
        if isinstance(sent[0], Exception):
            raise sent[0]
        held: int = self.engine.held_checksum()
        assert held == checksum(weights)
        return held
