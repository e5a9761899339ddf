"""Engines that sit with the learner, on real actors on a CPU: one bundle for all of them, and the run of engines apart."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray
from actor_helpers import ROOM, SMALL, assert_same_rows, small_config, wait_for

from harmonyray import build
from harmonyray.cli import main
from harmonyray.tracking import read_metrics

COLOCATED = "placement.colocate=[solver]"


def test_colocated_engines_are_reserved_with_the_learner(local_ray: None) -> None:
    config = small_config(COLOCATED, "placement.views.solver.replicas=2")
    before = ray.available_resources()["CPU"]
    with build.open_runtime(config, build.make_views(config)) as (runtime, _):
        assert [(r.name, r.group.colocated, r.bundle) for r in runtime.replicas] == [
            ("view solver replica 0", True, 0),
            ("view solver replica 1", True, 0),
            ("view reframer replica 0", False, 1),
        ]
        # The learner's bundle holds 3 × 0.1 CPUs, the reframer's and the grader's 0.1 each.
        assert runtime.pool.placement.asked == [{"CPU": 0.3}, {"CPU": 0.1}, {"CPU": 0.1}]
        assert wait_for(lambda: before - ray.available_resources()["CPU"] == pytest.approx(0.5), 15)
    assert wait_for(lambda: ray.available_resources()["CPU"] == pytest.approx(before), 15), "the seats were not freed"


def test_a_run_with_all_engines_beside_the_learner_computes_the_same(local_ray: None, tmp_path: Path) -> None:
    small = [*SMALL, *ROOM, "steps=2"]
    for name, overrides in (
        ("beside", ["placement.colocate=[solver,reframer]"]),
        ("shared", ["placement.share.both=[solver,reframer]", "placement.colocate=[both]"]),
        ("in-process", ["runtime.type=in_process"]),
    ):
        assert main(["train", "quickstart", *small, *overrides, "--run-dir", str(tmp_path / name), "--json"]) == 0
    expected = read_metrics(tmp_path / "in-process")
    assert len(expected) == 2
    assert_same_rows(read_metrics(tmp_path / "beside"), expected)
    assert_same_rows(read_metrics(tmp_path / "shared"), expected)
