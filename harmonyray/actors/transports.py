"""Which engine gets the weights by which transport, and the ranks of everybody. No torch: the driver decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harmonyray.errors import ConfigError

TRANSPORTS = ("gloo", "nccl", "vllm_nccl", "ipc")
"""`nccl` and `vllm_nccl` are both NCCL: through torch.distributed, and through vLLM's own weight transfer."""


@dataclass(frozen=True, slots=True)
class WeightEnd:
    """One end of a broadcast: how many ranks it takes, the transports it knows, and its GPUs, unique in the cluster."""

    num_ranks: int
    transports: tuple[str, ...]
    gpus: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """A broadcast group: its transport, its members' names in order of rank, the learner first, and each engine's first rank."""

    transport: str
    members: tuple[str, ...]
    first_ranks: Mapping[str, int]


def own_gpus() -> tuple[str, ...]:
    """The GPUs that Ray gave this actor."""
    import ray

    context = ray.get_runtime_context()
    return tuple(f"{context.get_node_id()}/{gpu}" for gpu in context.get_accelerator_ids()["GPU"])


def plan_groups(wanted: str, learner: WeightEnd, engines: Mapping[str, WeightEnd]) -> list[Group]:
    """The groups of one broadcast, `wanted` being sync.backend. Raises ConfigError if it cannot be had.

    With `auto` an engine that shares the learner's only GPU gets CUDA IPC if it knows it (NCCL refuses two members on one GPU),
    one whose GPUs are its own gets NCCL, every other one gloo.
    """
    by_transport: dict[str, list[str]] = {}
    for name, engine in engines.items():
        others = {gpu for other, end in engines.items() if other != name for gpu in end.gpus} | set(learner.gpus)
        by_transport.setdefault(_transport(wanted, learner, name, engine, others), []).append(name)
    groups = []
    for transport, names in by_transport.items():
        for together in [[name] for name in names] if transport == "ipc" else [names]:
            groups.append(_group(transport, together, engines))
    return groups


def _transport(wanted: str, learner: WeightEnd, name: str, engine: WeightEnd, others: set[str]) -> str:
    nccl = next((t for t in engine.transports if t.endswith("nccl")), None)
    shares = len(learner.gpus) == 1 and engine.gpus == learner.gpus and "ipc" in engine.transports
    apart = bool(nccl and learner.gpus and engine.gpus and not set(engine.gpus) & others)
    if wanted == "gloo" or (wanted == "auto" and not shares and not apart):
        return "gloo"
    if wanted in ("auto", "ipc") and shares:
        return "ipc"
    if wanted in ("auto", "nccl") and apart:
        assert nccl is not None
        return nccl
    if wanted == "ipc":
        problem = "needs an engine of type vllm on the learner's only GPU"
    else:
        problem = "needs GPUs that the learner and every engine have to themselves"
    raise ConfigError(
        f"'sync.backend' is {wanted}, which {problem}: the learner has {list(learner.gpus)}, {name} has {list(engine.gpus)}; "
        "use auto, or give whole GPUs with placement.*.num_gpus"
    )


def _group(transport: str, names: Sequence[str], engines: Mapping[str, WeightEnd]) -> Group:
    members, first_ranks = ["learner"], {}
    for name in names:
        first_ranks[name] = len(members)
        num = engines[name].num_ranks
        members += [name] if num == 1 else [f"{name}, worker {i}" for i in range(num)]
    return Group(transport, tuple(members), first_ranks)
