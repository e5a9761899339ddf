"""Runs over several nodes of a real cluster: who sits on which, that the weights get there, and what happens when a node goes."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from actor_helpers import (
    ROOM,
    SMALL,
    assert_same_rows,
    assert_same_weights,
    engine_weights,
    hold_up,
    inside,
    learner_weights,
    small_config,
    wait_for,
)
from ray.cluster_utils import Cluster
from ray.util.placement_group import placement_group, remove_placement_group
from safetensors.numpy import load_file

from harmonyray import build
from harmonyray.actors import pool, reservation
from harmonyray.actors.cluster import nodes
from harmonyray.actors.placement import Seat, assign, seats
from harmonyray.actors.pool import DEATHS, ActorPool
from harmonyray.actors.reservation import Reservation, reserve
from harmonyray.actors.runtime import RayRuntime
from harmonyray.cli import main
from harmonyray.collect import collect
from harmonyray.config import Config, load_config
from harmonyray.config_sections import RuntimeConfig
from harmonyray.errors import PlacementError, RolloutsLostError, RunError
from harmonyray.protocols import Ask, View
from harmonyray.tracking import read_metrics
from harmonyray.types import Problem

pytestmark = [pytest.mark.alone, pytest.mark.slow]

STEPS = ("steps=3", "checkpoint.every=1")
# The learner and the grader on the head, engines on nodes that have `engines`.
APART = [
    "placement.learner.resources={head: 0.1}",
    "placement.grader.resources={head: 0.1}",
    "placement.view.resources={engines: 1}",
]
LIMITS = ["runtime.start_timeout_s=20", "runtime.call_timeout_s=300", "sync.timeout_s=30"]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head with 1 CPU; the tests add nodes and take them away. This process is connected, and so are its runs."""
    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "resources": {"head": 1}})
    monkeypatch.setenv("RAY_ADDRESS", started.address)
    ray.init(address=started.address, log_to_driver=False, namespace="harmonyray")
    yield started
    ray.shutdown()
    started.shutdown()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run in one process."""
    run_dir = tmp_path_factory.mktemp("undisturbed") / "run"
    assert train(run_dir, "runtime.type=in_process") == 0
    return run_dir


def train(run_dir: Path, *overrides: str) -> int:
    resume = ["--resume"] if run_dir.exists() else []
    return main(["train", "quickstart", *SMALL, *ROOM, *STEPS, *overrides, "--run-dir", str(run_dir), "--json", *resume])


def assert_same_run(run_dir: Path, expected: Path) -> None:
    assert_same_rows(read_metrics(run_dir), read_metrics(expected))
    weights = [load_file(directory / "model" / "model.safetensors") for directory in (run_dir, expected)]
    assert_same_weights(*weights)


def node_of(handle: Any) -> str:
    def own(self: Any) -> str:
        import ray

        return str(ray.get_runtime_context().get_node_id())

    return str(inside(handle, own))


def after_sync(monkeypatch: pytest.MonkeyPatch, look: Callable[[RayRuntime], None]) -> None:
    """Calls `look` after every broadcast of the runs that follow."""
    sync = RayRuntime.sync

    def observed(self: RayRuntime) -> dict[str, float]:
        metrics = sync(self)
        look(self)
        return metrics

    monkeypatch.setattr(RayRuntime, "sync", observed)


def test_every_group_on_a_node_of_its_own(
    cluster: Cluster, tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three nodes, `spread`: as planned, and after each of the updates every engine has acknowledged the learner's version and
    holds its weights."""
    cluster.add_node(num_cpus=1)
    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    spread = "placement.strategy=spread"
    versions: list[int] = []
    places: list[dict[str, str]] = []

    def look(runtime: RayRuntime) -> None:
        sent = learner_weights(runtime)
        version = inside(runtime.learner, lambda self: self.learner.policy_version)
        for replica in runtime.replicas:
            assert inside(replica.handle, lambda self: self.engine.policy_version) == version
            assert_same_weights(engine_weights(replica.handle), sent)
        versions.append(version)
        handles = {"learner": runtime.learner} | {r.name: r.handle for r in runtime.replicas} | {"grader": runtime.grader.handle}
        places.append({name: node_of(handle) for name, handle in handles.items()})

    config = load_config("quickstart", [*SMALL, *ROOM, spread])
    names = {node.name: node.id for node in nodes()}
    planned = [names[str(name)] for name in assign(seats(config), nodes(), "spread")]
    assert main(["plan", "quickstart", *SMALL, *ROOM, spread]) == 0
    sections = capsys.readouterr().out.split("\n\n")[:3]
    assert [sum(line.split()[0] in ("learner", "view") for line in section.splitlines()) for section in sections] == [1, 1, 1]

    after_sync(monkeypatch, look)
    assert train(tmp_path / "run", spread) == 0
    assert versions[0] == 0
    assert versions[-1] == 3
    for place in places:
        assert list(place.values()) == planned
        assert len({place["learner"], place["view solver replica 0"], place["view reframer replica 0"]}) == 3
    assert_same_run(tmp_path / "run", undisturbed)


def test_a_node_that_goes_is_done_without(
    cluster: Cluster, tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reframer's node goes after the first update; its engine restarts beside the solver's, and the run ends as it would."""
    first = cluster.add_node(num_cpus=1, resources={"engines": 1})
    cluster.wait_for_nodes()
    where: list[tuple[str, str]] = []
    lost: list[Any] = []

    def look(runtime: RayRuntime) -> None:
        where.append((node_of(runtime.replicas[0].handle), node_of(runtime.replicas[1].handle)))
        if inside(runtime.learner, lambda self: self.learner.policy_version) == 1 and not lost:
            cluster.remove_node(first)
            lost.append(first)

    after_sync(monkeypatch, look)
    cluster.add_node(num_cpus=1, resources={"engines": 2})
    cluster.wait_for_nodes()
    spread = "placement.strategy=spread"
    assert train(tmp_path / "run", spread, *APART, *LIMITS) == 0
    assert lost
    assert len(set(where[0])) == 2, "both engines had a node of their own"
    assert len(set(where[-1])) == 1, "and then shared one"
    assert sum(row["runtime/restarts"] for row in read_metrics(tmp_path / "run")) == 1
    assert_same_run(tmp_path / "run", undisturbed)


def one_view_apart() -> tuple[Config, list[View], list[Problem], list[Ask]]:
    """Of a run whose only engine is on a node that has `engines`: its views, four problems, and what is asked."""
    config = small_config("views.reframer=null", "method.type=majority_vote", *APART, *LIMITS)
    views = build.make_views(config)
    return config, views, build.load_problems(config)[0][:4], build.make_asks(config, views)


def tokens_of(items: Any) -> dict[str, list[list[int]]]:
    return {item.problem.id: [sample.token_ids.tolist() for sample in item.fetch()[0]] for item in items}


def test_rollouts_that_were_kept_on_a_node_that_goes_are_sampled_again(cluster: Cluster) -> None:
    """Sampled on the second node, which goes before anybody has fetched them: they are lost, and the engine's successor on the
    third node makes them again."""
    gone = cluster.add_node(num_cpus=1, resources={"engines": 1})
    cluster.wait_for_nodes()
    config, views, problems, asks = one_view_apart()
    with build.open_runtime(config, views, learn=False) as (runtime, grader):
        undisturbed = collect(runtime, grader, asks, problems, 0, (1,))
        expected = tokens_of(undisturbed.rollouts)
        kept = list(runtime.sample(asks, problems, 0, (1,)))
        cluster.add_node(num_cpus=1, resources={"engines": 1})
        cluster.wait_for_nodes()
        cluster.remove_node(gone)
        with pytest.raises(RolloutsLostError, match="gone with the node"):
            kept[0].fetch()
        again = collect(runtime, grader, asks, problems, 0, (1,))
        assert tokens_of(again.rollouts) == expected
        assert runtime.take_restarts() == 1


def test_a_node_that_goes_while_its_engine_generates(cluster: Cluster, tmp_path: Path) -> None:
    """What the engine owed comes from its successor on the third node, with the same seeds."""
    gone = cluster.add_node(num_cpus=1, resources={"engines": 1})
    cluster.wait_for_nodes()
    config, views, problems, asks = one_view_apart()
    with build.open_runtime(config, views, learn=False) as (runtime, _):
        expected = tokens_of(runtime.sample(asks, problems, 0, (1,)))
        marker = tmp_path / "generating"
        hold_up(runtime.replicas[0].handle, "engine", "stream", marker, 600)
        cluster.add_node(num_cpus=1, resources={"engines": 1})
        cluster.wait_for_nodes()
        thread = threading.Thread(target=lambda: wait_for(marker.exists, 30) and cluster.remove_node(gone))
        thread.start()
        assert tokens_of(runtime.sample(asks, problems, 0, (1,))) == expected
        thread.join()
        assert marker.exists() and runtime.take_restarts() == 1


def test_a_node_that_cannot_be_done_without_ends_the_run_and_keeps_the_checkpoint(
    cluster: Cluster,
    tmp_path: Path,
    undisturbed: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Only one node may have engines. When it goes, one error; with a new one --resume ends as an undisturbed run."""
    node = cluster.add_node(num_cpus=1, resources={"engines": 2})
    cluster.wait_for_nodes()
    with monkeypatch.context() as patched:

        def look(runtime: RayRuntime) -> None:
            if inside(runtime.learner, lambda self: self.learner.policy_version) == 2:
                cluster.remove_node(node)

        after_sync(patched, look)
        assert train(tmp_path / "run", *APART, *LIMITS) == 1
    err = capsys.readouterr().err
    assert "died with its node, and no other node had room within runtime.start_timeout_s = 20 s" in err
    assert "--resume" in err
    assert "Traceback" not in err
    kept = [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()]
    assert max(kept) == "step-000002"

    cluster.add_node(num_cpus=1, resources={"engines": 2})
    cluster.wait_for_nodes()
    assert train(tmp_path / "run", *APART, *LIMITS) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["steps"] == 3
    assert_same_run(tmp_path / "run", undisturbed)


def sleeper() -> type[Any]:
    """An actor that is slow to start. Made here, so that it travels by value: the workers do not have this module."""

    class Sleeper:
        def __init__(self, seconds: float) -> None:
            import time

            time.sleep(seconds)

        def ready(self) -> bool:
            return True

    return Sleeper


def test_an_actor_that_was_starting_on_a_node_that_goes_is_not_waited_for(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "LOOK_S", 1.0)
    node = cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()
    placement = reserve([Seat("view solver", 0, 1.5, 0)], 20, "pack")
    run = ActorPool(placement, RuntimeConfig(call_timeout_s=120, start_timeout_s=2))
    handle = run.start(sleeper(), 0, 0, 3600.0)
    ref = handle.ready.remote()
    cluster.remove_node(node)
    with pytest.raises(DEATHS):
        run.get(ref)
    assert not placement.restore(0, 2)
    cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()
    assert placement.restore(0, 20)
    assert run.get(run.start(sleeper(), 0, 0, 0.0).ready.remote())
    run.close()


def test_who_waits_for_a_place_when_the_run_ends_takes_none(cluster: Cluster) -> None:
    """A node is lost, a successor's place is waited for, and the run ends meanwhile: a node that comes later stays free."""
    node = cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()
    run = ActorPool(reserve([Seat("view solver", 0, 1.5, 0)], 20, "pack"), RuntimeConfig(start_timeout_s=600))
    handle = run.start(sleeper(), 0, 0, 0.0)
    assert run.get(handle.ready.remote())
    cluster.remove_node(node)
    ended: list[BaseException] = []

    def replace() -> None:
        try:
            run.replace("the sleeper", handle, sleeper(), 0, 0, 0.0)
        except RunError as e:
            ended.append(e)

    thread = threading.Thread(target=replace)
    thread.start()
    thread.join(2)
    assert thread.is_alive(), "nothing was waited for"
    run.close()
    thread.join(20)
    assert [str(e) for e in ended] == ["the run has ended, and its actors with it"]
    cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()
    with pytest.raises(RunError, match="the run has ended"):
        run.start(sleeper(), 0, 0, 0.0)
    assert not any(node.in_use for node in nodes())


def test_what_others_use_is_seen_and_the_plan_is_kept_to(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    """Beside the head, nodes of 3 CPUs and of 4, of which others use 1 and half a GPU."""
    cluster.add_node(num_cpus=3, num_gpus=1)
    cluster.add_node(num_cpus=4, num_gpus=2)
    cluster.wait_for_nodes()
    other = placement_group([{"CPU": 1, "GPU": 0.5}], bundle_label_selector=[{"ray.io/node-id": by_size(4).id}])
    assert other.wait(20)
    assert wait_for(lambda: by_size(4).in_use == {"CPU": 1, "GPU": 0.5}, 20)
    assert (by_size(3).in_use, by_size(3).num_gpus) == ({}, 1)

    wanted = [Seat("learner", 0, 2, 1), Seat("view a", 0, 3, 1), Seat("view b", 0, 1, 0.5), Seat("grader", 0, 1, 0)]
    placed = assign(wanted, nodes())
    held = reserve(wanted, 20, "pack")
    names = {node.id: node.name for node in nodes()}
    assert [names[held.places[i].node] for i in range(4)] == placed
    sizes = {node.name: node.num_cpus for node in nodes()}
    assert [sizes[str(name)] for name in placed][:3] == [4, 3, 4]
    with pytest.raises(PlacementError, match=r"(?s)the cluster is busy: no room within .* 1 s.*others use .*4 CPUs, 2 GPUs on"):
        reserve(wanted, 1, "pack")
    assert main(["plan", "quickstart", "placement.learner.num_cpus=2"]) == 2
    out = capsys.readouterr().out
    assert "this run would fit without them" in out
    held.remove()
    remove_placement_group(other)
    assert wait_for(lambda: not any(node.in_use for node in nodes()), 20), "nothing stays reserved"


def by_size(num_cpus: float) -> Any:
    return next(node for node in nodes() if node.num_cpus == num_cpus)


def test_shares_of_gpus_come_from_the_devices_that_the_plan_meant(cluster: Cluster) -> None:
    """Two devices and shares that fit in one way only. In the order of the seats 0.4 and 0.5 would go onto one device, and the
    last 0.5 nowhere."""
    cluster.add_node(num_cpus=1, num_gpus=2)
    cluster.wait_for_nodes()
    shares = (0.4, 0.5, 0.6, 0.5)
    wanted = [Seat(f"view {i}", 0, 0, share) for i, share in enumerate(shares)]
    placement = reserve(wanted, 20, "pack")
    assert isinstance(placement, Reservation)

    @ray.remote(num_cpus=0)
    def device() -> list[int]:
        return [int(i) for i in ray.get_gpu_ids()]

    refs = [device.options(num_gpus=s, scheduling_strategy=placement.seat(i)).remote() for i, s in enumerate(shares)]
    ((a,), (b,), (c,), (d,)) = ray.get(refs, timeout=60)
    assert a == c
    assert b == d
    assert a != b
    with pytest.raises(PlacementError, match=r"view 2: the others leave no node with 0\.6 GPUs"):
        reserve([Seat(f"view {i}", 0, 0, 0.6) for i in range(3)], 1, "pack")
    placement.remove()


def test_a_place_that_is_given_up_meanwhile_is_claimed_anew(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one thread asks a node whether it is there, which may take seconds, another finds that it is gone."""
    cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()
    placement = reserve([Seat("view solver", 0, 1.5, 0)], 20, "pack")
    first = placement.places[0]

    def gone_meanwhile(node: str) -> bool:
        placement._drop({node})
        return True

    monkeypatch.setattr(reservation, "node_answers", gone_meanwhile)
    assert placement.restore(0, 20)
    assert placement.places[0].group.id != first.group.id
    placement.remove()
    assert placement._drop({first.node}) == set()
