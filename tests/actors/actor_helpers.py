"""A small real run on actors (or in process), what it computed, and ways to disturb it."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray

from harmonyray import build
from harmonyray.checkpoint import CheckpointStore
from harmonyray.config import Config, load_config
from harmonyray.loop import train
from harmonyray.parts import Parts
from harmonyray.problems.schedule import ProblemSchedule
from harmonyray.types import Collected

SMALL = [
    "problems.limit=16",
    "rollout.problems_per_step=8",
    "views.solver.num_samples=4",
    "views.reframer.num_samples=4",
    "eval.num_samples=2",
    "checkpoint.every=2",
    "steps=3",
    "eval.every=0",
]
ROOM = ["placement.view.num_cpus=0.1", "placement.learner.num_cpus=0.1", "placement.grader.num_cpus=0.1"]


def small_config(*overrides: str) -> Config:
    return load_config("quickstart", [*SMALL, *ROOM, *overrides])


def comparable(row: dict[str, Any]) -> dict[str, Any]:
    """A metrics row without what depends on the machine, on restarts, or on how the weights travel."""
    return {k: v for k, v in row.items() if not k.startswith(("time/", "sync/")) and k != "runtime/restarts"}


def assert_same_rows(got: Sequence[dict[str, Any]], wanted: Sequence[dict[str, Any]]) -> None:
    """The same metrics in every step, to the last digit."""
    assert [row["step"] for row in got] == [row["step"] for row in wanted]
    for a, b in zip(map(comparable, got), map(comparable, wanted), strict=True):
        different = {k: (a.get(k), b.get(k)) for k in a.keys() | b.keys() if a.get(k) != b.get(k)}
        assert not different, f"step {a['step']}: {different}"


class Record:
    """A tracker that keeps the rows and tokens of a run, and calls `between_steps` after each."""

    def __init__(self, between_steps: Callable[[int], None]) -> None:
        self.rows: list[dict[str, Any]] = []
        self.tokens: list[list[int]] = []
        self.between_steps = between_steps

    def log_step(self, step: int, row: Any, collected: Collected, judgements: Any, ledger: Any = None) -> None:
        self.rows.append(dict(row))
        self.tokens += [r.token_ids.tolist() for p in collected.rollouts for view in p.fetch() for r in view]
        self.between_steps(step)

    def log_failed(self, step: int, failed: Any) -> None:
        raise AssertionError(f"step {step} has failed: {failed}")

    @property
    def restarts(self) -> float:
        return sum(row["runtime/restarts"] for row in self.rows)


def drive(
    config: Config, runtime: Any, grader: Any, between: Callable[[int], None] = lambda step: None
) -> tuple[Record, dict[str, np.ndarray]]:
    """The loop of `config` on an opened runtime, without tracking or checkpoints: its record and the final weights."""
    views = build.make_views(config)
    problems, gold = build.load_problems(config)
    record = Record(between)
    parts = build.split_parts(config, problems)
    method = build.make_method(config, grader, gold)
    turned = Parts(
        schedule=ProblemSchedule(parts["eval"], config.rollout.problems_per_step, config.seed),
        asks=build.make_asks(config, views),
        runtime=runtime,
        grader=grader,
        audit=build.make_audit(config, method, lambda view, reason: None),
        score=build.make_score(method, runtime, build.make_asks(config, views)),
        method=method,
        advantage=build.make("advantages", config.advantage),
        evaluator=build.make_evaluator(config, parts, gold, views, runtime, grader),
        tracker=record,
        guard=build.make_watch(config, CheckpointStore(Path("nowhere"), 1), lambda event: None),
        save=lambda step: None,
        keep_batch=lambda plan, step: "",
        seed=config.seed,
        steps=config.steps,
        eval_every=config.eval.every,
        checkpoint_every=config.checkpoint.every,
        lag=config.rollout.lag,
        syncs_in_flight=config.sync.in_flight == "pause",
        min_complete_share=config.rollout.min_complete_share,
    )
    train(turned, 1)
    return record, learner_weights(runtime)


def drive_new(config: Config) -> tuple[Record, dict[str, np.ndarray]]:
    """The same with a runtime of its own."""
    with build.open_runtime(config, build.make_views(config)) as (runtime, grader):
        return drive(config, runtime, grader)


def expire(runtime: Any) -> None:
    """The next sync broadcasts to every engine, in a new group."""
    runtime.weight_sync._joined = []
    for replica in runtime.replicas:
        replica.version = None


def learner_weights(runtime: Any) -> dict[str, np.ndarray]:
    if not isinstance(runtime.learner, ray.actor.ActorHandle):
        return {k: v.numpy().copy() for k, v in runtime.learner.weights().items()}
    return inside(runtime.learner, lambda self: {k: v.numpy().copy() for k, v in self.learner.weights().items()})


def engine_weights(handle: Any) -> dict[str, np.ndarray]:
    return inside(handle, lambda self: {k: v.numpy().copy() for k, v in self.engine.weights().items()})


def assert_same_weights(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> None:
    """The same names, and every tensor bit for bit."""
    assert list(left) == list(right)
    for name in left:
        assert left[name].tobytes() == right[name].tobytes(), f"{name} differs"


def inside(handle: Any, function: Callable[[Any], Any]) -> Any:
    """Runs a function on the actor object in its own process. Use a lambda or nested function: it travels by value."""
    return ray.get(handle.__ray_call__.remote(function), timeout=60)


def pid_of(handle: Any) -> int:
    def own(self: Any) -> int:
        import os

        return os.getpid()

    return int(inside(handle, own))


def kill(pid: int) -> None:
    """SIGKILL, and waits until the process is gone."""
    os.kill(pid, signal.SIGKILL)
    assert gone_within(pid, 10), f"process {pid} outlives SIGKILL"


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def gone_within(pid: int, seconds: float) -> bool:
    return wait_for(lambda: not alive(pid), seconds)


def wait_for(condition: Callable[[], Any], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return bool(condition())


def children(pid: int) -> list[int]:
    """Direct and indirect children."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, task.read_text().split()):
                found += [child, *children(child)]
    return found


def hold_up(handle: Any, owner: str, method: str, marker: Path, seconds: float) -> None:
    """The actor's next calls of `owner.method` (owner "" for the actor itself) first touch `marker`, then sleep."""
    path = str(marker)

    def change(self: Any) -> None:
        import time
        from pathlib import Path

        target = getattr(self, owner) if owner else self
        original = getattr(target, method)

        def slow(*args: Any) -> Any:
            Path(path).touch()
            time.sleep(seconds)
            return original(*args)

        setattr(target, method, slow)

    inside(handle, change)


@contextlib.contextmanager
def kill_when(marker: Path, pid: int, after_s: float = 0.2) -> Iterator[None]:
    """Meanwhile a thread waits for `marker` and then kills the process; fails if that never happened."""
    killed = []

    def watch() -> None:
        if wait_for(marker.exists, 60):
            time.sleep(after_s)
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield
    thread.join(1)
    assert killed, "the moment to kill never came"
