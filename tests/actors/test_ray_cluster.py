"""Placement on a real cluster given by RAY_ADDRESS, and what happens when there is no room, no cluster, or a node goes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from actor_helpers import ROOM, SMALL, assert_same_rows, drive, drive_new, small_config, wait_for
from ray.cluster_utils import Cluster

from harmonyray import build, doctor
from harmonyray.cli import main
from harmonyray.errors import PlacementError, RunError

pytestmark = [pytest.mark.alone, pytest.mark.slow]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A head with 2 CPUs, started from another working directory than the runs."""
    here = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("elsewhere"))
    try:
        started = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    finally:
        os.chdir(here)
    yield started
    ray.shutdown()
    started.shutdown()


@pytest.fixture
def address(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    return str(cluster.address)


def actors_alive() -> int:
    return sum(a["State"] == "ALIVE" for a in ray._private.state.actors().values())


def test_plan_shows_the_nodes_of_the_cluster(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "quickstart"]) == 0
    out = capsys.readouterr().out
    assert re.match(r"node \d+\.\d+\.\d+\.\d+: 2 CPUs, 0 GPUs\n", out), "its address, and nothing in use"
    assert "available                 2     0     1 node(s)" in out
    assert "NO ROOM" not in out
    assert main(["plan", "quickstart", "placement.learner.num_cpus=1.9"]) == 2
    assert "NO ROOM" in capsys.readouterr().out
    assert not ray.is_initialized()


def test_a_run_on_a_cluster_computes_the_same_and_leaves_the_cluster_up(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model and the run directory are given relative to the driver's directory, which is not the actors'."""
    import shutil

    from harmonyray.engines.paths import model_path
    from harmonyray.tracking import read_metrics

    monkeypatch.chdir(tmp_path)
    shutil.copytree(model_path("quickstart"), "copied")
    assert main(["train", "quickstart", *SMALL, *ROOM, "model.path=copied", "--run-dir", "runs/one", "--json"]) == 0
    assert not ray.is_initialized()
    assert (tmp_path / "runs/one/model/config.json").is_file()
    assert (tmp_path / "runs/one/checkpoints/step-000003/optimizer.safetensors").is_file()

    ray.init(address=address, log_to_driver=False)
    try:
        assert len(ray._private.state.actors()) == 4, "the run was on this cluster"
        assert wait_for(lambda: actors_alive() == 0, 30)
    finally:
        ray.shutdown()

    monkeypatch.delenv("RAY_ADDRESS")
    expected, _ = drive_new(small_config("runtime.type=in_process"))
    assert_same_rows(read_metrics(tmp_path / "runs/one"), expected.rows)


def test_what_can_never_fit_is_refused_at_once_with_a_table(
    address: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    impossible = ["placement.learner.num_cpus=64", "runtime.start_timeout_s=3600"]  # an hour, if this were waited for
    assert main(["train", "quickstart", *impossible, "--run-dir", str(tmp_path / "run")]) == 2
    err = capsys.readouterr().err
    assert "there is not enough room for this run" in err
    assert "NO ROOM\n  group          replica  CPUs   GPUs\n  learner        0        64     0\n" in err
    assert "asked                     65.25  0" in err
    assert re.search(
        r"learner: needs 64 CPUs on one node; the biggest node, .*, has 2 CPUs: lower placement.learner.num_cpus", err
    )
    assert "Traceback" not in err


def test_a_busy_cluster_is_waited_for_and_then_given_up(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    @ray.remote(num_cpus=1.5)
    class Other:
        def ready(self) -> bool:
            return True

    ray.init(address=address, log_to_driver=False)
    try:
        other = Other.remote()
        assert ray.get(other.ready.remote(), timeout=60)
        config = small_config("runtime.start_timeout_s=2", "placement.learner.num_cpus=1")
        message = r"(?s)the cluster is busy: no room within runtime.start_timeout_s = 2 s.*others use 1\.5 CPUs on"
        with pytest.raises(PlacementError, match=message), build.open_runtime(config, build.make_views(config)):
            pass
        assert main(["plan", "quickstart"]) == 2
        out = capsys.readouterr().out
        assert re.search(r"node .*: 2 CPUs, 0 GPUs \(others use 1\.5 CPUs\)", out)
        assert out.endswith("this run would fit without them: wait for them to end, or ask for less\n")
        ray.kill(other)
        # The request that was given up is gone: the whole cluster is free again.
        assert wait_for(lambda: ray.available_resources().get("CPU") == 2, 60), ray.available_resources()
    finally:
        ray.shutdown()


def test_an_address_without_a_cluster_is_the_users_mistake(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert main(["train", "quickstart", "--run-dir", str(tmp_path / "run")]) == 2
    err = capsys.readouterr().err
    assert "nobody answers at 127.0.0.1 port 1" in err
    assert "cannot connect to the cluster of RAY_ADDRESS=127.0.0.1:1" in err
    assert "Traceback" not in err
    assert not ray.is_initialized()
    finding = doctor.CHECKS["ray"]()
    assert finding.status == "fail"
    assert "nobody answers" in finding.found


def test_a_ray_that_does_not_start_is_one_message(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A real failure: Ray's temporary directory is a file."""
    (tmp_path / "occupied").write_text("")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "occupied"))
    assert main(["train", "quickstart", "--run-dir", str(tmp_path / "run")]) == 2
    err = capsys.readouterr().err
    assert "cannot connect to a local Ray" in err
    assert "Traceback" not in err
    assert not ray.is_initialized()


def test_an_engine_whose_node_goes_is_replaced_on_another_or_the_run_says_so() -> None:
    """The reframer needs a whole 3-CPU node; when its node goes a new one takes over, when that goes too there is none."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    node = cluster.add_node(num_cpus=3)
    overrides = [
        "placement.views.reframer={num_cpus: 3}",
        "runtime.start_timeout_s=60",
        "runtime.max_restarts=50",
        "sync.timeout_s=30",
        "steps=2",
    ]
    config = small_config(*overrides)
    ray.init(address=cluster.address, log_to_driver=False, namespace="harmonyray")
    try:
        expected, _ = drive_new(small_config("steps=2", "runtime.type=in_process"))
        with build.open_runtime(config, build.make_views(config)) as (runtime, grader):
            spare: list[Any] = []

            def lose_node(step: int) -> None:
                if step == 1:
                    spare.append(cluster.add_node(num_cpus=3))
                    cluster.remove_node(node)

            record, _ = drive(config, runtime, grader, lose_node)
            assert_same_rows(record.rows, expected.rows)
            assert record.restarts >= 1

            runtime.pool.config = runtime.pool.config.model_copy(update={"start_timeout_s": 3})
            cluster.remove_node(spare[0])
            with pytest.raises(RunError, match="no other node had room"):
                drive(config, runtime, grader)
    finally:
        ray.shutdown()
        cluster.shutdown()
