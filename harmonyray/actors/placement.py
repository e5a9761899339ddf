"""Who sits where: what the actors ask for, what the nodes have, and a plan of one onto the other."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from harmonyray.config import Config, Resources

EPS = 1e-6
WAYS_OUT = "ask less, e.g. placement.view.num_cpus=0.25, let views share engines (placement.share), or add nodes"
MAX_TRIES = 20_000  # nodes looked at before the search for a better plan gives up
MAX_SEARCHED = 500  # seats; beyond this only first fit


@dataclass(frozen=True, slots=True)
class EngineGroup:
    """Engines that answer for one view, or for several that share them. `model` None: the trained model, whose weights are
    broadcast to the group; else a model of its own, which stays as it is."""

    name: str
    views: tuple[str, ...]
    model: str | None
    resources: Resources

    @property
    def label(self) -> str:
        """How messages and tables name it."""
        return f"view {self.name}" if self.views == (self.name,) else f"group {self.name} ({', '.join(self.views)})"


@dataclass(frozen=True, slots=True)
class Seat:
    """One actor and what it asks for. `engines`: the engine group it is a replica of, None for learner and grader."""

    group: str
    replica: int
    num_cpus: float
    num_gpus: float
    engines: EngineGroup | None = None

    @property
    def name(self) -> str:
        return f"{self.group} replica {self.replica}"

    def bundle(self) -> dict[str, float]:
        """The placement-group bundle; Ray wants at least one positive resource in it."""
        bundle = {"CPU": self.num_cpus, "GPU": self.num_gpus}
        return {key: value for key, value in bundle.items() if value > 0} or {"CPU": 0.001}


@dataclass(frozen=True, slots=True)
class Node:
    """One machine and what it has for actors."""

    name: str
    num_cpus: float
    num_gpus: float


def engine_groups(config: Config) -> list[EngineGroup]:
    """The engine groups of a run, in the order of their first views."""
    shared = {view: name for name, views in config.placement.share.items() for view in views}
    names = dict.fromkeys(shared.get(view, view) for view in config.views)
    out = []
    for name in names:
        views = tuple(view for view in config.views if shared.get(view, view) == name)
        out.append(EngineGroup(name, views, config.views[views[0]].model, config.placement.for_group(name)))
    return out


def seats(config: Config) -> list[Seat]:
    """Every actor of a run: the learner, the grader, then each engine group's replicas. Placement bundles keep this order."""
    learner, grader = config.placement.learner, config.placement.grader
    out = [Seat("learner", 0, learner.num_cpus, learner.num_gpus), Seat("grader", 0, grader.num_cpus, grader.num_gpus)]
    for group in engine_groups(config):
        want = group.resources
        out += [Seat(group.label, i, want.num_cpus, want.num_gpus, group) for i in range(want.replicas)]
    return out


def assign(wanted: Sequence[Seat], nodes: Sequence[Node]) -> list[str | None]:
    """A node name for every seat, or None where no node has room: biggest seats first, each on the first node that fits.
    Where that leaves somebody out, a bounded search looks for a plan that does not."""
    order = sorted(range(len(wanted)), key=lambda i: (-wanted[i].num_gpus, -wanted[i].num_cpus, i))
    chosen = _search(wanted, order, nodes) or _first_fit(wanted, order, nodes)
    names = [n.name for n in nodes]
    return [None if (n := chosen[i]) is None else names[n] for i in range(len(wanted))]


def _fits(seat: Seat, room: list[float]) -> bool:
    return seat.num_cpus <= room[0] + EPS and seat.num_gpus <= room[1] + EPS


def _first_fit(wanted: Sequence[Seat], order: Sequence[int], nodes: Sequence[Node]) -> dict[int, int | None]:
    """Seat index to node index, or None."""
    free = [[n.num_cpus, n.num_gpus] for n in nodes]
    chosen: dict[int, int | None] = dict.fromkeys(order)
    for i in order:
        for n, room in enumerate(free):
            if _fits(wanted[i], room):
                room[0] -= wanted[i].num_cpus
                room[1] -= wanted[i].num_gpus
                chosen[i] = n
                break
    return chosen


def _search(wanted: Sequence[Seat], order: Sequence[int], nodes: Sequence[Node]) -> dict[int, int | None] | None:
    """First fit with second thoughts: everybody's node, or None if there is no such plan or it takes too long to find."""
    free = [[n.num_cpus, n.num_gpus] for n in nodes]
    chosen: dict[int, int | None] = {}
    tries = 0

    def place(depth: int) -> bool:
        nonlocal tries
        if depth == len(order):
            return True
        i, seen = order[depth], set()
        for n, room in enumerate(free):
            state = (round(room[0], 6), round(room[1], 6))
            tries += 1
            if state in seen or tries > MAX_TRIES or not _fits(wanted[i], room):
                continue
            seen.add(state)
            room[0] -= wanted[i].num_cpus
            room[1] -= wanted[i].num_gpus
            chosen[i] = n
            if place(depth + 1):
                return True
            room[0] += wanted[i].num_cpus
            room[1] += wanted[i].num_gpus
        return False

    return chosen if len(order) <= MAX_SEARCHED and place(0) else None


def plan_rows(wanted: Sequence[Seat], nodes: Sequence[Node]) -> list[tuple[str, ...]]:
    """The table of a plan: header, a row per seat, then asked and available totals."""
    rows: list[tuple[str, ...]] = [("group", "replica", "CPUs", "GPUs", "node")]
    for seat, node in zip(wanted, assign(wanted, nodes), strict=True):
        frozen = f", {seat.engines.model} as it is" if seat.engines and seat.engines.model else ""
        rows.append((seat.group + frozen, str(seat.replica), f"{seat.num_cpus:g}", f"{seat.num_gpus:g}", node or "NO ROOM"))
    rows.append(("asked", "", f"{sum(s.num_cpus for s in wanted):g}", f"{sum(s.num_gpus for s in wanted):g}", ""))
    rows.append(
        ("available", "", f"{sum(n.num_cpus for n in nodes):g}", f"{sum(n.num_gpus for n in nodes):g}", f"{len(nodes)} node(s)")
    )
    return rows


def format_rows(rows: Sequence[tuple[str, ...]]) -> str:
    """Rows as aligned columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def this_machine() -> Node:
    """What a local Ray would find here: the CPUs this process may use, and the GPUs that torch sees."""
    import torch

    return Node("this machine", float(len(os.sched_getaffinity(0))), float(torch.cuda.device_count()))
