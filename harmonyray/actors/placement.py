"""Who sits where: what the actors ask for, what the nodes have, and a plan of one onto the other.

The plan is ours and not Ray's: `reservation` pins every bundle to its planned node, so that `harmonyray plan` shows what
happens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from harmonyray.config import Config
from harmonyray.config_sections import Resources, num_ranks
from harmonyray.registry import resolve

DIGITS = 4  # Ray counts resources in steps of 0.0001
LEAST_CPU = 0.001  # Ray wants at least one positive resource in a bundle
MAX_TRIES = 20_000  # nodes looked at before the search for a better plan gives up
MAX_SEARCHED = 500  # bundles; beyond this no search

Amounts = Mapping[str, float]
"""How much of each of Ray's resources: "CPU", "GPU", and custom ones by name."""


@dataclass(frozen=True, slots=True)
class EngineGroup:
    """Engines that answer for one view, or for several that share them. `model` None: the trained model, whose weights are
    broadcast to the group; else a model of its own, which stays as it is. `colocated`: the engines sit in the learner's bundle
    and, if they can (`sleeps`), sleep while it updates. `own_options`: what placement.views sets for it; the rest is of
    placement.view."""

    name: str
    views: tuple[str, ...]
    model: str | None
    resources: Resources
    colocated: bool = False
    sleeps: bool = False
    own_options: frozenset[str] = frozenset()

    @property
    def label(self) -> str:
        """How messages and tables name it."""
        return f"view {self.name}" if self.views == (self.name,) else f"group {self.name} ({', '.join(self.views)})"


@dataclass(frozen=True, slots=True)
class Seat:
    """One actor and what it asks for. `engines`: the engine group it is a replica of, None for learner and grader; `custom`:
    custom Ray resources."""

    group: str
    replica: int
    num_cpus: float
    num_gpus: float
    engines: EngineGroup | None = None
    custom: Amounts = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.group} replica {self.replica}"

    @property
    def asked(self) -> dict[str, float]:
        """What it asks for, without what it asks none of."""
        amounts = {"CPU": self.num_cpus, "GPU": self.num_gpus, **self.custom}
        return {key: value for key, value in amounts.items() if value > 0}


@dataclass(frozen=True, slots=True)
class Node:
    """One machine, what it has for actors, and what others use of it. `id` is Ray's, "" for a machine without Ray."""

    name: str
    num_cpus: float
    num_gpus: float
    custom: Amounts = field(default_factory=dict)
    in_use: Amounts = field(default_factory=dict)
    id: str = ""

    @property
    def whole(self) -> dict[str, float]:
        return {"CPU": self.num_cpus, "GPU": self.num_gpus, **self.custom}

    @property
    def free(self) -> dict[str, float]:
        return {key: round(value - self.in_use.get(key, 0.0), DIGITS) for key, value in self.whole.items()}


@dataclass(frozen=True, slots=True)
class Room:
    """What is left on a node while a plan is made. `gpus`: the free share of each device, most first. Ray takes a share below 1
    from a single device, the fullest that has it, and whole GPUs from devices that nobody uses."""

    amounts: Amounts  # without GPU
    gpus: tuple[float, ...]

    @classmethod
    def of(cls, free: Amounts) -> Room:
        """Which devices others use is not known: at best they fill one after the other."""
        whole, share = divmod(round(free.get("GPU", 0.0), DIGITS), 1.0)
        gpus = (1.0,) * int(whole) + ((round(share, DIGITS),) if share else ())
        return cls({key: value for key, value in free.items() if key != "GPU"}, gpus)

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for two nodes with the same room."""
        return (*sorted(self.amounts.items()), self.gpus)

    def without(self, asked: Amounts) -> Room | None:
        """What is left after a bundle has been seated, None if it does not fit."""
        gpus, wanted = list(self.gpus), asked.get("GPU", 0.0)
        if wanted >= 1:
            if len(gpus) < wanted or gpus[round(wanted) - 1] < 1:
                return None
            gpus = gpus[round(wanted) :]
        elif wanted > 0:
            fitting = [i for i, share in enumerate(gpus) if share >= wanted]
            if not fitting:
                return None
            gpus[fitting[-1]] = round(gpus[fitting[-1]] - wanted, DIGITS)
        amounts = {key: round(have - asked.get(key, 0.0), DIGITS) for key, have in self.amounts.items()}
        if any(key not in amounts for key in asked if key != "GPU") or min(amounts.values(), default=0.0) < 0:
            return None
        return Room(amounts, tuple(sorted(gpus, reverse=True)))


def engine_groups(config: Config) -> list[EngineGroup]:
    """The engine groups of a run, in the order of their first views."""
    shared = {view: name for name, views in config.placement.share.items() for view in views}
    sleeps = hasattr(resolve("engines", config.rollout.engine.type), "sleep")
    names = dict.fromkeys(shared.get(view, view) for view in config.views)
    out = []
    for name in names:
        views = tuple(view for view in config.views if shared.get(view, view) == name)
        model, colocated = config.views[views[0]].model, name in config.placement.colocate
        own = config.placement.views[name].model_dump(exclude_none=True) if name in config.placement.views else {}
        group = EngineGroup(name, views, model, config.placement.for_group(name), colocated, sleeps, frozenset(own))
        out.append(group)
    return out


def seats(config: Config) -> list[Seat]:
    """Every actor of a run: the learner's ranks, which share what the learner gets, each engine group's replicas, and last the
    grader, whom it suits to sit with others."""
    learner, grader, ranks = config.placement.learner, config.placement.grader, num_ranks(config.learner)
    custom = {key: round(value / ranks, DIGITS) for key, value in learner.resources.items()}
    num_cpus, num_gpus = round(learner.num_cpus / ranks, DIGITS), learner.num_gpus / ranks
    out = [Seat("learner", rank, num_cpus, num_gpus, custom=custom) for rank in range(ranks)]
    for group in engine_groups(config):
        want = group.resources
        out += [Seat(group.label, i, want.num_cpus, want.num_gpus, group, want.resources) for i in range(want.replicas)]
    return [*out, Seat("grader", 0, grader.num_cpus, grader.num_gpus, custom=grader.resources)]


def bundle_numbers(wanted: Sequence[Seat]) -> list[int]:
    """The number of each seat's bundle, counted from 0: a bundle of its own, but that of the learner's rank 0 for colocated
    engines (where there is a learner)."""
    learner = next((i for i, seat in enumerate(wanted) if seat.group == "learner"), None)
    owner = [
        learner if learner is not None and seat.engines is not None and seat.engines.colocated else i
        for i, seat in enumerate(wanted)
    ]
    number = {i: n for n, i in enumerate(dict.fromkeys(sorted(owner)))}
    return [number[i] for i in owner]


def bundles(wanted: Sequence[Seat]) -> list[dict[str, float]]:
    """What each bundle asks for, in the order of `bundle_numbers`."""
    numbers = bundle_numbers(wanted)
    out: list[dict[str, float]] = [{} for _ in set(numbers)]
    for number, seat in zip(numbers, wanted, strict=True):
        for key, value in seat.asked.items():
            out[number][key] = round(out[number].get(key, 0.0) + value, DIGITS)
    return [bundle or {"CPU": LEAST_CPU} for bundle in out]


def biggest_first(asked: Sequence[Amounts]) -> list[int]:
    """The indices of bundles in the order in which they are seated: by GPUs, then CPUs."""
    return sorted(range(len(asked)), key=lambda i: (-asked[i].get("GPU", 0.0), -asked[i].get("CPU", 0.0), i))


def assign(wanted: Sequence[Seat], nodes: Sequence[Node], strategy: str = "pack") -> list[str | None]:
    """A node name for every seat, or None where no node has room; see `assign_bundles`."""
    chosen = assign_bundles(bundles(wanted), nodes, strategy)
    return [None if (n := chosen[number]) is None else nodes[n].name for number in bundle_numbers(wanted)]


def assign_bundles(asked: Sequence[Amounts], nodes: Sequence[Node], strategy: str) -> list[int | None]:
    """The index of a node for every bundle, or None where no node has room; looks at what is free.

    Biggest first: "pack" takes the first node that fits, "spread" the one with the fewest bundles. Where that leaves somebody
    out, a bounded search looks for a plan that does not.
    """
    order, rooms = biggest_first(asked), [Room.of(node.free) for node in nodes]
    chosen = _greedy(asked, order, rooms, strategy == "spread")
    if None in chosen and len(order) <= MAX_SEARCHED:
        chosen = _search(asked, order, rooms) or chosen
    return chosen


def _greedy(asked: Sequence[Amounts], order: Sequence[int], rooms: Sequence[Room], spread: bool) -> list[int | None]:
    left, taken = list(rooms), [0] * len(rooms)
    chosen: list[int | None] = [None] * len(order)
    for i in order:
        for n in sorted(range(len(left)), key=lambda n: (taken[n] if spread else 0, n)):
            after = left[n].without(asked[i])
            if after is not None:
                left[n], chosen[i] = after, n
                taken[n] += 1
                break
    return chosen


def _search(asked: Sequence[Amounts], order: Sequence[int], rooms: Sequence[Room]) -> list[int | None] | None:
    """First fit with second thoughts: everybody's node, or None if there is no such plan or it takes too long to find."""
    left = list(rooms)
    chosen: list[int | None] = [None] * len(order)
    tries = 0

    def place(depth: int) -> bool:
        nonlocal tries
        if depth == len(order):
            return True
        i, seen = order[depth], set()
        for n, room in enumerate(left):
            tries += 1
            if tries > MAX_TRIES:
                return False
            after = room.without(asked[i])
            if after is None or room.key in seen:
                continue
            seen.add(room.key)
            left[n], chosen[i] = after, n
            if place(depth + 1):
                return True
            left[n] = room
        return False

    return chosen if place(0) else None
