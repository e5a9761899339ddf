"""Whole runs in one process: what they leave behind, and that equal settings give equal runs."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from run_helpers import SIX, assert_same_run, rows, small_run, steady, weights

from harmonyray import build
from harmonyray.config import load_config
from harmonyray.errors import RunError
from harmonyray.export import ExportRequest, run_export
from harmonyray.problems.quickstart import MODEL_DIR
from harmonyray.run_eval import find_eval_config, load_eval_config, run_evaluation
from harmonyray.types import ProblemRollouts


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the runs of this module live; they share one MLflow store."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def six(folder: Path) -> tuple[Path, dict[str, Any]]:
    """An undisturbed run of six steps."""
    return folder / "six", small_run(folder / "six", *SIX)


# --- what a run leaves behind -------------------------------------------------------------------------------------------------


def test_the_run_directory_is_laid_out_as_promised(six: tuple[Path, dict[str, Any]]) -> None:
    run_dir, _ = six
    assert sorted(p.name for p in run_dir.iterdir()) == [
        "checkpoints",
        "config.yaml",
        "ledger",
        "metrics.jsonl",
        "mlflow-sent.json",
        "mlflow.jsonl",
        "model",
        "rollouts",
        "run.json",
        "summary.json",
        "summary.txt",
    ]
    assert sorted(p.name for p in (run_dir / "rollouts").iterdir()) == [f"step-{i:06d}.parquet" for i in range(1, 7)]
    assert sorted(p.name for p in (run_dir / "checkpoints").iterdir()) == ["step-000003", "step-000006"]
    assert (run_dir.parent / "mlflow.db").is_file()


def test_the_saved_config_is_resolved_and_is_this_run(six: tuple[Path, dict[str, Any]]) -> None:
    text = (six[0] / "config.yaml").read_text()
    assert yaml.safe_load(text)["objective"]["kl_coef"] == 0.005  # a default
    saved = load_config(str(six[0] / "config.yaml"))
    assert (saved.steps, saved.problems.options.limit, saved.views["solver"].num_samples) == (6, 8, 4)


METRICS = [
    *(f"time/{name}_s" for name in ("step", "generate", "grade", "learn", "sync", "eval", "save")),
    *(f"consensus/{name}" for name in ("label_accuracy", "upper_bound", "coverage", "disagreement", "js", "margin", "entropy")),
    "consensus/self_consistency",
    "consensus/view_invariance",
    "reward/solver/mean",
    "reward/reframer/mean",
    "train/loss",
    "train/zero_variance_groups",
    "train/importance_cut",
    "policy_version",
    "step",
]
EVALS = [
    *(f"eval/{view}/{name}" for view in ("solver", "reframer") for name in ("avg_at_k", "greedy")),
    "eval/majority_at_k",
    "eval/harmonic_at_k",
]


def test_every_step_has_the_promised_metrics(six: tuple[Path, dict[str, Any]]) -> None:
    got = rows(six[0])
    assert [row["step"] for row in got] == [1, 2, 3, 4, 5, 6]
    for row in got:
        assert [name for name in METRICS if name not in row] == []
        assert ("eval/majority_at_k" in row) == (row["step"] in (3, 6))
        assert all(isinstance(value, int | float) for value in row.values())
        parts = sum(row[f"time/{p}_s"] for p in ("generate", "grade", "learn", "sync", "eval", "save"))
        assert 0 < parts <= row["time/step_s"]
    assert [name for name in EVALS if name not in got[2]] == []
    assert [row["policy_version"] for row in got] == [1, 2, 3, 4, 5, 6]


COLUMNS = {
    "step",
    "problem_id",
    "view",
    "sample",
    "question",
    "response",
    "draft",
    "answer",
    "cluster",
    "label",
    "reward",
    "missing",
    "rewritten",
    "strategy",
    "num_tokens",
    "finish_reason",
    "policy_version",
}


def test_rollouts_are_one_row_a_sample(six: tuple[Path, dict[str, Any]]) -> None:
    table = pq.read_table(six[0] / "rollouts" / "step-000002.parquet")
    assert set(table.column_names) == COLUMNS
    got = table.to_pylist()
    assert len(got) == 4 * (4 + 4)  # problems x samples of both views
    assert {(r["step"], r["policy_version"]) for r in got} == {(2, 1)}
    for r in got:
        assert (r["answer"] is None) == (r["cluster"] == -1)
        assert (r["reward"] > 0) == (r["answer"] is not None and r["answer"] == r["label"])
        assert r["finish_reason"] in ("stop", "length")
        assert 0 < r["num_tokens"] <= 64
    metrics = rows(six[0])[1]
    for view in ("solver", "reframer"):
        mean = sum(r["reward"] for r in got if r["view"] == view) / 16
        assert metrics[f"reward/{view}/mean"] == pytest.approx(mean)


def test_the_summary_has_the_keys_of_the_contract(six: tuple[Path, dict[str, Any]]) -> None:
    run_dir, summary = six
    wanted = {"run_dir", "mlflow_run_id", "steps", "eval_before", "eval_after", "pseudo_label_accuracy", "wall_seconds"}
    assert wanted <= set(summary)
    assert (summary["run_dir"], summary["steps"]) == (str(run_dir.resolve()), 6)
    assert json.loads((run_dir / "summary.json").read_text()) == summary
    got = rows(run_dir)
    assert summary["eval_after"] == {k: v for k, v in got[-1].items() if k.startswith("eval/")}
    assert set(summary["eval_before"]) == set(summary["eval_after"])
    labels = [row["consensus/label_accuracy"] for row in got]
    assert summary["pseudo_label_accuracy"] == pytest.approx(sum(labels) / 6)


def test_training_changes_the_model_and_transformers_loads_it(six: tuple[Path, dict[str, Any]]) -> None:
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run_dir, _ = six
    assert weights(run_dir / "model") != weights(MODEL_DIR)
    model = AutoModelForCausalLM.from_pretrained(run_dir / "model")
    tokenizer = AutoTokenizer.from_pretrained(run_dir / "model")
    ids = tokenizer("SOLVE: 52-37\n", return_tensors="pt", add_special_tokens=False)["input_ids"]
    out = model.generate(ids, max_new_tokens=64, do_sample=False)
    assert "boxed" in tokenizer.decode(out[0, ids.shape[1] :])
    moments = load_file(run_dir / "checkpoints" / "step-000006" / "optimizer.safetensors")
    assert {name.split("/")[0] for name in moments} == {"exp_avg", "exp_avg_sq"}
    assert weights(run_dir / "checkpoints" / "step-000006" / "model") == weights(run_dir / "model")


@pytest.mark.parametrize("exported", [False, True])
def test_evaluating_the_saved_model_repeats_the_last_evaluation(
    six: tuple[Path, dict[str, Any]], tmp_path: Path, exported: bool
) -> None:
    run_dir, summary = six
    model = str(run_dir / "model")
    if exported:
        model = run_export(ExportRequest(run_dir, tmp_path / "out"))["out"]
    config = load_eval_config(find_eval_config(model, None), model, "quickstart")
    result = run_evaluation(config, None)
    assert result["metrics"] == summary["eval_after"]
    assert (result["avg_at_k"], result["num_problems"]) == (summary["eval_after"]["eval/solver/avg_at_k"], 8)
    other = run_evaluation(config, "reframer")
    assert other["avg_at_k"] == summary["eval_after"]["eval/reframer/avg_at_k"]
    assert other["harmonic_at_k"] == summary["eval_after"]["eval/harmonic_at_k"]


def test_a_run_with_one_view_evaluates_with_its_own_views(folder: Path) -> None:
    """The saved config is the whole truth: the views that the base file has must not come back."""
    summary = small_run(folder / "one-view", "steps=1", "views.solver.num_samples=8", config="quickstart-majority")
    model = str(folder / "one-view" / "model")
    config = load_eval_config(find_eval_config(model, None), model, "quickstart")
    assert list(config.views) == ["solver"]
    assert run_evaluation(config, None)["metrics"] == summary["eval_after"]


def test_two_runs_of_one_config_are_the_same_and_another_seed_is_not(folder: Path, six: tuple[Path, dict[str, Any]]) -> None:
    small_run(folder / "again", *SIX)
    assert_same_run(folder / "again", six[0])
    small_run(folder / "other", *SIX, "seed=1")
    assert steady(folder / "other") != steady(six[0])


def test_evaluation_does_not_disturb_training(folder: Path, six: tuple[Path, dict[str, Any]]) -> None:
    small_run(folder / "no-eval", "steps=6", "eval.every=0", "checkpoint.every=10", "eval.num_samples=1")
    assert weights(folder / "no-eval" / "model") == weights(six[0] / "model")


def test_closing_ends_a_thread_that_samples(tmp_path: Path) -> None:
    """As after a second Ctrl-C with `rollout.lag: 1`."""
    config = load_config("quickstart", ["runtime.type=in_process", "rollout.engine.max_batch_rows=16"])
    views = build.make_views(config)
    asks, problems = build.make_asks(config, views), build.load_problems(config)[0]
    ended: list[BaseException] = []
    with build.open_runtime(config, views, learn=False) as (runtime, _):
        stream = runtime.sample(asks, problems, 0, (1,))
        first = next(stream)

        def go_on() -> None:
            try:
                list(stream)
            except RunError as e:
                ended.append(e)

        thread = threading.Thread(target=go_on)
        thread.start()
        runtime.close()
        thread.join(20)
    assert isinstance(first, ProblemRollouts)
    assert [str(e) for e in ended] == ["the run has ended"]
