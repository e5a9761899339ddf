"""MLflow on a real server: killed in the middle of a run, not there at all, slow, and lost while the rest is being sent."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from mlflow_server import Gate, Server
from run_helpers import rows, small_run

from harmonyray.cli import main
from harmonyray.console import Reporter
from harmonyray.errors import RunError
from harmonyray.mlflow_run import MlflowRun
from harmonyray.outbox import RECORDS, Place
from harmonyray.track_sync import run_sync

pytestmark = pytest.mark.slow

STEPS = ("steps=4", "eval.every=2", "tracking.experiment=served")
ARTIFACTS = {"config.yaml", "metrics.jsonl", "run.json", "summary.json", "summary.txt", "rollouts", "ledger"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Not started yet."""
    one = Server(tmp_path_factory.mktemp("server"))
    yield one
    one.close()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is there has all the time that it needs; one that refuses is asked once."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "600")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.fixture(scope="module")
def absent(server: Server, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run whose server was never there."""
    run_dir = tmp_path_factory.mktemp("runs") / "absent"
    return run_dir, small_run(run_dir, *STEPS, f"tracking.uri={server.uri}")


class KillsAt2(Reporter):
    """Kills the server while step 2 is being reported."""

    server: Server

    def step(self, row: Mapping[str, float]) -> None:
        super().step(row)
        if row["step"] == 2:
            self.server.kill()


def assert_everything_is_there(uri: str, run_dir: Path, run_id: str) -> Run:
    """The run on the server is what one with the server there all the time would be."""
    client = MlflowClient(uri)
    run, got = client.get_run(run_id), rows(run_dir)
    assert (run.info.run_name, run.info.status) == (run_dir.name, "FINISHED")
    assert client.get_experiment(run.info.experiment_id).name == "served"
    assert set(run.data.metrics) == {name for row in got for name in row} - {"step"}
    for name in ("reward/solver/mean", "policy_version", "time/step_s"):
        history = {m.step: m.value for m in client.get_metric_history(run_id, name)}
        assert history == {row["step"]: row[name] for row in got}
    assert [m.step for m in client.get_metric_history(run_id, "eval/solver/avg_at_k")] == [0, 2, 4]
    assert run.data.params["learner.lr"] == "0.0003"
    assert {a.path for a in client.list_artifacts(run_id)} == ARTIFACTS
    assert len(client.list_artifacts(run_id, "rollouts")) == 4
    local = Path(client.download_artifacts(run_id, "summary.json"))
    assert json.loads(local.read_text())["mlflow_run_id"] == run_id
    return run


def assert_times_of_the_run(uri: str, run: Run, run_dir: Path) -> None:
    """Points and ends carry the time when they were, in order, and not that of the sending."""
    times = [m.timestamp for m in MlflowClient(uri).get_metric_history(run.info.run_id, "policy_version")]
    recorded = [json.loads(line) for line in (run_dir / RECORDS).read_text().splitlines()]
    assert times == [r["time_ms"] for r in recorded if r["kind"] == "metrics" and r["step"] > 0]
    assert times == sorted(times)
    assert (run.info.start_time, run.info.end_time) == (recorded[0]["time_ms"], recorded[-1]["time_ms"])
    assert run.info.start_time <= times[0] and times[-1] <= run.info.end_time


def test_a_server_that_is_not_there_does_not_stop_a_run(
    server: Server, absent: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir, summary = absent
    assert (summary["mlflow_run_id"], summary["steps"]) == (None, 4)
    assert f"MLflow  not reached at {server.uri}" in (run_dir / "summary.txt").read_text()
    assert main(["track", "sync", str(run_dir)]) == 1
    err = capsys.readouterr().err
    assert f"MLflow at {server.uri} does not answer" in err
    assert "repeat this command when the server is back" in err
    assert "Traceback" not in err


def test_the_user_is_told_once_with_the_command(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_run(tmp_path / "told", "steps=2", f"tracking.uri={server.uri}")
    err = capsys.readouterr().err
    command = f"harmonyray track sync {tmp_path / 'told'}"
    assert err.count("does not answer") == 1
    assert f"after the run, send it with: {command}" in err
    assert f"are not in MLflow at {server.uri}; send with: {command}" in err.splitlines()[-1]


def test_what_was_kept_is_sent_to_the_server_that_came(
    server: Server, absent: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir, _ = absent
    server.start()
    assert main(["track", "sync", str(run_dir), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["run_dir"], told["uri"], told["refused"]) == (str(run_dir), server.uri, [])
    assert told["sent"] == len((run_dir / RECORDS).read_text().splitlines())
    run = assert_everything_is_there(server.uri, run_dir, told["mlflow_run_id"])
    assert_times_of_the_run(server.uri, run, run_dir)
    assert main(["track", "sync", str(run_dir)]) == 0
    assert "nothing to send" in capsys.readouterr().out


def test_a_server_killed_in_the_middle_of_a_run(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run beside it that nothing disturbed has the same parameters, tags and artifacts."""
    good = small_run(tmp_path / "good", *STEPS, f"tracking.uri={server.uri}")
    undisturbed = assert_everything_is_there(server.uri, tmp_path / "good", good["mlflow_run_id"])
    assert "does not answer" not in capsys.readouterr().err

    reporter = KillsAt2(quiet=True)
    reporter.server = server
    summary = small_run(tmp_path / "killed", *STEPS, f"tracking.uri={server.uri}", reporter=reporter)
    assert (summary["steps"], server.process) == (4, None)
    assert capsys.readouterr().err.count("does not answer") == 1
    server.start()
    client = MlflowClient(server.uri)
    run_id = summary["mlflow_run_id"]
    assert client.get_run(run_id).info.status == "RUNNING", "nothing has been sent since"
    assert len(client.get_metric_history(run_id, "policy_version")) <= 2
    assert run_sync(tmp_path / "killed")["mlflow_run_id"] == run_id
    run = assert_everything_is_there(server.uri, tmp_path / "killed", run_id)
    assert_times_of_the_run(server.uri, run, tmp_path / "killed")
    assert run.data.params == undisturbed.data.params
    assert run.data.tags.keys() == undisturbed.data.tags.keys()
    assert len(client.search_runs([run.info.experiment_id])) == 3, "absent, good and killed: none was made twice"


@pytest.fixture
def gate(server: Server) -> Iterator[Gate]:
    one = Gate(server.port)
    yield one
    one.close()


def begin(uri: str, directory: Path, words: list[str]) -> MlflowRun:
    directory.mkdir()
    run = MlflowRun(Place(uri, None, "gated"), directory, directory.name, words.append)
    run.keep()
    return run


def test_a_slow_server_holds_up_nobody(server: Server, gate: Gate, tmp_path: Path) -> None:
    """Not one request is answered until a hundred steps have been logged; then all are."""
    words: list[str] = []
    run = begin(gate.uri, tmp_path / "slow", words)
    for step in range(1, 101):
        run.log_metrics({"x": float(step)}, step)
    assert len((tmp_path / "slow" / RECORDS).read_text().splitlines()) == 101
    gate.open.set()
    assert run.finish("FINISHED") == []
    assert words == []
    points = MlflowClient(server.uri).get_metric_history(run.run_id, "x")
    assert [(m.step, m.value) for m in points] == [(step, float(step)) for step in range(1, 101)]


def test_a_server_that_hangs_is_given_up_and_the_rest_is_sent_in_pieces(
    server: Server, gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    words: list[str] = []
    run = begin(gate.uri, tmp_path / "hung", words)
    assert run.run_id is None
    for step in range(1, 41):
        run.log_metrics({"x": float(step)}, step)
    (left,) = run.finish("FINISHED")
    assert left.startswith(f"42 record(s) are not in MLflow at {gate.uri}")
    assert len(words) == 1 and "does not answer" in words[0]

    gate.open.set()
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "600")
    told = []
    for pieces in (2, 4, 8, 16, 10**9):  # the server goes again, later each time
        gate.left = pieces
        try:
            told.append(run_sync(tmp_path / "hung"))
            break
        except RunError as e:
            assert "wait to be sent" in str(e)
    assert gate.left > 16, "it was cut off each time but the last"
    assert told[0]["sent"] < 42, "what had arrived before was not sent again"
    client = MlflowClient(server.uri)
    experiment = client.get_experiment_by_name("gated")
    assert experiment is not None
    (found,) = [r for r in client.search_runs([experiment.experiment_id]) if r.info.run_name == "hung"]
    assert found.info.status == "FINISHED"
    assert [m.step for m in client.get_metric_history(found.info.run_id, "x")] == list(range(1, 41))
