"""Whole runs in more views than two: of each kind, asked twice, of another model, from the data, audited."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from run_helpers import rows, samples, small_run, steady, weights, write_rows
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from harmonyray import build
from harmonyray.config import load_config
from harmonyray.console import Reporter
from harmonyray.errors import ConfigError, ModelError, ProblemError
from harmonyray.problems.quickstart import MODEL_DIR
from harmonyray.run import run_training

VIEWS = ["solver", "reframer", "count_up", "shift", "split", "shifted", "staged", "cooler"]
STAGED = (
    'views.reframer={type: staged_reframer, num_samples: 4, samples_per_draft: 2, draft_template: "REFRAME: {question}\\n",'
    "draft_stop: ['SOLUTION: '], solve_template: \"REFRAME: {question}\\n{draft}SOLUTION: \"}"
)


@pytest.fixture(scope="module")
def eight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps in the eight views of configs/quickstart-views.yaml."""
    run_dir = tmp_path_factory.mktemp("eight") / "run"
    cut = [f"views.{name}.num_samples=4" for name in VIEWS]
    small = ["runtime.type=in_process", "problems.limit=8", "rollout.problems_per_step=4", "eval.num_samples=2", "eval.every=0"]
    small += ["views.staged.samples_per_draft=2"]
    config = load_config("quickstart-views", [*small, *cut, "steps=2", "method.selector.smoothing=0.1"])
    run_training(config, run_dir, False, Reporter(quiet=True))
    return run_dir


def test_eight_views_vote_and_are_trained(eight: Path) -> None:
    steps = rows(eight)
    assert [row["step"] for row in steps] == [1, 2]
    assert {key.split("/")[1] for key in steps[0] if key.startswith("rollout/") and key.count("/") == 2} == set(VIEWS)
    assert all(row["consensus/coverage"] > 0 and row["train/skipped"] == 0 for row in steps)
    # 4 samples of 8 views and 2 drafts of the staged one, for each labelled problem
    assert {row["train/num_rows"] % 34 for row in steps} == {0}
    assert {row["view"] for row in samples(eight)} == set(VIEWS)


def test_a_strategy_view_begins_as_told(eight: Path) -> None:
    strategies = {view: {r["strategy"] for r in samples(eight) if r["view"] == view} for view in ("count_up", "shift", "split")}
    assert strategies == {"count_up": {"count up"}, "shift": {"shift"}, "split": {"split"}}


def test_the_rewording_of_the_data_is_what_a_static_view_asks(tmp_path: Path) -> None:
    """Every question comes with a rewording that has another answer: the static view gives that one."""
    pairs = enumerate([(58, 23), (67, 34), (79, 41)])
    asked = [{"id": str(i), "question": f"{a}-{b}", "other": f"{a + 10}-{b}"} for i, (a, b) in pairs]
    file = write_rows(tmp_path / "asked.jsonl", asked)
    view = 'views.reframer={type: static, column: other, template: "SOLVE: {question}\\n", num_samples: 16}'
    problems = f"problems={{type: file, path: {file}, kind: number, rewording_columns: [other], limit: null}}"
    small_run(tmp_path / "run", problems, view, "views.solver.num_samples=16", "steps=1", "eval.every=0")
    for row in asked:
        own = [r for r in samples(tmp_path / "run") if r["problem_id"] == row["id"]]
        common = {v: Counter(r["answer"] for r in own if r["view"] == v).most_common(1)[0][0] for v in ("solver", "reframer")}
        assert common == {"solver": str(eval(row["question"])), "reframer": str(eval(row["other"]))}


def test_a_staged_view_solves_each_draft_twice_and_trains_both_calls(tmp_path: Path) -> None:
    small_run(tmp_path / "run", STAGED, "steps=2", "eval.every=0")
    staged = [r for r in samples(tmp_path / "run") if r["view"] == "reframer"]
    assert len(staged) == 2 * 4 * 4
    assert not any("SOLUTION" in r["draft"] for r in staged)
    assert sum(r["draft"].startswith("STRATEGY: ") for r in staged) > 28
    pairs = zip(staged[::2], staged[1::2], strict=True)
    assert all(a["draft"] == b["draft"] for a, b in pairs)
    assert len({r["draft"] for r in staged}) > 8
    steps = rows(tmp_path / "run")
    assert all(row["rollout/reframer/draft_length"] > 3 for row in steps)
    # 4 solver samples, 4 solutions and 2 drafts of each labelled problem
    assert [row["train/num_rows"] for row in steps] == [10 * 4 * row["consensus/coverage"] for row in steps]


def test_drafts_are_trained_at_the_temperature_they_were_sampled_at(tmp_path: Path) -> None:
    small_run(tmp_path / "run", STAGED, "views.reframer.temperature=0.5", "steps=1", "eval.every=0")
    assert rows(tmp_path / "run")[0]["train/engine_gap_max"] < 1e-4


def test_one_draft_a_problem_has_nothing_to_be_compared_with(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'views.reframer' asks for 4 samples, 4 of each draft: .* set num_samples above 4"):
        small_run(tmp_path / "run", STAGED, "views.reframer.samples_per_draft=4", "steps=1")
    assert not (tmp_path / "run").exists()


def test_a_staged_run_goes_on_as_if_uninterrupted(tmp_path: Path) -> None:
    options = (STAGED, "steps=4", "checkpoint.every=2", "eval.every=0")
    small_run(tmp_path / "whole", *options)
    small_run(tmp_path / "parts", *options)
    shutil.rmtree(tmp_path / "parts" / "model")
    shutil.rmtree(tmp_path / "parts" / "checkpoints" / "step-000004")
    small_run(tmp_path / "parts", *options, resume=True)
    assert steady(tmp_path / "parts") == steady(tmp_path / "whole")
    assert weights(tmp_path / "parts" / "model") == weights(tmp_path / "whole" / "model")


def test_a_view_of_another_model_votes_and_stays_as_it_is(tmp_path: Path) -> None:
    """The reframer is a frozen copy of the model at the start, so its greedy answers never change; the solver's do."""
    frozen = tmp_path / "frozen"
    shutil.copytree(MODEL_DIR, frozen)
    before = weights(frozen)
    small_run(tmp_path / "run", f"views.reframer.model={frozen}", "steps=4", "eval.every=1", "learner.lr=3e-3")
    steps = rows(tmp_path / "run")
    assert len({row["eval/reframer/greedy"] for row in steps}) == 1
    assert len({row["eval/reframer/avg_at_k"] for row in steps}) == 1
    assert len({row["eval/solver/avg_at_k"] for row in steps}) > 1
    assert all(row["train/num_rows"] <= 16 for row in steps)  # 4 problems of 4 solver samples
    assert {r["policy_version"] for r in samples(tmp_path / "run") if r["view"] == "reframer"} == {0}
    assert {r["policy_version"] for r in samples(tmp_path / "run") if r["view"] == "solver"} > {0}
    assert weights(frozen) == before


def test_a_frozen_model_may_be_of_another_family(tmp_path: Path) -> None:
    """A random Llama with a vocabulary of its own beside the Qwen3 in training."""
    other = save_llama(tmp_path / "llama")
    small_run(tmp_path / "run", f"views.reframer.model={other}", "steps=2", "eval.every=0", "method.selector=majority")
    frozen = [r for r in samples(tmp_path / "run") if r["view"] == "reframer"]
    assert {r["policy_version"] for r in frozen} == {0}
    assert any(set(r["response"]) & set("xyz") for r in frozen)  # letters that the trained model does not know
    assert rows(tmp_path / "run")[-1]["policy_version"] > 0


def save_llama(directory: Path) -> Path:
    words = {word: i for i, word in enumerate(["<pad>", "<eos>", *"0123456789-+=xyz:?SOLVERFAM"])}
    core = Tokenizer(models.WordLevel(words, unk_token="?"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", pad_token="<pad>", unk_token="?").save_pretrained(directory)
    torch.manual_seed(0)
    size = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(words), pad_token_id=0, eos_token_id=1, bos_token_id=None, **size)
    LlamaForCausalLM(config).save_pretrained(directory)
    return directory


@pytest.mark.parametrize("mistake", ["/nonexistent/m", "."])
def test_a_frozen_model_that_is_none_is_named_before_anything_starts(tmp_path: Path, mistake: str) -> None:
    with pytest.raises(ModelError, match="model directory"):
        small_run(tmp_path / "run", f"views.reframer.model={mistake}", "steps=1")
    assert not (tmp_path / "run").exists()


def test_a_view_may_be_sampled_in_its_own_way(tmp_path: Path) -> None:
    small_run(tmp_path / "run", "views.reframer.max_response_tokens=5", "views.solver.stop=['=']", "steps=1", "eval.every=0")
    taken: dict[str, list[dict[str, Any]]] = {"solver": [], "reframer": []}
    for r in samples(tmp_path / "run"):
        taken[r["view"]].append(r)
    assert {r["num_tokens"] for r in taken["reframer"]} == {5}
    assert not any("=" in r["response"] for r in taken["solver"])


def test_held_out_problems_are_evaluated_and_never_trained_on(tmp_path: Path) -> None:
    small_run(tmp_path / "run", "problems.limit=16", "problems.holdout=0.25", "steps=8")
    seen = {r["problem_id"] for r in samples(tmp_path / "run")}
    last = rows(tmp_path / "run")[-1]
    assert len(seen) == 12
    assert {"eval/solver/avg_at_k", "holdout/solver/avg_at_k", "holdout/harmonic_at_k"} <= set(last)
    assert (last["eval/num_problems"], last["holdout/num_problems"]) == (12, 4)
    assert "held out" in (tmp_path / "run" / "summary.txt").read_text()


def test_what_is_held_out_does_not_depend_on_what_fits() -> None:
    config = load_config("quickstart", ["problems.holdout=0.25", "rollout.max_prompt_tokens=5"])
    problems, _ = build.load_problems(config)

    class Counts:
        def count_tokens(self, views: Any, problems: Any) -> dict[str, list[int]]:
            return {view.name: [9 if int(p.id[-1]) % 2 else 5 for p in problems] for view in views}

    whole = build.split_parts(config, problems)
    parts, skipped = build.fitting_parts(config, problems, build.make_views(config), Counts())
    assert 0 < len(skipped) < len(problems)
    for name, part in whole.items():
        assert [p.id for p in part if p.id not in skipped] == [p.id for p in parts[name]]


def test_a_degenerate_view_is_named_and_loses_weight(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A reframer that is cut off before it answers: its vote would make the harmonic mean abstain everywhere."""
    cut = ("views.reframer.max_response_tokens=2", "steps=1", "eval.every=0")
    small_run(tmp_path / "reported", *cut, reporter=Reporter())
    told = capsys.readouterr().err
    assert "view 'reframer' looks degenerate: answered 0 is below audit.min_answered 0.25" in " ".join(told.split())
    down = ("audit={action: down_weight, weight: 0}",)
    small_run(tmp_path / "lowered", *cut, *down)
    (reported,), (lowered,) = rows(tmp_path / "reported"), rows(tmp_path / "lowered")
    assert reported["audit/reframer/degenerate"] == lowered["audit/reframer/degenerate"] == 1
    assert (reported["audit/solver/degenerate"], reported["consensus/coverage"]) == (0, 0)
    assert lowered["consensus/coverage"] == 1  # the solver alone decides
    assert (lowered["audit/solver/weight"], lowered["audit/reframer/weight"]) == (1, 0)


def test_views_that_ask_the_same_are_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    same = 'views.reframer={type: solver, template: "SOLVE: {question}\\n", num_samples: 4}'
    small_run(tmp_path / "run", same, "steps=1", "eval.every=0", reporter=Reporter())
    assert "views 'solver' and 'reframer' ask the same model with the same prompts" in " ".join(capsys.readouterr().err.split())


def test_a_cooler_view_is_trained_at_its_own_temperature(tmp_path: Path) -> None:
    """The engine's log-probs and the learner's are at the same temperature: the gap between them is rounding."""
    small_run(tmp_path / "run", "views.reframer.temperature=0.5", "steps=1", "eval.every=0")
    (row,) = rows(tmp_path / "run")
    assert row["train/engine_gap_max"] < 1e-4
    assert np.isfinite(row["train/loss"])


def test_a_run_that_never_began_leaves_no_directory(tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match=r"longer than rollout\.max_prompt_tokens"):
        small_run(tmp_path / "run", "rollout.max_prompt_tokens=1", "steps=1")
    assert not (tmp_path / "run").exists()
