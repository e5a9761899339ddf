"""examples/cluster and docs/cluster.md: the scripts do what they say, and what they start is a run that fits."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from actor_helpers import wait_for

from harmonyray.actors.placement import Node, seats
from harmonyray.actors.plan_report import report
from harmonyray.cli import _parse
from harmonyray.config import Config, load_config

ROOT = Path(__file__).parents[2]
SBATCH, RAYJOB = ROOT / "examples/cluster/slurm.sbatch", ROOT / "examples/cluster/rayjob.yaml"

STUBS = {  # what a Slurm node has, as far as the script asks for it; each writes down how it was called
    "scontrol": 'echo "scontrol $*" >>$LOG; [[ $1 == show ]] && printf "n1\\nn2\\nn3\\n"; true',
    "srun": 'echo "srun $*" >>$LOG; exec sleep 600',
    "hostname": "echo 10.0.0.1 fe80::1",
    "harmonyray": """
echo "harmonyray $* at $RAY_ADDRESS" >>$LOG
if [[ $1 == plan ]]; then
  [[ -z ${EARLY:-} ]] || kill -"$EARLY" $PPID
  while (( $(grep -c ^srun "$LOG") < 2 )); do sleep 0.05; done  # the nodes are there
  exit 0
fi
[[ -n ${FINISHES:-} ]] && exit 0
[[ -n ${UNREADY:-} ]] || trap 'echo saved >>$LOG; sleep 0.3; exit 130' TERM
touch $LOG.started
while true; do sleep 0.05; done""",
}


def fits(config: Config, nodes: list[Node]) -> bool:
    return report(seats(config), nodes, config.placement.strategy).fits


def trained(command: list[str]) -> Config:
    """The configuration of a `harmonyray train` command."""
    args = _parse(command)
    return load_config(args.config, args.overrides)


# --- Slurm -------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def slurm(tmp_path: Path) -> Any:
    (tmp_path / "bin").mkdir()
    for name, body in STUBS.items():
        (tmp_path / "bin" / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    env = os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "LOG": str(tmp_path / "log"), "CONFIG": "quickstart"}
    env |= {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "job", "SLURM_JOB_NODELIST": "n[1-3]", "SLURM_SUBMIT_DIR": str(tmp_path)}

    def start(**more: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(["bash", str(SBATCH)], env=env | more, start_new_session=True)

    return start


def test_the_script_starts_a_cluster_and_a_run(slurm: Any, tmp_path: Path) -> None:
    assert slurm(FINISHES="yes").wait(120) == 0
    log = (tmp_path / "log").read_text()
    assert "--nodelist=n1 ray start --head --block --node-ip-address=10.0.0.1 --port=6379\n" in log
    assert "--nodes=2 --ntasks=2 --exclude=n1 ray start --block --address=10.0.0.1:6379\n" in log
    assert f"harmonyray train quickstart --run-dir {tmp_path}/runs/job-7 at 10.0.0.1:6379\n" in log
    assert "requeue" not in log


@pytest.mark.parametrize(("number", "again"), [(signal.SIGUSR1, True), (signal.SIGTERM, False)])
def test_the_time_limit_and_a_cancellation_end_the_run_where_it_can_go_on(
    slurm: Any, tmp_path: Path, number: int, again: bool
) -> None:
    run_dir = tmp_path / "mine"
    run_dir.mkdir()
    (run_dir / "config.yaml").touch()
    script = slurm(RUN_DIR=str(run_dir))
    assert wait_for((tmp_path / "log.started").exists, 120)
    os.kill(script.pid, number)
    assert script.wait(120) == 130
    log = (tmp_path / "log").read_text()
    assert f"harmonyray train quickstart --run-dir {run_dir} --resume at" in log
    assert "saved\n" in log
    assert ("scontrol requeue 7\n" in log) == again


@pytest.mark.parametrize("name", ["USR1", "TERM"])
def test_a_signal_before_there_is_a_run_starts_none_and_queues_nothing_which_could_go_on_for_ever(
    slurm: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    assert slurm(EARLY=name).wait(120) == 130
    log = (tmp_path / "log").read_text()
    assert "harmonyray train" not in log and "requeue" not in log
    assert "told to stop before the run had begun: raise --time" in capfd.readouterr().err


def test_a_run_that_had_nothing_to_save_is_not_queued_again(slurm: Any, tmp_path: Path) -> None:
    script = slurm(UNREADY="yes")
    assert wait_for((tmp_path / "log.started").exists, 120)
    os.kill(script.pid, signal.SIGUSR1)
    assert script.wait(120) == 128 + signal.SIGTERM
    assert "requeue" not in (tmp_path / "log").read_text()


def test_the_runs_of_the_script_fit_on_its_nodes() -> None:
    text = SBATCH.read_text()
    asked = dict(re.findall(r"^#SBATCH --([a-z-]+)=(\S+)$", text, flags=re.M))
    (config,) = re.findall(r"\$\{CONFIG:-(\S+)\}", text)
    node = Node("n", float(asked["cpus-per-task"]), float(asked["gpus-per-node"]))
    assert fits(trained(["train", config, "--run-dir", "x"]), [node] * int(asked["nodes"]))
    assert asked["signal"].startswith("B:USR1@") and int(asked["signal"].partition("@")[2]) >= 300


# --- Kubernetes --------------------------------------------------------------------------------------------------------------


def node_of(group: Mapping[str, Any], name: str) -> Node:
    """What Ray counts on a pod of the group: its limits, unless the start parameters say otherwise."""
    (container,) = group["template"]["spec"]["containers"]
    limits = container["resources"]["limits"]
    assert limits == container["resources"]["requests"]
    volumes = {v["name"] for v in group["template"]["spec"]["volumes"]}
    assert {m["name"] for m in container["volumeMounts"]} == volumes
    gpus = group["rayStartParams"].get("num-gpus", limits.get("nvidia.com/gpu", "0"))
    return Node(name, float(limits["cpu"]), float(gpus))


def test_the_rayjob_runs_a_config_that_fits_on_its_pods() -> None:
    job = yaml.safe_load(RAYJOB.read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]
    known = {"entrypoint", "runtimeEnvYAML", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "backoffLimit"}
    assert spec.keys() == known | {"rayClusterSpec"}
    cluster = spec["rayClusterSpec"]
    assert cluster.keys() == {"rayVersion", "headGroupSpec", "workerGroupSpecs"}
    dependencies = (ROOT / "pyproject.toml").read_text()
    assert f'"ray>={".".join(cluster["rayVersion"].split(".")[:2])},' in dependencies

    command = shlex.split(spec["entrypoint"])
    assert command[:3] == ["python", "-m", "harmonyray"]
    config = trained(command[3:])
    assert (config.tracking.uri or "").startswith("http://")
    workers = [node_of(g, g["groupName"]) for g in cluster["workerGroupSpecs"] for _ in range(g["replicas"])]
    assert fits(config, [node_of(cluster["headGroupSpec"], "head"), *workers])

    env = yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]
    assert all(isinstance(value, str) for value in env.values())
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        assert pod["terminationGracePeriodSeconds"] > int(env["RAY_JOB_STOP_WAIT_TIME_S"])


# --- the page ----------------------------------------------------------------------------------------------------------------


def test_the_commands_of_the_page_parse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.yaml").write_text("extends: quickstart\nname: mine\n")
    text = (ROOT / "docs" / "cluster.md").read_text().replace("\\\n", " ")
    commands = [shlex.split(line, comments=True) for line in re.findall(r"^(?:ray job submit|harmonyray) .*$", text, flags=re.M)]
    assert len(commands) >= 6
    for command in commands:
        if command[0] == "ray":
            command = command[command.index("harmonyray") :]
        args = _parse(command[1:])
        if command[1] in ("train", "plan"):
            load_config(args.config, args.overrides)
    for path in re.findall(r"\]\(\.\./(\S+?)\)", text):
        assert (ROOT / path).is_file(), path
