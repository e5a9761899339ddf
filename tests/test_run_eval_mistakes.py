"""The standalone evaluation when something is missing or goes wrong: gold answers, the store, a view, the user's patience."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from eval_helpers import EIGHT, evaluate, steady
from run_helpers import quickstart_rows

from harmonyray import files
from harmonyray.cli import main
from harmonyray.errors import ConfigError, ProblemError
from harmonyray.problems.quickstart import QuickstartSource
from harmonyray.run_eval import load_eval_config, run_evaluation
from harmonyray.types import GoldAnswer


class Forgetful(QuickstartSource):
    """Has gold answers for every other question."""

    def gold(self) -> dict[str, GoldAnswer]:
        return dict(list(super().gold().items())[::2])


class Mistaken(QuickstartSource):
    """Has a gold answer to a question that it does not ask."""

    def gold(self) -> dict[str, GoldAnswer]:
        return {"elsewhere": GoldAnswer("elsewhere", "1")}


def test_problems_without_gold_are_left_out_counted_and_named(capsys: Any) -> None:
    result = evaluate(f"problems.type={__name__}:Forgetful")
    assert (result["num_problems"], result["num_without_gold"]) == (4, 4)
    err = capsys.readouterr().err
    assert "left out 4 of 8 problem(s) without a gold answer: " in err
    assert json.dumps(quickstart_rows("questions.jsonl")[1]["id"])[1:-1] in err


def test_gold_for_other_problems_is_none(tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match="no problem that could be asked has a gold answer"):
        evaluate(f"problems.type={__name__}:Mistaken", out=tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []  # free for the next try
    assert steady(evaluate(out=tmp_path / "out"))["num_problems"] == 8


def test_a_store_that_cannot_be_used_stops_before_the_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harmonyray.evaluate.Evaluator.score", lambda *a: pytest.fail("it has begun"))
    (tmp_path / "file").write_text("")
    arguments = ["eval", "--model", "quickstart", "--problems", "quickstart", *EIGHT, "--out", str(tmp_path / "out")]
    assert main([*arguments, f"tracking.uri=sqlite:///{tmp_path}/file/mlflow.db"]) == 2
    assert list((tmp_path / "out").iterdir()) == []


def test_an_interrupted_evaluation_leaves_no_half_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.tracking import MlflowClient

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("harmonyray.evaluate.score_problems", interrupt)
    with pytest.raises(KeyboardInterrupt):
        evaluate(out=tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("harmonyray")
    assert experiment is not None
    assert [run.info.status for run in client.search_runs([experiment.experiment_id])] == ["KILLED"]


@pytest.mark.parametrize("full", ["eval.json", "eval.parquet"])
def test_a_full_disk_leaves_neither_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: str) -> None:
    out = tmp_path / "out"
    sync = files.sync_file

    def sync_or_fail(path: Path) -> None:
        if path.suffix == Path(full).suffix and path.parent == out:
            raise OSError(28, "No space left on device")
        sync(path)

    monkeypatch.setattr(files, "sync_file", sync_or_fail)
    with pytest.raises(OSError, match="No space left"):
        evaluate(out=out)
    assert list(out.iterdir()) == []


def test_an_unknown_view_is_told_before_anything_is_loaded() -> None:
    config = load_eval_config("quickstart", "quickstart", "quickstart")
    with pytest.raises(ConfigError, match=r"--view 'reframe' is not a view .*did you mean 'reframer'\?"):
        run_evaluation(config, "reframe")
