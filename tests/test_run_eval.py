"""The standalone evaluation on real models: what it returns, shows and leaves behind; the quickstart's and any other."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from run_helpers import quickstart_rows, small_run, write_rows

from harmonyray.cli import main
from harmonyray.config import load_config
from harmonyray.console import Reporter
from harmonyray.errors import ConfigError, ProblemError
from harmonyray.eval_report import progress_bar
from harmonyray.problems.quickstart import QuickstartSource
from harmonyray.run_eval import evaluation_overrides, find_eval_config, run_evaluation
from harmonyray.types import GoldAnswer

GSM8K = Path(__file__).resolve().parents[2] / "shared" / "data" / "bench" / "gsm8k_test.jsonl"
LOCAL = ["runtime.type=in_process"]
EIGHT = [*LOCAL, "problems.limit=8"]


def evaluate(*overrides: str, samples: int = 4, out: Path | None = None, model: str = "quickstart") -> dict[str, Any]:
    config = load_config(find_eval_config(model, None), [*evaluation_overrides(model, "quickstart", samples), *EIGHT, *overrides])
    return run_evaluation(config, out=out)


def steady(result: dict[str, Any]) -> dict[str, Any]:
    """A result without what differs between two equal evaluations."""
    return {k: v for k, v in result.items() if k not in ("wall_seconds", "out", "mlflow_run_id")}


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
    assert sorted(p.name for p in out.iterdir()) == ["eval.json", "eval.parquet"]
    written = json.loads((out / "eval.json").read_text())
    assert {k: v for k, v in written.items() if k not in ("settings", "versions")} == printed
    assert (written["settings"]["eval"]["num_samples"], written["settings"]["model"]["path"]) == (4, "quickstart")
    assert set(written["versions"]) == {"python", "harmonyray", "torch", "transformers", "numpy"}
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
    config = load_config(find_eval_config(model, None), evaluation_overrides(model, "quickstart", None))
    result = run_evaluation(config)
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


# --- mistakes ------------------------------------------------------------------------------------------------------------------


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


def test_an_unknown_view_is_told_before_anything_is_loaded() -> None:
    config = load_config("quickstart", evaluation_overrides("quickstart", "quickstart", None))
    with pytest.raises(ConfigError, match=r"--view 'reframe' is not a view .*did you mean 'reframer'\?"):
        run_evaluation(config, "reframe")


# --- any model -----------------------------------------------------------------------------------------------------------------

QUESTIONS = [
    {"id": "q0", "question": "Tom has 3 apples and buys 4 more. How many apples has he?", "answer": "7"},
    {"id": "q1", "question": "A box holds 12 eggs. How many eggs do 5 boxes hold?", "answer": "60"},
    {"id": "q2", "question": "Ann read 30 of 100 pages. How many are left?", "answer": "70"},
]
CHAT = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of random weights with a byte-level tokenizer and a chat template."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<|end|>", "<|user|>", "<|assistant|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator([], trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>")
    fast.chat_template = CHAT
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        eos_token_id=fast.eos_token_id,
    )
    folder = tmp_path_factory.mktemp("llama")
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("chat", ["true", "false"])
def test_another_model_and_a_file_of_questions(llama: Path, tmp_path: Path, chat: str, capsys: Any) -> None:
    """Nothing of it is ours: base's views and sampling, a random model, words for questions. It is wrong, and says so."""
    problems = GSM8K if GSM8K.exists() else write_rows(tmp_path / "questions.jsonl", QUESTIONS)
    short = [
        "rollout.max_response_tokens=12",
        "rollout.max_prompt_tokens=2048",
        "problems.limit=3",
        "views.solver.max_response_tokens=5",
    ]
    chats = [f"views.{view}.chat={chat}" for view in ("solver", "reframer")]
    arguments = ["eval", "--model", str(llama), "--problems", str(problems), "--samples", "2", *LOCAL, *short, *chats]
    assert main([*arguments, "--out", str(tmp_path / "out"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["num_problems"], result["num_skipped"], result["greedy"]) == (3, 0, 0)
    rows = pq.read_table(tmp_path / "out" / "eval.parquet").to_pylist()
    assert len(rows) == 3 * 2 * 3
    longest = {view: max(r["num_tokens"] for r in rows if r["view"] == view) for view in ("solver", "reframer")}
    assert longest == {"solver": 5, "reframer": 12}
    assert any(r["response"] for r in rows)


def test_a_known_data_set_goes_by_its_name_and_is_taken_whole() -> None:
    config = load_config("quickstart", evaluation_overrides("quickstart", "math500", None))
    assert (config.problems.type, config.problems.options.name, config.problems.options.only) == ("hub", "math500", None)
    narrow = ["problems={type: file, path: x.jsonl, only: {level: 5}, holdout: 0.5, limit: 3}"]
    other = load_config("quickstart", [*narrow, *evaluation_overrides("quickstart", "y.jsonl", None)]).problems
    assert (other.options.path, other.options.only, other.options.limit, other.holdout) == ("y.jsonl", None, None, 0)
