"""Reports of several runs, how a run is found, and what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from report_helpers import make_run

from harmonyray.cli import main
from harmonyray.errors import ReportError
from harmonyray.report.comparing import name_runs
from harmonyray.report.finding import find_place
from harmonyray.report.reading import RunRecord, read_run
from harmonyray.report.reporting import run_report
from harmonyray.tracking import RUN_DIR_TAG


def test_several_runs_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    accuracy = [{}, {"eval/solver/avg_at_k": 0.75}]
    for seed in (0, 1):
        make_run(tmp_path / "trials" / f"self-{seed}", f"seed={seed}", metrics=accuracy)
        make_run(tmp_path / "trials" / f"gold-{seed}", f"seed={seed}", config="quickstart-ground_truth")
    (tmp_path / "trials" / "unborn").mkdir()
    (tmp_path / "trials" / "unborn" / "config.yaml").write_text((tmp_path / "trials" / "self-0" / "config.yaml").read_text())
    (tmp_path / "trials" / "unborn" / "metrics.jsonl").touch()
    copy = tmp_path / "mlartifacts" / "1"
    make_run(copy)  # what MLflow keeps of a run is no further run
    assert main(["report", str(tmp_path), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["num_runs"] == 5
    page = Path(summary["report"]).read_text()
    assert Path(summary["report"]).parent == tmp_path
    rows = re.findall(r'<a href="([^"]+)">([^<]+)</a></th><td class="text">([^<]+)', page)
    assert [(link, label.strip()) for link, _, label in rows] == [
        (f"trials/{name}/report.html", f"method={method}")
        for name, method in (
            ("gold-0", "ground_truth"),
            ("gold-1", "ground_truth"),
            ("self-0", "self_harmony"),
            ("self-1", "self_harmony"),
        )
    ]
    assert page.count("gold used") == 2
    assert "has not finished a step yet" in page
    assert all((tmp_path / link).is_file() for link, _, _ in rows)
    assert not (copy / "report.html").exists()
    assert {Path(path).name for path in summary["pictures"]} == {"accuracy.png", "coverage.png"}
    assert all(Path(path).read_bytes().startswith(b"\x89PNG") for path in summary["pictures"])


def test_runs_are_told_apart_by_what_differs(tmp_path: Path) -> None:
    names = []
    for i, change in enumerate(("learner.lr=0.1", "learner.lr=0.2", "views.solver.num_samples=8")):
        make_run(tmp_path / str(i), change, f"seed={i}")
        names.append(read_run(tmp_path / str(i)))
    assert name_runs(names) == ["num_samples=16, lr=0.1", "num_samples=16, lr=0.2", "num_samples=8, lr=0.0003"]
    assert name_runs(names[:1]) == ["quickstart"]


def test_runs_of_one_type_among_others_are_told_apart_too() -> None:
    def run(method: Mapping[str, Any], seed: int = 0, views: Mapping[str, Any] | None = None) -> RunRecord:
        config = {"name": "mine", "seed": seed, "views": views or {"solver": {"n": 8}}, "method": method}
        return RunRecord(Path(), config, "", [], {}, {}, {}, None)

    ours = {"type": "ours", "selector": {"type": "harmonic", "smoothing": 0}}
    smooth = {"type": "ours", "selector": {"type": "harmonic", "smoothing": 1}}
    both = {"solver": {"n": 8}, "reframer": {"n": 8}}
    runs = [run(ours), run(smooth), run({"type": "theirs"}), run(smooth, seed=1), run(ours, views=both)]
    assert name_runs(runs) == [
        "views=solver, method=ours, smoothing=0",
        "views=solver, method=ours, smoothing=1",
        "views=solver, method=theirs",
        "views=solver, method=ours, smoothing=1",
        "views=solver+reframer, method=ours",
    ]


@pytest.mark.parametrize(
    ("make", "wanted"),
    [
        (lambda p: p / "nowhere", "nothing called .* is there: expected the directory of a run"),
        (lambda p: p / "a-file", "is a file; expected the directory"),
        (lambda p: p, "holds no run: expected config.yaml and metrics.jsonl"),
        (lambda p: "0123456789abcdef" * 2, "looks like an MLflow run id, and there is no store at"),
    ],
)
def test_what_is_no_run_is_one_message(
    make: Any, wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a-file").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert main(["report", str(make(tmp_path))]) == 2
    err = capsys.readouterr().err
    assert re.search(wanted, err) and len(err.splitlines()) == 1


def test_a_sweeps_parent_run_is_found_in_the_store_of_the_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.tracking import MlflowClient

    sweep_dir = tmp_path / "runs" / "sweep-mine"
    sweep_dir.mkdir(parents=True)
    client = MlflowClient(f"sqlite:///{sweep_dir / 'mlflow.db'}")
    run = client.create_run("0", tags={RUN_DIR_TAG: str(sweep_dir)})
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert find_place(run.info.run_id) == sweep_dir
    with pytest.raises(ReportError, match=r"runs/sweep-mine/mlflow.db' gives no run .*: set MLFLOW_TRACKING_URI"):
        find_place("0" * 32)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run")
    (run_dir / "metrics.jsonl").write_text("{not json}\n")
    with pytest.raises(ReportError, match=r"cannot be read .*are its files whole"):
        run_report(str(run_dir))
    (run_dir / "metrics.jsonl").write_text("")
    with pytest.raises(ReportError, match="has not finished a step yet"):
        run_report(str(run_dir))
    (run_dir / "metrics.jsonl").write_text('{"step": 1}\n')
    (run_dir / "config.yaml").write_text("[]")
    with pytest.raises(ReportError, match="is not the configuration of a run"):
        run_report(str(run_dir))


def test_a_damaged_run_is_named_and_the_others_are_reported(tmp_path: Path) -> None:
    for name, damaged in (("a", None), ("b", "rollouts"), ("c", "ledger")):
        run_dir = make_run(tmp_path / name)
        if damaged:
            path = run_dir / damaged / "step-000001.parquet"
            path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(
        ReportError, match=r"rollouts/step-000001.parquet' cannot be read as recorded rollouts .*is the file whole"
    ):
        run_report(str(tmp_path / "b"))
    page = Path(run_report(str(tmp_path))["report"]).read_text()
    assert "cannot be read as recorded rollouts" in page and "cannot be read as a ledger" in page
    assert re.findall(r'<a href="([^"]+report.html)">', page) == ["a/report.html"]
