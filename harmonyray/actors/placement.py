"""Who sits where: what the actors ask for, what the nodes have, and a first-fit plan of one onto the other."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from harmonyray.config import Config

EPS = 1e-6


@dataclass(frozen=True, slots=True)
class Seat:
    """One actor and what it asks for."""

    group: str
    replica: int
    num_cpus: float
    num_gpus: float

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


def seats(config: Config) -> list[Seat]:
    """Every actor of a run: the learner, the grader, then each view group's replicas. Placement bundles keep this order."""
    learner, grader = config.placement.learner, config.placement.grader
    out = [Seat("learner", 0, learner.num_cpus, learner.num_gpus), Seat("grader", 0, grader.num_cpus, grader.num_gpus)]
    for view in config.views:
        want = config.placement.for_view(view)
        out += [Seat(f"view {view}", i, want.num_cpus, want.num_gpus) for i in range(want.replicas)]
    return out


def assign(wanted: Sequence[Seat], nodes: Sequence[Node]) -> list[str | None]:
    """A node name for every seat, or None where no node has room: biggest seats first, each on the first node that fits."""
    free = [[n.num_cpus, n.num_gpus] for n in nodes]
    placed: list[str | None] = [None] * len(wanted)
    for i in sorted(range(len(wanted)), key=lambda i: (-wanted[i].num_gpus, -wanted[i].num_cpus, i)):
        for room, node in zip(free, nodes, strict=True):
            if wanted[i].num_cpus <= room[0] + EPS and wanted[i].num_gpus <= room[1] + EPS:
                room[0] -= wanted[i].num_cpus
                room[1] -= wanted[i].num_gpus
                placed[i] = node.name
                break
    return placed


def plan_rows(wanted: Sequence[Seat], nodes: Sequence[Node]) -> list[tuple[str, ...]]:
    """The table of a plan: header, a row per seat, then asked and available totals."""
    rows: list[tuple[str, ...]] = [("group", "replica", "CPUs", "GPUs", "node")]
    for seat, node in zip(wanted, assign(wanted, nodes), strict=True):
        rows.append((seat.group, str(seat.replica), f"{seat.num_cpus:g}", f"{seat.num_gpus:g}", node or "NO ROOM"))
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
