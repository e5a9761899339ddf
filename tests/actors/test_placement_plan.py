"""Seats, the plan and its table by hand. Nothing is started here."""

from __future__ import annotations

import pytest

from harmonyray.actors.placement import Node, Seat, assign, engine_groups, format_rows, plan_rows, seats, this_machine
from harmonyray.config import load_config


def cpu(*amounts: float) -> list[Seat]:
    return [Seat(f"view {i}", 0, amount, 0) for i, amount in enumerate(amounts)]


def nodes(*amounts: float) -> list[Node]:
    return [Node(f"n{i}", amount, 0) for i, amount in enumerate(amounts)]


def test_seats_are_the_learner_the_grader_and_every_replica_of_every_view() -> None:
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
        Seat("grader", 0, 0.25, 0),
        Seat("view solver", 0, 0.5, 0, solver),
        Seat("view solver", 1, 0.5, 0, solver),
        Seat("view reframer", 0, 0, 0.5, reframer),
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
    assert Seat("learner", 0, num_cpus, num_gpus).bundle() == bundle


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


def test_the_table_lists_seats_asked_and_available() -> None:
    rows = plan_rows([Seat("learner", 0, 1, 1), Seat("view solver", 3, 0.5, 0)], [Node("10.0.0.1", 1.25, 0)])
    assert rows == [
        ("group", "replica", "CPUs", "GPUs", "node"),
        ("learner", "0", "1", "1", "NO ROOM"),
        ("view solver", "3", "0.5", "0", "10.0.0.1"),
        ("asked", "", "1.5", "1", ""),
        ("available", "", "1.25", "0", "1 node(s)"),
    ]
    assert format_rows(rows).splitlines() == [
        "group        replica  CPUs  GPUs  node",
        "learner      0        1     1     NO ROOM",
        "view solver  3        0.5   0     10.0.0.1",
        "asked                 1.5   1",
        "available             1.25  0     1 node(s)",
    ]


def test_this_machine_has_at_least_a_core() -> None:
    assert this_machine().num_cpus >= 1
