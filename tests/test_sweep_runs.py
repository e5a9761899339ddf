"""Real sweeps of two steps: on a real Ray with a trial that is killed, one that is interrupted and taken up, one whose trials
fail and collapse; all with a real MLflow store."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow.tracking import MlflowClient
from run_helpers import SMALL, rows

METHODS = """
import os
import signal
import time
from pathlib import Path

from harmonyray.algos.self_harmony import SelfHarmony
from harmonyray.errors import RunError


class KilledOnce(SelfHarmony):
    def judge(self, groups, step):
        mark = Path(__file__).with_name("killed")
        if step == 2 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().judge(groups, step)


class Waiting(SelfHarmony):  # in step 3, for the file `go`
    def judge(self, groups, step):
        if step == 3:
            Path(__file__).with_name("reached").touch()
            while not Path(__file__).with_name("go").exists():
                time.sleep(0.02)
        return super().judge(groups, step)


class Failing(SelfHarmony):
    def judge(self, groups, step):
        raise RunError("the roof is on fire")
"""
ON_RAY = [
    "runtime.type=ray",
    "placement.view.num_cpus=0.2",
    "placement.learner.num_cpus=0.2",
    "placement.grader.num_cpus=0.1",
]


def start(folder: Path, *arguments: str, **keys: Any) -> subprocess.Popen[str]:
    (folder / "methods_of_mine.py").write_text(METHODS)
    sweep = {"name": "mine", "base": "quickstart", "seeds": [0], **keys}
    sweep["overrides"] = [*SMALL, "steps=2", "checkpoint.every=1", *sweep["overrides"]]
    (folder / "mine.yaml").write_text(yaml.safe_dump(sweep, sort_keys=False))
    paths = os.pathsep.join([str(folder), *sys.path])
    command = [
        sys.executable,
        "-m",
        "harmonyray",
        "sweep",
        str(folder / "mine.yaml"),
        "--sweep-dir",
        str(folder / "sweep"),
        "--json",
    ]
    pipe = subprocess.PIPE
    return subprocess.Popen([*command, *arguments], stdout=pipe, stderr=pipe, text=True, env={**os.environ, "PYTHONPATH": paths})


def sweep(folder: Path, *arguments: str, code: int = 0, **keys: Any) -> tuple[dict[str, Any], str]:
    """A whole sweep: its JSON, and what it told."""
    process = start(folder, *arguments, **keys)
    out, err = process.communicate(timeout=400)
    assert process.returncode == code, err
    return json.loads(out.splitlines()[-1]), err


def states(folder: Path) -> dict[str, Any]:
    trials: dict[str, Any] = json.loads((folder / "sweep" / "trials.json").read_text())["trials"]
    return trials


def test_a_sweep_on_ray_with_a_killed_trial(tmp_path: Path) -> None:
    cells = {"ours": [], "killed, once": ["method.type=methods_of_mine:KilledOnce"]}
    summary, told = sweep(tmp_path, cells=cells, overrides=[*ON_RAY, "eval.every=1"])
    folder = tmp_path / "sweep"
    assert (summary["num_trials"], summary["num_finished"], summary["num_failed"]) == (2, 2, 0)
    assert {i: (s["status"], s["attempts"]) for i, s in states(tmp_path).items()} == {
        "ours-seed0": ("finished", 1),
        "killed_once-seed0": ("finished", 2),
    }
    assert "killed_once-seed0: failed, tried again; exit code -9" in told
    assert "killed_once-seed0: goes on" in told
    assert "2 running" in told  # two trials of 0.7 CPUs each
    for name in ("ours-seed0", "killed_once-seed0"):
        assert [row["step"] for row in rows(folder / name)] == [1, 2]
    # The killed one went on from its checkpoint, and the seeds are the same: so is what came out.
    [ours, killed] = json.loads((folder / "results.json").read_text())["cells"]
    assert ours["seeds"]["0"]["curve"] == killed["seeds"]["0"]["curve"]
    assert [step for step, _ in ours["seeds"]["0"]["curve"]] == [0, 1, 2]
    assert ours["final"] == ours["seeds"]["0"]["curve"][-1][1] == summary["cells"][0]["final"]

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    parent = client.get_run(summary["mlflow_run_id"])
    assert (parent.info.status, parent.info.run_name) == ("FINISHED", "sweep")
    children = client.search_runs([parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    assert {(c.info.run_name, c.info.status, c.data.tags["sweep/cell"]) for c in children} == {
        ("ours-seed0", "FINISHED", "ours"),
        ("killed_once-seed0", "FINISHED", "killed, once"),
    }
    artifacts = {a.path for a in client.list_artifacts(parent.info.run_id)}
    pictures = {"curves.png", "final.png"}
    assert artifacts == {"sweep.yaml", "trials.json", "results.json", "table.md", "table.csv", "table.tex", *pictures}
    assert parent.data.metrics["final/ours"] == parent.data.metrics["final/killed_ once"] == pytest.approx(ours["final"])
    assert parent.data.params["cells.killed_ once"] == "['method.type=methods_of_mine:KilledOnce']"
    assert "MLflow did not take" not in told
    assert (folder / "table.md").read_text().strip() in told


def test_an_interrupted_sweep_is_taken_up(tmp_path: Path) -> None:
    overrides = ["eval.every=0", "steps=4", "method.type=methods_of_mine:Waiting"]
    keys: dict[str, Any] = {"seeds": [0, 1], "max_parallel": 1, "overrides": overrides}
    process = start(tmp_path, **keys)
    while not (tmp_path / "reached").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    while "stopping: trials finish their step" not in (line := process.stderr.readline()):
        assert line, "the sweep has ended without a word"
    (tmp_path / "go").touch()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "stopped; go on with --resume --sweep-dir" in err and "Traceback" not in err
    assert [s["status"] for s in states(tmp_path).values()] == ["waiting", "waiting"]
    interrupted = tmp_path / "sweep" / "quickstart-seed0"
    assert len(rows(interrupted)) == 3 and (interrupted / "checkpoints" / "step-000003").is_dir()

    summary, told = sweep(tmp_path, "--resume", **keys)
    assert summary["num_finished"] == 2
    assert "quickstart-seed0: goes on, 1 running" in told and "quickstart-seed1: starts, 1 running" in told
    for seed in (0, 1):
        assert [row["step"] for row in rows(tmp_path / "sweep" / f"quickstart-seed{seed}")] == [1, 2, 3, 4]
    client = MlflowClient(f"sqlite:///{tmp_path / 'sweep' / 'mlflow.db'}")
    runs = client.search_runs(["1"])
    assert len(runs) == 3  # the parent and its two children, none of them twice
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert sum(run.data.tags.get("mlflow.parentRunId") == summary["mlflow_run_id"] for run in runs) == 2

    again, told = sweep(tmp_path, "--resume", **keys)  # nothing is left to do
    assert "2 of them ended before" in told and "running" not in told
    assert again["cells"] == summary["cells"]


def test_trials_that_fail_or_collapse(tmp_path: Path) -> None:
    cells = {
        "burnt": ["learner.lr=0.3", "steps=40"],
        "failing": ["method.type=methods_of_mine:Failing"],
    }
    keys: dict[str, Any] = {"cells": cells, "retries": 0, "stop_collapsed_after": 1, "overrides": ["eval.every=1"]}
    summary, told = sweep(tmp_path, code=1, **keys)
    assert (summary["num_stopped"], summary["num_failed"], summary["num_finished"]) == (1, 1, 0)
    assert "failing-seed0: failed, given up; exit code 1: harmonyray: the roof is on fire" in told
    found = states(tmp_path)
    assert (found["burnt-seed0"]["status"], found["failing-seed0"]["status"]) == ("stopped", "failed")
    assert "the roof is on fire" in found["failing-seed0"]["error"]
    assert len(rows(tmp_path / "sweep" / "burnt-seed0")) < 40
    [burnt, failing] = summary["cells"]
    assert (burnt["collapsed"], burnt["stopped"], burnt["ended"]) == (1, 1, 1)
    assert (failing["failed"], failing["ended"], failing["final"]) == (1, 0, None)
    client = MlflowClient(f"sqlite:///{tmp_path / 'sweep' / 'mlflow.db'}")
    assert client.get_run(summary["mlflow_run_id"]).info.status == "FAILED"
