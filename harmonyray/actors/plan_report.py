"""What `harmonyray plan` prints and what an error about missing room says: a table for every node, and who stays out and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from harmonyray.actors.placement import DIGITS, Amounts, Node, Room, Seat, assign, bundle_numbers, bundles
from harmonyray.errors import PlacementError

WAYS_OUT = (
    "ask for less (placement.view.num_cpus=0.25), let views share engines (placement.share), seat engines with the learner "
    "(placement.colocate), or add nodes"
)


@dataclass(frozen=True, slots=True)
class PlanReport:
    """`text` is the table and what to do about it. `fits`: everybody has a seat now; `ever`: everybody would have one if nobody
    else used the nodes."""

    text: str
    fits: bool
    ever: bool


def report(wanted: Sequence[Seat], nodes: Sequence[Node], strategy: str) -> PlanReport:
    """The plan of the seats onto what is free of the nodes; onto the whole nodes if even they do not suffice."""
    placed = assign(wanted, nodes, strategy)
    fits = ever = None not in placed
    if not fits:
        empty = [replace(node, in_use={}) for node in nodes]
        at_best = assign(wanted, empty, strategy)
        ever = None not in at_best
        nodes, placed = (nodes, placed) if ever else (empty, at_best)
    text = plan_table(wanted, nodes, placed)
    if not fits:
        text += "\n" + "\n".join(_busy(nodes) if ever else who_stays_out(wanted, nodes, placed))
    return PlanReport(text, fits, ever)


def check_room(wanted: Sequence[Seat], nodes: Sequence[Node], strategy: str) -> None:
    """Raises PlacementError with the plan if these nodes can never hold these seats."""
    plan = report(wanted, nodes, strategy)
    if not plan.ever:
        raise PlacementError(f"there is not enough room for this run:\n{plan.text}")


def plan_table(wanted: Sequence[Seat], nodes: Sequence[Node], placed: Sequence[str | None]) -> str:
    """A section for each node with who sits there and what is left, one for those without room, then the totals."""
    custom = sorted({key for seat in wanted for key in seat.custom})
    keys = ["CPU", "GPU", *custom]
    rows: list[tuple[str, ...] | str] = []
    for node in nodes:
        here = [i for i, name in enumerate(placed) if name == node.name]
        left = {key: node.free.get(key, 0.0) - sum(wanted[i].asked.get(key, 0.0) for i in here) for key in keys}
        rows.append(f"node {node.name}: {amounts(node.whole)}{_others(node)}")
        rows += _section(here, wanted, keys)
        rows += [_total("left", left, keys), ""]
    homeless = [i for i, name in enumerate(placed) if name is None]
    if homeless:
        rows += ["NO ROOM", *_section(homeless, wanted, keys), ""]
    asked = {key: sum(seat.asked.get(key, 0.0) for seat in wanted) for key in keys}
    free = {key: sum(node.free.get(key, 0.0) for node in nodes) for key in keys}
    rows += [_total("asked", asked, keys), (*_total("available", free, keys)[:-1], f"{len(nodes)} node(s)")]
    return _format(rows)


def who_stays_out(wanted: Sequence[Seat], nodes: Sequence[Node], placed: Sequence[str | None]) -> list[str]:
    """A sentence for each bundle without a node, and the ways out."""
    numbers, asked = bundle_numbers(wanted), bundles(wanted)
    homeless = dict.fromkeys(number for number, name in zip(numbers, placed, strict=True) if name is None)
    out = []
    for number in homeless:
        members = [seat for seat, n in zip(wanted, numbers, strict=True) if n == number]
        who = members[0].name if members[0].engines else members[0].group
        if len(members) > 1:
            who += f" with {', '.join(seat.name for seat in members[1:])}"
        if any(Room.of(node.whole).without(asked[number]) for node in nodes):
            out.append(f"{who}: the others leave no node with {amounts(asked[number])}")
        else:
            out.append(f"{who}: needs {amounts(asked[number])} on one node; {_biggest(nodes, asked[number], members)}")
    return [*out, f"not enough room for this run: {WAYS_OUT}"]


def amounts(of: Amounts) -> str:
    """Resources in words: "4 CPUs, 1 GPU"."""
    return ", ".join(f"{round(value, DIGITS):g} {_unit(key, value)}" for key, value in of.items()) or "nothing"


def _unit(key: str, value: float) -> str:
    return key + ("s" if key in ("CPU", "GPU") and value != 1 else "")


def _biggest(nodes: Sequence[Node], asked: Amounts, members: Sequence[Seat]) -> str:
    """The node that comes closest, by what is scarcest first (custom resources, GPUs, CPUs), and what to lower: of whoever asks
    for most of it, where that is set."""
    if not nodes:
        return "there is no node"
    scarcest_first = sorted(asked, key=lambda key: (key == "CPU", key == "GPU", key))
    best = max(nodes, key=lambda node: [node.whole.get(key, 0.0) for key in scarcest_first])
    missing = next((key for key in scarcest_first if best.whole.get(key, 0.0) < asked[key]), scarcest_first[0])
    option = {"CPU": "num_cpus", "GPU": "num_gpus"}.get(missing, f"resources.{missing}")
    seat = max(members, key=lambda seat: seat.asked.get(missing, 0.0))
    own = seat.engines is not None and option.partition(".")[0] in seat.engines.own_options
    where = (
        f"placement.views.{seat.engines.name}"
        if seat.engines and own
        else "placement.view"
        if seat.engines
        else f"placement.{seat.group}"
    )
    has = amounts({key: best.whole.get(key, 0.0) for key in asked})
    return f"the biggest node, {best.name}, has {has}: lower {where}.{option}"


def _busy(nodes: Sequence[Node]) -> list[str]:
    return [
        "no room now: others use " + "; ".join(f"{amounts(used)} on {n.name}" for n in nodes if (used := _used(n))),
        "this run would fit without them: wait for them to end, or ask for less",
    ]


def _used(node: Node) -> dict[str, float]:
    return {key: node.in_use[key] for key in node.whole if node.in_use.get(key, 0.0) > 0}


def _others(node: Node) -> str:
    return f" (others use {amounts(used)})" if (used := _used(node)) else ""


def _section(here: Sequence[int], wanted: Sequence[Seat], keys: Sequence[str]) -> list[tuple[str, ...]]:
    """The rows of those who sit together (indices in `wanted`): who shares the learner's bundle right after it."""
    together = sorted(here, key=bundle_numbers(wanted).__getitem__)
    return [_header(keys), *(_row(wanted[i], wanted, keys) for i in together)] if here else []


def _header(keys: Sequence[str]) -> tuple[str, ...]:
    return ("  group", "replica", *(_unit(key, 2) for key in keys), "")


def _row(seat: Seat, wanted: Sequence[Seat], keys: Sequence[str]) -> tuple[str, ...]:
    frozen = f", {seat.engines.model} as it is" if seat.engines and seat.engines.model else ""
    with_learner = seat.engines is not None and seat.engines.colocated and any(s.group == "learner" for s in wanted)
    asleep = ", asleep while it updates" if seat.engines is not None and seat.engines.sleeps else ""
    note = f"with the learner{asleep}" if with_learner else ""
    cells = (f"{seat.asked.get(key, 0.0):g}" for key in keys)
    return (f"  {seat.group}{frozen}", str(seat.replica), *cells, note)


def _total(name: str, of: Amounts, keys: Sequence[str]) -> tuple[str, ...]:
    indent = "  " if name == "left" else ""
    return (indent + name, "", *(f"{round(of[key], DIGITS):g}" for key in keys), "")


def _format(rows: Sequence[tuple[str, ...] | str]) -> str:
    """Rows as aligned columns; texts stand as they are."""
    cells = [row for row in rows if not isinstance(row, str)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    return "\n".join(
        row if isinstance(row, str) else "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
