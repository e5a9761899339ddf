"""The standalone evaluation on the quickstart: what it returns, shows and leaves behind."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from eval_helpers import EIGHT, evaluate, steady
from run_helpers import quickstart_rows, small_run

from harmonyray.cli import main
from harmonyray.console import Reporter
from harmonyray.engines.hf import HfEngine
from harmonyray.eval_report import progress_bar
from harmonyray.run_eval import find_eval_config, load_eval_config, run_evaluation
from harmonyray.types import Failure, SampleRequest


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """An evaluation with `--out`, by the command line."""
    folder = tmp_path_factory.mktemp("results")
    arguments = ["eval", "--model", "quickstart", "--problems", "quickstart", "--samples", "4", *EIGHT, "--json"]
    with pytest.MonkeyPatch.context() as patch:
        printed: list[str] = []
        patch.setattr("builtins.print", lambda *a, **k: printed.append(str(a[0])))
        assert main([*arguments, "eval.chunk_problems=3", "--view", "reframer", "--out", str(folder / "out")]) == 0
    return folder / "out", json.loads(printed[-1])


def test_the_json_and_the_file_say_the_same(results: tuple[Path, dict[str, Any]]) -> None:
    out, printed = results
    assert sorted(p.name for p in out.iterdir()) == ["eval.json", "eval.parquet", "mlflow-sent.json", "mlflow.jsonl"]
    written = json.loads((out / "eval.json").read_text())
    assert {k: v for k, v in written.items() if k not in ("settings", "versions")} == printed
    assert (written["settings"]["eval"]["num_samples"], written["settings"]["model"]["path"]) == (4, "quickstart")
    assert set(written["versions"]) >= {"python", "harmonyray", "torch", "transformers", "numpy"}
    assert (printed["view"], printed["views"], printed["num_samples"]) == ("reframer", ["solver", "reframer"], 4)
    assert (printed["num_problems"], printed["num_skipped"], printed["num_without_gold"]) == (8, 0, 0)
    assert printed["avg_at_k"] == printed["metrics"]["eval/reframer/avg_at_k"]
    for name, (low, high) in printed["intervals"].items():
        assert 0 <= low <= printed["metrics"][name] <= high <= 1, name
    assert "eval/solver/avg_at_k/borrow" in printed["intervals"]


def test_every_figure_can_be_counted_again_from_the_rows(results: tuple[Path, dict[str, Any]]) -> None:
    out, printed = results
    rows = pq.read_table(out / "eval.parquet").to_pylist()
    assert len(rows) == 8 * 2 * (4 + 1)
    assert {(r["part"], r["view"], r["greedy"], r["sample"]) for r in rows} == {
        ("eval", view, greedy, n)
        for view in ("solver", "reframer")
        for greedy in (False, True)
        for n in range(1 if greedy else 4)
    }
    for view in ("solver", "reframer"):
        for greedy, name in ((False, "avg_at_k"), (True, "greedy")):
            right = [r["right"] for r in rows if (r["view"], r["greedy"]) == (view, greedy)]
            assert sum(right) / len(right) == pytest.approx(printed["metrics"][f"eval/{view}/{name}"])
    gold = {r["id"]: r["answer"] for r in quickstart_rows("gold.jsonl")}
    for r in rows:
        assert r["gold"] == gold[r["problem_id"]]
        assert r["right"] == (r["answer"] == r["gold"])
        assert (r["cluster"] >= 0) == (r["answer"] is not None)
        assert r["num_tokens"] > 0
        assert r["finish_reason"] in ("stop", "length")
        assert r["category"] in ("borrow", "plain")
        assert r["draft"] is None


def test_mlflow_has_the_metrics_the_settings_and_both_files(results: tuple[Path, dict[str, Any]]) -> None:
    from mlflow.tracking import MlflowClient

    out, printed = results
    client = MlflowClient(f"sqlite:///{out.parent / 'mlflow.db'}")
    run = client.get_run(printed["mlflow_run_id"])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "out"
    assert run.data.metrics == pytest.approx(printed["metrics"])
    assert run.data.params["eval.num_samples"] == "4"
    assert sorted(f.path for f in client.list_artifacts(run.info.run_id)) == ["eval.json", "eval.parquet"]
    assert client.get_experiment(run.info.experiment_id).name == "harmonyray"


def test_without_out_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "out" not in evaluate()
    assert list(tmp_path.iterdir()) == []


def test_again_and_in_chunks_it_is_the_same(results: tuple[Path, dict[str, Any]]) -> None:
    """The real engine: other chunks are other batches, of the same seeds."""
    whole = steady(evaluate())
    assert steady(evaluate()) == whole
    for size in (1, 3, 5):
        assert steady(evaluate(f"eval.chunk_problems={size}")) == whole
    assert {k: v for k, v in steady(results[1]).items() if k in ("metrics", "intervals")} == {
        k: whole[k] for k in ("metrics", "intervals")
    }
    assert steady(evaluate("seed=1"))["metrics"] != whole["metrics"]


def test_the_table_shows_every_view_and_category(capsys: Any) -> None:
    assert main(["eval", "--model", "quickstart", "--problems", "quickstart", "--samples", "4", *EIGHT]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    text = " ".join(out.replace("│", " ").split())
    assert "eval: 8 problems, 4 samples per problem and view" in text
    for label in ("solver, avg@4", "solver, pass@2", "reframer, greedy", "all views, majority@4", "all views, harmonic@4"):
        assert label in text
    assert "by category: the solver view's avg@4" in text
    assert " borrow " in text
    assert "settings of quickstart" in text
    assert max(map(len, out.splitlines())) <= 100


def test_a_held_out_part_is_measured_apart_and_repeated(tmp_path: Path) -> None:
    summary = small_run(tmp_path / "run", "steps=1", "problems.holdout=0.25")
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert (last["eval/num_problems"], last["holdout/num_problems"]) == (6, 2)
    model = str(tmp_path / "run" / "model")
    result = run_evaluation(load_eval_config(find_eval_config(model, None), model, "quickstart"))
    assert result["metrics"] == {k: v for k, v in last.items() if k.startswith(("eval/", "holdout/"))}
    assert result["metrics"].items() >= summary["eval_after"].items()
    assert result["num_problems"] == 6


# --- progress ------------------------------------------------------------------------------------------------------------------


def test_no_terminal_no_bar(capsys: Any) -> None:
    with progress_bar(Reporter()) as progress:
        progress(0, 10)
        progress(10, 10)
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_the_bar_counts_problems(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with progress_bar(Reporter()) as progress:
        progress(0, 1319)
        progress(256, 1319)
    assert "256/1319" in capsys.readouterr().out
    with progress_bar(Reporter(quiet=True)) as progress:
        progress(256, 1319)
    assert capsys.readouterr().out == ""


def test_problems_that_cannot_be_sampled_are_left_out_and_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One fails when it is sampled, another when it is answered greedily: neither counts in any figure."""
    stream = HfEngine.stream
    first, second = quickstart_rows("questions.jsonl")[:2]

    def failing(self: HfEngine, requests: list[SampleRequest], version: int | None, timeout_s: float | None = None) -> Any:
        for i, group in stream(self, requests, version, timeout_s):
            greedy = requests[i].sampling.temperature == 0
            fails = requests[i].prompt.problem_id == (second if greedy else first)["id"]
            yield i, Failure("made to fail") if fails else group

    monkeypatch.setattr(HfEngine, "stream", failing)
    result = evaluate()
    assert (result["num_problems"], result["num_failed"]) == (6, 2)
    assert result["metrics"]["eval/num_failed"] == 2
    assert "left out 2 problem(s) that could not be sampled" in capsys.readouterr().err
