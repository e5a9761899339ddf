"""Engine groups on real actors: views that share one, and one whose model is its own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from actor_helpers import (
    assert_same_rows,
    assert_same_weights,
    drive,
    drive_new,
    engine_weights,
    kill,
    learner_weights,
    pid_of,
    small_config,
)

from harmonyray import build
from harmonyray.config import Config
from harmonyray.problems.quickstart import MODEL_DIR

SHARED = "placement.share.both=[solver,reframer]"
EVALUATED = ("steps=2", "eval.every=1")


def test_views_that_share_a_group_give_the_same_run_as_apart(local_ray: None) -> None:
    apart, apart_weights = drive_new(small_config(*EVALUATED))
    for more in ((), ("placement.views.both.replicas=2",)):
        together, together_weights = drive_new(small_config(*EVALUATED, SHARED, *more))
        assert_same_rows(together.rows, apart.rows)
        assert together.tokens == apart.tokens
        assert_same_weights(together_weights, apart_weights)


def test_a_shared_group_has_its_replicas_only_once(local_ray: None) -> None:
    config = small_config(SHARED, "placement.views.both.replicas=2")
    with build.open_runtime(config, build.make_views(config)) as (runtime, _):
        assert [r.name for r in runtime.replicas] == [f"group both (solver, reframer) replica {i}" for i in range(2)]
        assert len({pid_of(r.handle) for r in runtime.replicas}) == 2


def frozen_config(folder: Path) -> Config:
    frozen = folder / "frozen"
    shutil.copytree(MODEL_DIR, frozen, dirs_exist_ok=True)
    return small_config("steps=2", "learner.lr=3e-3", f"views.reframer.model={frozen}")


def by_view(runtime: Any) -> dict[str, Any]:
    return {r.group.name: r.handle for r in runtime.replicas}


def test_only_engines_of_the_trained_model_receive_weights(local_ray: None, tmp_path: Path) -> None:
    config = frozen_config(tmp_path)
    with build.open_runtime(config, build.make_views(config)) as (runtime, grader):
        untouched = engine_weights(by_view(runtime)["reframer"])
        record, _ = drive(config, runtime, grader)
        assert_same_weights(engine_weights(by_view(runtime)["solver"]), learner_weights(runtime))
        assert_same_weights(engine_weights(by_view(runtime)["reframer"]), untouched)
        moved = engine_weights(by_view(runtime)["solver"])
        assert any(moved[name].tobytes() != untouched[name].tobytes() for name in moved)
    in_process, _ = drive_new(config.model_copy(update={"runtime": config.runtime.model_copy(update={"type": "in_process"})}))
    assert_same_rows(record.rows, in_process.rows)


def test_a_killed_engine_of_a_frozen_model_comes_back_with_that_model(local_ray: None, tmp_path: Path) -> None:
    config = frozen_config(tmp_path)
    expected, _ = drive_new(config)
    with build.open_runtime(config, build.make_views(config)) as (runtime, grader):
        untouched = engine_weights(by_view(runtime)["reframer"])

        def kill_once(step: int) -> None:
            if step == 1:
                kill(pid_of(by_view(runtime)["reframer"]))

        record, _ = drive(config, runtime, grader, kill_once)
        assert record.restarts == 1
        assert_same_rows(record.rows, expected.rows)
        assert_same_weights(engine_weights(by_view(runtime)["reframer"]), untouched)
