"""Which engine is reached by which transport, and everybody's rank: arithmetic, no GPU."""

from __future__ import annotations

import pytest

from harmonyray.actors.transports import Group, WeightEnd, plan_groups
from harmonyray.errors import ConfigError

HF, VLLM = ("gloo", "nccl"), ("gloo", "vllm_nccl", "ipc")
CPU = WeightEnd(1, HF, ())


def end(*gpus: str, transports: tuple[str, ...] = VLLM) -> WeightEnd:
    return WeightEnd(max(1, len(gpus)), transports, tuple(gpus))


LEARNER = end("n1/0")


def test_without_gpus_all_meet_over_gloo() -> None:
    engines = {"a": CPU, "b": WeightEnd(2, VLLM, ()), "c": CPU}
    members = ("learner", "a", "b, worker 0", "b, worker 1", "c")
    for wanted in ("auto", "gloo"):
        assert plan_groups(wanted, CPU, engines) == [Group("gloo", members, {"a": 1, "b": 2, "c": 4})]
    assert plan_groups("gloo", LEARNER, {"a": end("n1/1")}) == [Group("gloo", ("learner", "a"), {"a": 1})]


def test_engines_of_different_sizes_follow_each_other_in_one_nccl_group() -> None:
    engines = {"a": end("n1/1", "n1/2"), "b": end("n1/3"), "c": end("n2/0", "n2/1", "n2/2", "n2/3")}
    for wanted in ("auto", "nccl"):
        (group,) = plan_groups(wanted, LEARNER, engines)
        assert (group.transport, len(group.members), dict(group.first_ranks)) == ("vllm_nccl", 8, {"a": 1, "b": 3, "c": 4})
        assert group.members[4:6] == ("c, worker 0", "c, worker 1")
    (group,) = plan_groups("auto", LEARNER, {"a": end("n1/1", transports=HF)})
    assert group.transport == "nccl"


def test_auto_takes_each_engine_by_what_it_shares() -> None:
    engines = {"own": end("n1/1"), "learners": end("n1/0"), "both": end("n1/0", "n1/2"), "other node": end("n2/0"), "none": end()}
    groups = plan_groups("auto", LEARNER, engines)
    assert {g.transport: dict(g.first_ranks) for g in groups} == {
        "vllm_nccl": {"own": 1, "other node": 2},
        "ipc": {"learners": 1},
        "gloo": {"both": 1, "none": 3},
    }
    # Two engines on one GPU cannot both be in a NCCL group; two on the learner's each get their own way of CUDA IPC.
    assert [g.transport for g in plan_groups("auto", LEARNER, {"a": end("n1/1"), "b": end("n1/1")})] == ["gloo"]
    assert [(g.transport, g.members) for g in plan_groups("auto", LEARNER, {"a": end("n1/0"), "b": end("n1/0")})] == [
        ("ipc", ("learner", "a")),
        ("ipc", ("learner", "b")),
    ]
    # transformers engines know no CUDA IPC.
    assert [g.transport for g in plan_groups("auto", LEARNER, {"a": end("n1/0", transports=HF)})] == ["gloo"]


@pytest.mark.parametrize(
    ("wanted", "learner", "engine", "message"),
    [
        (
            "nccl",
            CPU,
            end("n1/1"),
            r"is nccl, which needs GPUs that .* have to themselves: the learner has \[\], a has \['n1/1'\]",
        ),
        ("nccl", LEARNER, end("n1/0"), "is nccl, which needs GPUs"),
        ("nccl", LEARNER, end(), "is nccl, which needs GPUs"),
        ("ipc", LEARNER, end("n1/1"), r"is ipc, which needs an engine of type vllm on the learner's only GPU"),
        ("ipc", LEARNER, end("n1/0", transports=HF), "is ipc, which needs"),
        ("ipc", CPU, end(), "is ipc, which needs"),
    ],
)
def test_what_cannot_be_had_is_the_users_mistake(wanted: str, learner: WeightEnd, engine: WeightEnd, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_groups(wanted, learner, {"a": engine})
