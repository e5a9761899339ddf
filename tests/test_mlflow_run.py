"""The MLflow thread and the outbox against a real SQLite store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from harmonyray.cli import main
from harmonyray.errors import TrackingError
from harmonyray.mlflow_run import MlflowRun
from harmonyray.outbox import RECORDS, SENT, Place
from harmonyray.track_sync import describe_sync, run_sync


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("mlflow")
    return f"sqlite:///{folder / 'mlflow.db'}", folder / "artifacts"


@pytest.fixture
def open_run(store: tuple[str, Path], tmp_path: Path) -> Any:
    """Begins or takes up the run of that name, in a directory of its own."""

    def begin(name: str, experiment: str = "e", uri: str = "", run_id: str | None = None) -> MlflowRun:
        (tmp_path / name).mkdir(exist_ok=True)
        place = Place(uri or store[0], store[1].as_uri(), experiment)
        return MlflowRun(place, tmp_path / name, name, lambda words: pytest.fail(words), run_id)

    return begin


def test_everything_queued_is_there_at_the_end(store: tuple[str, Path], open_run: Any, tmp_path: Path) -> None:
    run = open_run("one")
    run.log_params({f"p{i}": i for i in range(250)} | {"long": "x" * 900, "none": None})  # more than one request may hold
    for i in range(1, 4):
        run.log_metrics({"step": i, "loss": i / 10, "eval/solver/avg_at_k/level 1": 1.0}, i)
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "many").mkdir()
    (tmp_path / "many" / "b.txt").write_text("b")
    (tmp_path / "many" / ".hidden").mkdir()
    for hidden in (".b.1a2b3c4d.txt", ".hidden/b.txt"):
        (tmp_path / "many" / hidden).write_text("half of")
    run.log_artifacts(tmp_path / "a.txt")
    run.log_artifacts(tmp_path / "many", "many")
    assert run.finish("FINISHED") == []
    client = MlflowClient(store[0])
    got = client.get_run(run.run_id)
    assert (got.info.status, got.info.run_name) == ("FINISHED", "one")
    assert len(got.data.params) == 252
    assert (got.data.params["p249"], got.data.params["long"], got.data.params["none"]) == ("249", "x" * 500, "None")
    assert [(m.step, m.value) for m in client.get_metric_history(run.run_id, "loss")] == [(1, 0.1), (2, 0.2), (3, 0.3)]
    assert set(got.data.metrics) == {"loss", "eval/solver/avg_at_k/level 1"}  # the step is a coordinate and no metric
    assert (store[1] / run.run_id / "artifacts" / "many" / "b.txt").read_text() == "b"
    assert {a.path for a in client.list_artifacts(run.run_id)} == {"a.txt", "many"}
    assert [a.path for a in client.list_artifacts(run.run_id, "many")] == ["many/b.txt"]


@pytest.mark.parametrize("status", ["FINISHED", "FAILED", "KILLED"])
def test_endings(store: tuple[str, Path], open_run: Any, status: str) -> None:
    run = open_run(status)
    assert run.finish(status) == []
    assert MlflowClient(store[0]).get_run(run.run_id).info.status == status


def test_a_run_taken_up_is_the_same_run_and_tells_of_changed_parameters_in_tags(store: tuple[str, Path], open_run: Any) -> None:
    first = open_run("taken")
    first.keep()
    first.log_params({"steps": 3, "lr": 0.1})
    first.log_metrics({"x": 1.0}, 1)
    assert first.finish("KILLED") == []
    client = MlflowClient(store[0])
    ended = client.get_run(first.run_id).info.end_time
    again = open_run("taken")
    assert again.run_id == first.run_id
    again.log_params({"steps": 6, "lr": 0.1})
    again.log_metrics({"x": 5.0}, 1)  # run again after the resume: it is there already
    again.log_metrics({"x": 2.0}, 2)
    assert again.finish("FINISHED") == []
    got = client.get_run(first.run_id)
    assert (got.info.status, got.data.params) == ("FINISHED", {"steps": "3", "lr": "0.1"})
    assert {k: v for k, v in got.data.tags.items() if k.startswith("resumed.")} == {"resumed.steps": "6"}
    assert got.info.end_time > ended
    assert [(m.step, m.value) for m in client.get_metric_history(first.run_id, "x")] == [(1, 1.0), (2, 2.0)]
    third = open_run("taken")
    third.log_params({"steps": 3, "lr": 0.1})  # back to the first: the tag has to say so
    assert third.finish("FINISHED") == []
    assert client.get_run(first.run_id).data.tags["resumed.steps"] == "3"


def test_steps_run_again_after_going_back_are_logged_beside_the_first(store: tuple[str, Path], open_run: Any) -> None:
    run = open_run("back")
    run.keep()
    for step in (1, 2, 3):
        run.log_metrics({"x": float(step)}, step)
    run.go_back(1)
    run.log_metrics({"x": 20.0}, 2)
    assert run.finish("KILLED") == []
    again = open_run("back")
    again.log_metrics({"x": 20.0}, 2)
    again.log_metrics({"x": 30.0}, 3)
    assert again.finish("FINISHED") == []
    points = [(m.step, m.value) for m in MlflowClient(store[0]).get_metric_history(run.run_id, "x")]
    assert sorted(points) == [(1, 1.0), (2, 2.0), (2, 20.0), (3, 3.0), (3, 30.0)]


def test_a_resumed_run_logs_of_the_steps_that_it_does_again_what_came_out_otherwise(
    store: tuple[str, Path], open_run: Any
) -> None:
    nan = float("nan")
    run = open_run("resumed")
    run.keep()
    for step in (1, 2, 3):
        run.log_metrics({"x": float(step), "y": nan}, step)
    assert run.finish("FAILED") == []
    again = open_run("resumed")
    again.resume_after(1)
    again.log_metrics({"x": 2.0, "y": nan}, 2)  # bit for bit as it was
    again.log_metrics({"x": 30.0, "y": nan}, 3)
    again.log_metrics({"x": 4.0, "y": nan}, 4)
    again.go_back(2)  # the guard's: all that follows is logged
    again.log_metrics({"x": 3.0, "y": nan}, 3)
    assert again.finish("FINISHED") == []
    client = MlflowClient(store[0])
    points = [(m.step, m.value) for m in client.get_metric_history(run.run_id, "x")]
    assert sorted(points) == [(1, 1.0), (2, 2.0), (3, 3.0), (3, 3.0), (3, 30.0), (4, 4.0)]
    assert sorted(m.step for m in client.get_metric_history(run.run_id, "y")) == [1, 2, 3, 3, 4]


def test_a_run_that_the_store_does_not_have_is_made_anew_with_everything(open_run: Any, tmp_path: Path) -> None:
    first = open_run("moved")
    first.keep()
    first.log_params({"steps": 6})
    first.log_metrics({"x": 1.0}, 1)
    first.finish("KILLED")
    other = f"sqlite:///{tmp_path / 'other.db'}"
    run = open_run("moved", uri=other)
    run.log_metrics({"x": 2.0}, 2)
    assert run.finish("FINISHED") == []
    client = MlflowClient(other)
    got = client.get_run(run.run_id)
    assert (got.info.run_name, got.info.status, got.data.params) == ("moved", "FINISHED", {"steps": "6"})
    assert [(m.step, m.value) for m in client.get_metric_history(run.run_id, "x")] == [(1, 1.0), (2, 2.0)]
    sent, empty = tmp_path / "moved" / SENT, f"sqlite:///{tmp_path / 'empty.db'}"
    sent.write_text(sent.read_text().replace(other, empty))  # as if the address of before had another store now
    last = open_run("moved", uri=empty)
    assert last.finish("FINISHED") == []
    assert last.run_id != run.run_id
    assert len(MlflowClient(empty).get_metric_history(last.run_id, "x")) == 2


def test_a_directory_without_records_goes_on_with_the_run_that_its_checkpoint_names(
    store: tuple[str, Path], open_run: Any, tmp_path: Path
) -> None:
    first = open_run("lost")
    first.keep()
    first.log_metrics({"x": 1.0}, 1)
    assert first.finish("KILLED") == []
    (tmp_path / "lost" / RECORDS).unlink()
    (tmp_path / "lost" / SENT).unlink()
    again = open_run("lost", run_id=first.run_id)
    again.log_metrics({"x": 2.0}, 2)
    assert again.run_id == first.run_id
    again.keep()
    assert again.finish("FINISHED") == []
    points = [(m.step, m.value) for m in MlflowClient(store[0]).get_metric_history(first.run_id, "x")]
    assert points == [(1, 1.0), (2, 2.0)]
    elsewhere = open_run("elsewhere", run_id="0" * 32)  # a store that does not have it
    elsewhere.log_metrics({"x": 3.0}, 3)
    assert elsewhere.finish("FINISHED") == []
    assert elsewhere.run_id != "0" * 32
    points = [(m.step, m.value) for m in MlflowClient(store[0]).get_metric_history(elsewhere.run_id, "x")]
    assert points == [(3, 3.0)]


def test_many_runs_may_start_one_experiment_at_once(store: tuple[str, Path], open_run: Any) -> None:
    runs = [open_run(f"r{i}", experiment="shared") for i in range(4)]
    assert [run.finish("FINISHED") for run in runs] == [[]] * 4
    client = MlflowClient(store[0])
    assert len({run.run_id for run in runs}) == 4
    assert len({client.get_run(run.run_id).info.experiment_id for run in runs}) == 1


def test_an_error_is_told_at_the_end_and_does_not_stop_the_rest(store: tuple[str, Path], open_run: Any, tmp_path: Path) -> None:
    run = open_run("errors")
    run.keep()
    for i in range(3):
        run.log_artifacts(tmp_path / "not-there")
        run.log_metrics({"x": 1.0}, i)
    errors = run.finish("FINISHED")
    assert len(errors) == 1
    assert "MLflow did not take 3 record(s)" in errors[0]
    assert "not-there" in errors[0]
    assert errors[0].endswith(f"send with: harmonyray track sync {tmp_path / 'errors'}")
    assert "\n" not in errors[0]
    assert len(MlflowClient(store[0]).get_metric_history(run.run_id, "x")) == 3


@pytest.mark.parametrize("uri", ["nonsense://x", "sqlite:////proc/nowhere/mlflow.db"])
def test_a_store_that_cannot_be_used(open_run: Any, uri: str) -> None:
    run = open_run("r", uri=uri)
    run.log_metrics({"x": 1.0}, 1)
    with pytest.raises(TrackingError, match=r"MLflow store '.*' cannot be used: .*correct 'tracking\.uri'") as caught:
        _ = run.run_id
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert run.finish("FAILED") == []  # it has been told


def test_what_was_refused_is_offered_again_by_track_sync(open_run: Any, store: tuple[str, Path], tmp_path: Path) -> None:
    run = open_run("refused")
    run.keep()
    run.log_artifacts(tmp_path / "refused" / "late.txt")
    assert len(run.finish("FINISHED")) == 1
    summary = run_sync(tmp_path / "refused")
    assert (summary["sent"], len(summary["refused"])) == (0, 1)
    assert "late.txt" in describe_sync(summary)
    (tmp_path / "refused" / "late.txt").write_text("here")
    summary = run_sync(tmp_path / "refused")
    assert (summary["sent"], summary["refused"], summary["mlflow_run_id"]) == (1, [], run.run_id)
    assert [a.path for a in MlflowClient(store[0]).list_artifacts(run.run_id)] == ["late.txt"]
    assert "nothing to send" in describe_sync(run_sync(tmp_path / "refused"))


def test_a_crash_between_taking_and_counting_does_no_harm(open_run: Any, store: tuple[str, Path], tmp_path: Path) -> None:
    run = open_run("twice")
    run.keep()
    run.log_params({"a": 1})
    run.log_metrics({"x": 1.0, "y": float("nan")}, 1)
    run.log_tag("t", "1")
    assert run.finish("FINISHED") == []
    client = MlflowClient(store[0])
    before = client.get_run(run.run_id)
    state = json.loads((tmp_path / "twice" / SENT).read_text())
    (tmp_path / "twice" / SENT).write_text(json.dumps(state | {"sent": 0, "run_id": None}))
    with (tmp_path / "twice" / RECORDS).open("a") as f:
        f.write('{"kind": "metr')  # the crash cut it short
    summary = run_sync(tmp_path / "twice")
    assert summary["mlflow_run_id"] == run.run_id, "found by its key, not made a second time"
    after = client.get_run(run.run_id)
    assert (after.info.start_time, after.info.end_time) == (before.info.start_time, before.info.end_time)
    assert (after.info.status, after.data.tags, after.data.params) == ("FINISHED", before.data.tags, {"a": "1"})
    assert [(m.step, m.value) for m in client.get_metric_history(run.run_id, "x")] == [(1, 1.0)]
    assert [str(m.value) for m in client.get_metric_history(run.run_id, "y")] == ["nan"]
    assert '"values": {"x": 1.0, "y": "nan"}' in (tmp_path / "twice" / RECORDS).read_text(), "as bare NaN it were no JSON"
    assert (tmp_path / "twice" / RECORDS).read_text().endswith("}\n")


def test_a_directory_that_cannot_be_synced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["track", "sync", str(tmp_path / "nowhere")]) == 2
    assert "is not a directory" in capsys.readouterr().err
    assert main(["track", "sync", str(tmp_path)]) == 2
    assert f"has no {RECORDS} and {SENT}" in capsys.readouterr().err
