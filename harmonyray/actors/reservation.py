"""The seats of a run as Ray holds them: one placement group for each node, pinned to it, so that the plan is what happens and a
node that goes takes only its own seats with it."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from harmonyray.actors.cluster import node_answers, nodes
from harmonyray.actors.placement import Amounts, Node, Seat, assign_bundles, biggest_first, bundles
from harmonyray.actors.plan_report import check_room, report
from harmonyray.errors import PlacementError

TRY_S = 10.0  # longest wait for one plan; room that was free has then been taken by somebody else
PAUSE_S = 0.25  # between two looks at a busy cluster
NODE_LABEL = "ray.io/node-id"  # every node of Ray has it


@dataclass(frozen=True, slots=True)
class Place:
    """Where a bundle is: a placement group, its number there, and the node (Ray's id)."""

    group: PlacementGroup
    index: int
    node: str


class Reservation:
    """The bundles of a run and their places. `asked` is what each asks for, by its number."""

    def __init__(self, asked: Sequence[Amounts], strategy: str) -> None:
        self.asked, self.strategy = asked, strategy
        self.places: dict[int, Place] = {}
        self._removed = False
        self._taking = threading.Lock()  # held while places are entered or removed: one thread may claim, another remove

    def claim(self, numbers: Sequence[int], timeout_s: float) -> bool:
        """Reserves these bundles as planned on what is free, all of them or none; plans anew until `timeout_s` have passed, or
        everything is removed."""
        deadline = time.monotonic() + timeout_s
        while not self._removed:
            where = self._plan(numbers)
            if where and self._try(numbers, where, deadline):
                return True
            if time.monotonic() >= deadline:
                return False
            time.sleep(PAUSE_S)
        return False

    def seat(self, number: int) -> PlacementGroupSchedulingStrategy:
        """Where an actor of the bundle is to be started."""
        place = self.places[number]
        return PlacementGroupSchedulingStrategy(place.group, placement_group_bundle_index=place.index)

    def restore(self, number: int, timeout_s: float) -> bool:
        """Makes sure that the bundle has a place: if its node is gone, one on another. False if no node has room in time."""
        place = self.places.get(number)
        if place is not None and not node_answers(place.node):
            self._drop({place.node})
        return number in self.places or self.claim([number], timeout_s)

    def drop_lost(self) -> set[int]:
        """Gives up the places on nodes that are gone; returns the numbers of their bundles."""
        alive = {n["NodeID"] for n in ray.nodes() if n["Alive"]}
        return self._drop({place.node for place in list(self.places.values()) if place.node not in alive})

    def remove(self) -> None:
        """Frees everything, for good. Actors in it end."""
        with self._taking:
            self._removed = True
        self._drop({place.node for place in list(self.places.values())})

    def _drop(self, gone: set[str]) -> set[int]:
        """Gives up the places on these nodes; returns the numbers of their bundles."""
        with self._taking:
            dropped = {number: place for number, place in self.places.items() if place.node in gone}
            for number in dropped:
                del self.places[number]
        for group in {place.group.id: place.group for place in dropped.values()}.values():
            remove_placement_group(group)
        return set(dropped)

    def _plan(self, numbers: Sequence[int]) -> list[Node]:
        """A node for each of these bundles by what is free now, none of them silent: the cluster lists a lost node for a while.
        Empty if they do not fit."""
        have = nodes()
        while True:
            chosen = assign_bundles([self.asked[i] for i in numbers], have, self.strategy)
            if None in chosen:
                return []
            where = [have[n] for n in chosen if n is not None]
            silent = {node.id for node in where if not node_answers(node.id)}
            if not silent:
                return where
            have = [node for node in have if node.id not in silent]

    def _try(self, numbers: Sequence[int], where: Sequence[Node], deadline: float) -> bool:
        """One placement group for each node; if one does not come in time, none stays."""
        groups: list[PlacementGroup] = []
        places: dict[int, Place] = {}
        for node in {node.id: node for node in where}.values():
            here = [number for number, n in zip(numbers, where, strict=True) if n.id == node.id]
            # In the plan's order: Ray gives out devices in the order of the bundles.
            here = [here[i] for i in biggest_first([self.asked[number] for number in here])]
            pinned = [{NODE_LABEL: node.id}] * len(here)
            group = placement_group([dict(self.asked[i]) for i in here], strategy="PACK", bundle_label_selector=pinned)
            groups.append(group)
            places |= {number: Place(group, index, node.id) for index, number in enumerate(here)}
        until = min(time.monotonic() + TRY_S, deadline)
        if all(group.wait(max(0.1, until - time.monotonic())) for group in groups):
            with self._taking:
                if not self._removed:
                    self.places |= places
                    return True
        for group in groups:
            remove_placement_group(group)
        return False


def reserve(wanted: Sequence[Seat], timeout_s: float, strategy: str) -> Reservation:
    """Places for all bundles of the seats.

    Raises PlacementError with the plan at once if they can never fit, after `timeout_s` if the cluster is busy.
    """
    check_room(wanted, nodes(), strategy)
    asked = bundles(wanted)
    reservation = Reservation(asked, strategy)
    if not reservation.claim(range(len(asked)), timeout_s):
        now = report(wanted, nodes(), strategy)
        raise PlacementError(f"the cluster is busy: no room within runtime.start_timeout_s = {timeout_s:g} s:\n{now.text}")
    return reservation
