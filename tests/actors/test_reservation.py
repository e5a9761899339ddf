"""Which nodes a lost seat may go to, with a cluster of paper; `test_ray_nodes` loses real ones."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from harmonyray.actors import reservation
from harmonyray.actors.placement import Node
from harmonyray.actors.reservation import Place, Reservation


@pytest.mark.parametrize("strategy", ["pack", "spread"])
def test_a_node_that_does_not_answer_gets_no_seat_though_the_cluster_still_lists_it(
    monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    listed = [Node("a", 4.0, 0.0, {}, {}, "A"), Node("b", 2.0, 0.0, {}, {"CPU": 1.0}, "B")]
    monkeypatch.setattr(reservation, "nodes", lambda: listed)
    monkeypatch.setattr(reservation, "node_answers", lambda node: node != "A")
    monkeypatch.setattr(reservation, "remove_placement_group", lambda group: None)
    held = Reservation([{"CPU": 1.0}] * 2, strategy)
    group: Any = SimpleNamespace(id=1)
    held.places |= {0: Place(group, 0, "A"), 1: Place(group, 1, "A")}
    tried: list[str] = []

    def take(numbers: Any, where: Any, deadline: float) -> bool:
        tried.extend(node.id for node in where)
        return True

    monkeypatch.setattr(held, "_try", take)
    assert held.restore(0, 1.0) and held.restore(1, 1.0)
    assert tried == ["B", "B"]
