"""Seats, the plan and its table by hand. Nothing is started here."""

from __future__ import annotations

import pytest

from harmonyray.actors.cluster import this_machine
from harmonyray.actors.placement import (
    Node,
    Room,
    Seat,
    assign,
    bundle_numbers,
    bundles,
    engine_groups,
    seats,
)
from harmonyray.actors.plan_report import report
from harmonyray.config import load_config

SLEEPS = "rollout.engine={type: vllm, gpu_memory_utilization: 0.2, engine_args: {enable_sleep_mode: true}}"


def cpu(*amounts: float) -> list[Seat]:
    return [Seat(f"view {i}", 0, amount, 0) for i, amount in enumerate(amounts)]


def nodes(*amounts: float) -> list[Node]:
    return [Node(f"n{i}", amount, 0) for i, amount in enumerate(amounts)]


def test_seats_are_the_learner_every_replica_of_every_view_and_the_grader() -> None:
    config = load_config(
        "quickstart",
        [
            "placement.view.replicas=2",
            "placement.views.reframer={replicas: 1, num_cpus: 0, num_gpus: 0.5}",
            "placement.learner.num_cpus=3",
        ],
    )
    solver, reframer = engine_groups(config)
    assert (solver.views, solver.model, reframer.views) == (("solver",), None, ("reframer",))
    assert seats(config) == [
        Seat("learner", 0, 3, 0),
        Seat("view solver", 0, 0.5, 0, solver),
        Seat("view solver", 1, 0.5, 0, solver),
        Seat("view reframer", 0, 0, 0.5, reframer),
        Seat("grader", 0, 0.25, 0),
    ]


def test_views_that_share_a_group_sit_together_and_one_of_another_model_apart() -> None:
    config = load_config(
        "quickstart",
        [
            "views.judge={type: solver, model: other/model, template: 'SOLVE: {question}'}",
            "placement.share.both=[reframer,solver]",
            "placement.views.both.replicas=2",
        ],
    )
    both, judge = engine_groups(config)
    assert (both.name, both.views, both.model, both.label) == (
        "both",
        ("solver", "reframer"),
        None,
        "group both (solver, reframer)",
    )
    assert (judge.label, judge.views, judge.model) == ("view judge", ("judge",), "other/model")
    assert [seat.name for seat in seats(config) if seat.engines] == [
        "group both (solver, reframer) replica 0",
        "group both (solver, reframer) replica 1",
        "view judge replica 0",
    ]


@pytest.mark.parametrize(
    ("num_cpus", "num_gpus", "bundle"),
    [(0.5, 0, {"CPU": 0.5}), (1, 2, {"CPU": 1, "GPU": 2}), (0, 0.25, {"GPU": 0.25}), (0, 0, {"CPU": 0.001})],
)
def test_a_bundle_holds_what_is_asked_and_never_nothing(num_cpus: float, num_gpus: float, bundle: dict[str, float]) -> None:
    assert bundles([Seat("learner", 0, num_cpus, num_gpus)]) == [bundle]


def test_colocated_engines_share_the_learners_bundle() -> None:
    config = load_config(
        "quickstart",
        [
            "placement.colocate=[reframer]",
            SLEEPS,
            "placement.learner={num_cpus: 1, num_gpus: 0.5}",
            "placement.views.reframer={replicas: 2, num_cpus: 0.1, num_gpus: 0.2, resources: {rack: 0.5}}",
        ],
    )
    wanted = seats(config)
    assert [seat.name.replace(" replica", "") for seat in wanted] == [
        "learner 0",
        "view solver 0",
        "view reframer 0",
        "view reframer 1",
        "grader 0",
    ]
    assert [group.colocated for group in engine_groups(config)] == [False, True]
    assert bundle_numbers(wanted) == [0, 1, 0, 0, 2]
    assert bundles(wanted) == [{"CPU": 1.2, "GPU": 0.9, "rack": 1.0}, {"CPU": 0.5}, {"CPU": 0.25}]
    # An evaluation has no learner: its engines have bundles of their own.
    assert bundle_numbers(wanted[1:]) == [0, 1, 2, 3]
    assert bundles(wanted[1:])[1] == {"CPU": 0.1, "GPU": 0.2, "rack": 0.5}


def test_biggest_seats_first_on_the_first_node_with_room() -> None:
    assert assign(cpu(1, 3, 2), nodes(3, 4)) == ["n1", "n0", "n1"]
    assert assign(cpu(1, 1, 1), nodes(1, 1)) == ["n0", "n1", None]
    assert assign(cpu(1), []) == [None]
    assert assign([], nodes(1)) == []


def test_seats_with_gpus_go_before_bigger_ones_without() -> None:
    wanted = [Seat("grader", 0, 4, 0), Seat("learner", 0, 1, 1)]
    assert assign(wanted, [Node("gpu", 4, 1), Node("cpu", 4, 0)]) == ["cpu", "gpu"]
    assert assign(wanted, [Node("cpu", 4, 0), Node("cpu2", 4, 0)]) == ["cpu", None]


def test_fractions_that_add_up_exactly_fit() -> None:
    assert assign(cpu(*[0.1] * 10), nodes(1)) == ["n0"] * 10
    assert assign(cpu(*[0.1] * 11), nodes(1)).count(None) == 1


def test_a_plan_that_exists_is_found_where_first_fit_fails() -> None:
    """First fit puts 5+4 and 3+3+3 and has no room for 2; 5+3+2 and 4+3+3 fills both nodes."""
    wanted, have = cpu(5, 4, 3, 3, 3, 2), nodes(10, 10)
    placed = assign(wanted, have)
    assert None not in placed
    for node in have:
        assert sum(s.num_cpus for s, name in zip(wanted, placed, strict=True) if name == node.name) == 10


def test_a_hopeless_plan_is_given_up_quickly_and_says_who_stays_out() -> None:
    placed = assign(cpu(*[0.6] * 40), nodes(*[1.0] * 39))
    assert placed.count(None) == 1


def gpu(*amounts: float) -> list[Seat]:
    return [Seat(f"view {i}", 0, 0, amount) for i, amount in enumerate(amounts)]


@pytest.mark.parametrize(
    ("amounts", "devices", "homeless"),
    [
        ((0.5, 0.5), 1, 0),
        ((0.5, 0.5, 0.5), 1, 1),
        ((0.6, 0.6, 0.6), 2, 1),  # 1.8 of 2, but 0.4 and 0.4 are left, and a share comes from one device
        ((0.4, 0.5, 0.6, 0.5), 2, 0),  # 0.6 + 0.4 and 0.5 + 0.5
        ((1, 0.5), 1, 1),
        ((2,), 2, 0),
        ((2, 0.1), 2, 1),
        ((0.1, 0.1, 1), 2, 0),  # both shares on one device, so that the other stays whole
        ((0.1,) * 10, 1, 0),
    ],
)
def test_a_share_of_a_gpu_comes_from_one_device(amounts: tuple[float, ...], devices: int, homeless: int) -> None:
    assert assign(gpu(*amounts), [Node("n", 1, devices)]).count(None) == homeless


def test_a_seat_is_not_split_over_nodes() -> None:
    assert assign(gpu(2), [Node("a", 8, 1), Node("b", 8, 1)]) == [None]
    assert assign(gpu(2), [Node("a", 8, 1), Node("b", 8, 2)]) == ["b"]


def test_a_device_that_others_use_is_not_whole() -> None:
    busy = Node("n", 4, 2, in_use={"GPU": 0.5, "CPU": 3})
    assert Room.of(busy.free) == Room({"CPU": 1}, (1.0, 0.5))
    assert assign([*gpu(1, 0.5), *cpu(1)], [busy]) == ["n", "n", "n"]
    assert assign(gpu(2), [busy]) == [None]
    assert assign(cpu(1.1), [busy]) == [None]


def test_spread_takes_the_node_with_the_fewest() -> None:
    config = load_config("quickstart", ["placement.strategy=spread", "placement.views.reframer.replicas=2"])
    wanted, three = seats(config), nodes(4, 4, 4)
    assert assign(wanted, three, "pack") == ["n0"] * 5
    assert assign(wanted, three, "spread") == ["n0", "n1", "n2", "n0", "n1"]
    assert assign(cpu(4, 1, 1), nodes(1, 4, 1), "spread") == ["n1", "n0", "n2"]
    assert assign(cpu(2, 2), nodes(1, 4, 1), "spread") == ["n1", "n1"], "only one node has room"


def test_a_custom_resource_says_which_nodes_are_taken() -> None:
    config = load_config(
        "quickstart",
        [
            "placement.learner.resources={rack_a: 1}",
            "placement.view.resources={rack_b: 0.1}",
            "placement.views.reframer.resources={rack_c: 0.1}",
        ],
    )
    have = [Node("c", 4, 0, {"rack_c": 1}), Node("b", 4, 0, {"rack_b": 1}), Node("a", 4, 0, {"rack_a": 1})]
    assert assign(seats(config), have) == ["a", "b", "c", "c"]
    assert assign(seats(config), have[:2]) == [None, "b", "c", "c"]


def lines(text: str) -> list[str]:
    return text.splitlines()


def test_the_plan_has_a_section_for_every_node() -> None:
    config = load_config(
        "quickstart",
        [
            "placement.colocate=[reframer]",
            SLEEPS,
            "placement.learner={num_cpus: 1, num_gpus: 0.5}",
            "placement.view.num_gpus=0.5",
            "views.judge={type: solver, model: other/model, template: 'SOLVE: {question}'}",
        ],
    )
    have = [Node("10.0.0.1", 4, 1, in_use={"CPU": 1.5}), Node("10.0.0.2", 1, 1), Node("10.0.0.3", 2, 0)]
    shown = report(seats(config), have, "pack")
    assert (shown.fits, shown.ever) == (True, True)
    assert lines(shown.text) == [
        "node 10.0.0.1: 4 CPUs, 1 GPU (others use 1.5 CPUs)",
        "  group                             replica  CPUs  GPUs",
        "  learner                           0        1     0.5",
        "  view reframer                     0        0.5   0.5   with the learner, asleep while it updates",
        "  grader                            0        0.25  0",
        "  left                                       0.75  0",
        "",
        "node 10.0.0.2: 1 CPU, 1 GPU",
        "  group                             replica  CPUs  GPUs",
        "  view solver                       0        0.5   0.5",
        "  view judge, other/model as it is  0        0.5   0.5",
        "  left                                       0     0",
        "",
        "node 10.0.0.3: 2 CPUs, 0 GPUs",
        "  left                                       2     0",
        "",
        "asked                                        2.75  2",
        "available                                    5.5   2     3 node(s)",
    ]


def test_custom_resources_have_a_column() -> None:
    shown = report([Seat("grader", 0, 1, 0, custom={"rack": 0.5})], [Node("n", 1, 0, {"rack": 2, "other": 1})], "pack")
    assert lines(shown.text)[:4] == [
        "node n: 1 CPU, 0 GPUs, 2 rack, 1 other",
        "  group    replica  CPUs  GPUs  rack",
        "  grader   0        1     0     0.5",
        "  left              0     0     1.5",
    ]


def test_who_has_no_room_is_named_with_the_biggest_node_and_what_to_lower() -> None:
    config = load_config("quickstart", ["placement.views.solver={num_gpus: 2}", "placement.learner={num_cpus: 3, num_gpus: 1}"])
    shown = report(seats(config), [Node("10.0.0.1", 8, 1), Node("10.0.0.2", 2, 1)], "pack")
    assert (shown.fits, shown.ever) == (False, False)
    text = lines(shown.text)
    assert text[: text.index("NO ROOM")] == [
        "node 10.0.0.1: 8 CPUs, 1 GPU",
        "  group          replica  CPUs  GPUs",
        "  learner        0        3     1",
        "  view reframer  0        0.5   0",
        "  grader         0        0.25  0",
        "  left                    4.25  0",
        "",
        "node 10.0.0.2: 2 CPUs, 1 GPU",
        "  left                    2     1",
        "",
    ]
    assert text[text.index("NO ROOM") + 2] == "  view solver    0        0.5   2"
    assert (
        "view solver replica 0: needs 0.5 CPUs, 2 GPUs on one node; the biggest node, 10.0.0.1, has 8 CPUs, 1 GPU: "
        "lower placement.views.solver.num_gpus"
    ) in text
    assert text[-1].startswith("not enough room for this run: ask for less")


@pytest.mark.parametrize(
    ("overrides", "have", "sentence"),
    [
        (
            ["placement.grader.num_cpus=5"],
            Node("n", 4, 0),
            "grader: needs 5 CPUs on one node; the biggest node, n, has 4 CPUs: low",
        ),
        (["placement.learner.num_cpus=4"], Node("n", 4, 0), "grader: the others leave no node with 0.25 CPUs"),
        (["placement.learner.resources={rack: 2}"], Node("n", 4, 0, {"rack": 1}), "lower placement.learner.resources.rack"),
        (
            ["placement.colocate=[solver]", "placement.learner.num_cpus=4"],
            Node("n", 4, 0),
            "learner with view solver replica 0: needs 4.5 CPUs on one node; the biggest node, n, has 4 CPUs: "
            "lower placement.learner.num_cpus",
        ),
        # what is named is the option that was set, and of those who sit together that of whoever asks for most
        (
            ["placement.view.num_cpus=8"],
            Node("n", 4, 0),
            "view reframer replica 0: needs 8 CPUs on one node; the biggest node, n, has 4 C",
        ),
        (["placement.view.num_cpus=8"], Node("n", 4, 0), "lower placement.view.num_cpus"),
        (["placement.views.solver.replicas=2", "placement.view.num_cpus=8"], Node("n", 4, 0), "lower placement.view.num_cpus"),
        (
            ["placement.view.num_gpus=1", "placement.views.solver.num_cpus=9"],
            Node("n", 4, 9),
            "lower placement.views.solver.num_cpus",
        ),
        (
            ["placement.share.both=[solver,reframer]", "placement.views.both.resources={rack: 2}"],
            Node("n", 4, 0),
            "lower placement.views.both.resources.rack",
        ),
        (["placement.colocate=[solver]", "placement.view.num_cpus=4"], Node("n", 4, 0), "lower placement.view.num_cpus"),
    ],
)
def test_why_there_is_no_room(overrides: list[str], have: Node, sentence: str) -> None:
    assert sentence in report(seats(load_config("quickstart", overrides)), [have], "pack").text


def test_room_that_others_take_is_waited_for() -> None:
    shown = report(cpu(2), [Node("n", 2, 0, in_use={"CPU": 1}), Node("m", 1, 0)], "pack")
    assert (shown.fits, shown.ever) == (False, True)
    assert lines(shown.text)[-2:] == [
        "no room now: others use 1 CPU on n",
        "this run would fit without them: wait for them to end, or ask for less",
    ]


def test_this_machine_has_at_least_a_core() -> None:
    assert this_machine().num_cpus >= 1
