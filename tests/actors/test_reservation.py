"""Which nodes a lost seat may go to, with a cluster of paper; `test_ray_nodes` loses real ones."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from harmonyray.actors import reservation
from harmonyray.actors.placement import Node
from harmonyray.actors.reservation import Place, Reservation


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Reservation:
    """Two seats on node A of three; A and B are silent, C has little room. `tried` is where the seats were to go."""
    listed = [Node(name, room, 0.0, {}, {}, name) for name, room in (("A", 9.0), ("B", 8.0), ("C", 2.0))]
    monkeypatch.setattr(reservation, "nodes", lambda: listed)
    monkeypatch.setattr(reservation, "node_answers", lambda node: node not in SILENT)
    monkeypatch.setattr(reservation, "remove_placement_group", lambda group: None)
    made = Reservation([{"CPU": 1.0}] * 2, request.param)
    group: Any = SimpleNamespace(id=1)
    made.places |= {0: Place(group, 0, "A"), 1: Place(group, 1, "A")}

    def take(numbers: Any, where: Any, deadline: float) -> bool:
        made.places |= {number: Place(group, number, node.id) for number, node in zip(numbers, where, strict=True)}
        return True

    monkeypatch.setattr(made, "_try", take)
    return made


SILENT = {"A", "B"}
BOTH = pytest.mark.parametrize("held", ["pack", "spread"], indirect=True)


@BOTH
def test_a_silent_node_gets_no_seat_though_the_cluster_still_lists_it(held: Reservation) -> None:
    assert held.restore(0, 1.0) and held.restore(1, 1.0)
    assert [held.places[n].node for n in (0, 1)] == ["C", "C"]


@BOTH
def test_a_node_that_answers_after_all_is_one_again(held: Reservation, monkeypatch: pytest.MonkeyPatch) -> None:
    assert held.restore(0, 1.0)
    monkeypatch.setattr(reservation, "node_answers", lambda node: node != "C")
    assert held.restore(0, 1.0)
    assert held.places[0].node in "AB"


@BOTH
def test_where_nobody_answers_there_is_no_room(held: Reservation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reservation, "node_answers", lambda node: False)
    assert not held.restore(0, 0.0)
