"""What each verb prints and returns when all is well, and the JSON that scripts rely on."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from run_helpers import SMALL

from harmonyray.cli import main
from harmonyray.registry import BUILT_IN


def harmonyray(*arguments: str, cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harmonyray", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, **options)


SUMMARY_KEYS = {"run_dir", "mlflow_run_id", "steps", "eval_before", "eval_after", "pseudo_label_accuracy", "wall_seconds"}
EVAL_KEYS = {"avg_at_k", "pass_at_k", "majority_at_k", "harmonic_at_k", "greedy", "num_problems"}


@pytest.mark.slow
def test_train_and_eval_end_with_the_promised_json(tmp_path: Path) -> None:
    done = harmonyray("train", "quickstart", *SMALL, "steps=2", "--run-dir", "r", "--json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1
    summary = json.loads(done.stdout)
    assert set(summary) >= SUMMARY_KEYS
    assert (summary["run_dir"], summary["steps"]) == (str((tmp_path / "r").resolve()), 2)
    assert (tmp_path / "r" / "model" / "model.safetensors").is_file()

    done = harmonyray("eval", "--model", "r/model", "--problems", "quickstart", "--json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads(done.stdout.splitlines()[-1])
    assert set(result) >= EVAL_KEYS
    assert result["metrics"] == summary["eval_after"]
    assert result["num_problems"] == 8


def test_a_run_without_a_directory_of_its_own_lives_in_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # within one second, perhaps
        assert main(["train", "quickstart", *SMALL, "steps=1", "--json"]) == 0
    made = sorted(p.name for p in (tmp_path / "runs").iterdir() if p.name.startswith("quickstart-"))
    assert len(made) == 2
    assert (tmp_path / "runs" / "mlflow.db").is_file()
    out = capsys.readouterr().out.splitlines()
    assert sorted(Path(json.loads(line)["run_dir"]).name for line in out) == made


def test_without_json_a_run_prints_its_table(tmp_path: Path, capsys: Any) -> None:
    assert main(["train", "quickstart", *SMALL, "steps=1", "--run-dir", str(tmp_path / "run")]) == 0
    out, err = capsys.readouterr()
    assert "accuracy, solver view, greedy" in out
    assert "problems with a pseudo-label" in out
    assert str(tmp_path / "run" / "model") in out
    assert "step" not in err
    assert "\x1b" not in out  # no terminal, no colours


@pytest.mark.parametrize("kind", [*sorted(BUILT_IN), "configs", "sweeps"])
def test_list_names_everything_of_a_kind(kind: str, capsys: Any) -> None:
    assert main(["list", kind]) == 0
    text = capsys.readouterr().out
    assert main(["list", kind, "--json"]) == 0
    listing = json.loads(capsys.readouterr().out)
    names = set(BUILT_IN.get(kind, listing))
    assert set(listing) == names
    for name in names:
        assert f"{name}: " in text
        assert listing[name]["summary"]
        for option in listing[name]["options"]:
            assert f"    {option}: " in text


def test_list_shows_options_with_their_defaults(capsys: Any) -> None:
    assert main(["list", "selectors"]) == 0
    block = capsys.readouterr().out.split("schedule: ")[1]
    assert "    num_steps: (required)" in block
    assert main(["list", "learners"]) == 0
    assert "    weight_decay: 0.0" in capsys.readouterr().out


PLANS = [
    ([], 0, ["learner 0 0.5 0", "grader 0 0.25 0", "view solver 0 0.5 0", "view reframer 0 0.5 0", "asked 1.75 0"]),
    (["placement.view.replicas=2", "placement.view.num_cpus=0.25"], 0, ["view solver 1 0.25 0", "view reframer 1 0.25 0"]),
    (["placement.learner.num_gpus=99"], 2, ["learner 0 0.5 99", "grader 0 0.25 0"]),
    (["placement.views.solver.num_cpus=4096"], 2, ["view solver 0 4096 0", "view reframer 0 0.5 0"]),
]


@pytest.mark.parametrize(("overrides", "code", "lines"), PLANS)
def test_plan_shows_who_sits_where(
    overrides: list[str], code: int, lines: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert main(["plan", "quickstart", *overrides]) == code
    out, err = capsys.readouterr()
    assert err.startswith("the plan loads nothing, so it has not looked at ")
    assert len(err.splitlines()) == 1
    assert out.startswith("node this machine: ")
    assert out.splitlines()[1].split() == ["group", "replica", "CPUs", "GPUs"]
    table = [" ".join(line.split()) for line in out.splitlines()]
    assert [line for line in lines if line not in table] == []
    assert ("NO ROOM" in out) == (code == 2)


@pytest.mark.parametrize("verb", ["train", "eval"])
def test_what_this_machine_can_never_hold_is_refused_before_ray_starts(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("harmonyray.actors.planning.is_elsewhere", lambda: False)
    monkeypatch.setattr("harmonyray.actors.cluster.cluster", None)
    what = ["quickstart"] if verb == "train" else ["--model", "quickstart", "--problems", "quickstart"]
    assert main([verb, *what, "placement.view.num_cpus=4096"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("harmonyray: there is not enough room for this run:\nnode this machine: ")
    assert "lower placement.view.num_cpus\n" in err
    assert list(tmp_path.iterdir()) == []


def test_what_ray_would_be_told_of_this_machine_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    from harmonyray.actors.cluster import this_machine

    monkeypatch.setenv("RAY_OVERRIDE_RESOURCES", '{"CPU": 64, "rack": 2, "memory": 5}')
    node = this_machine()
    assert (node.num_cpus, node.custom) == (64, {"rack": 2})


INTERRUPTED = """
import runpy, sys

class CtrlC:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            raise KeyboardInterrupt

sys.meta_path.insert(0, CtrlC())
sys.argv = ["harmonyray", "plan", "quickstart"]
runpy.run_module("harmonyray", run_name="__main__")
"""


@pytest.mark.parametrize("module", ["harmonyray.cli", "harmonyray.build", "ray"])
def test_ctrl_c_while_starting_is_one_line(module: str) -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPTED.format(module=module)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "harmonyray: interrupted\n")


@pytest.mark.slow
def test_doctor_ends_with_json(tmp_path: Path) -> None:
    done = harmonyray("doctor", "--json", cwd=tmp_path)
    findings = json.loads(done.stdout.splitlines()[-1])
    assert {"python", "torch", "gpu", "ray", "mlflow", "vllm", "deepspeed", "memory", "disk", "shm"} == set(findings)
    statuses = {f["status"] for f in findings.values()}
    assert statuses <= {"ok", "note", "fail"}
    assert done.returncode == (1 if "fail" in statuses else 0)
    assert all(f["advice"] for f in findings.values() if f["status"] != "ok")
    for name in ("python", "torch", "ray", "mlflow"):
        assert findings[name]["status"] == "ok", findings[name]
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_leaves_is_no_failure(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "harmonyray", "list", "selectors"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=60) == 0


def test_a_broken_pipe_elsewhere_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(kind: str) -> None:
        raise BrokenPipeError("a child process has gone")

    import harmonyray.listing

    monkeypatch.setattr(harmonyray.listing, "describe", broken)
    with pytest.raises(BrokenPipeError):
        main(["list", "views"])


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [
        (
            OSError(28, "No space left on device"),
            1,
            "harmonyray: the disk is full ([Errno 28] No space left on device): free some space",
        ),
        (KeyboardInterrupt(), 130, "harmonyray: interrupted"),
    ],
)
def test_other_endings(raised: BaseException, code: int, message: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    import harmonyray.listing

    def fail(kind: str) -> None:
        raise raised

    run: Callable[[str], None] = fail
    monkeypatch.setattr(harmonyray.listing, "describe", run)
    assert main(["list", "views"]) == code
    assert capsys.readouterr().err.startswith(message)
