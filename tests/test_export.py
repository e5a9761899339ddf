"""`harmonyray export`: what transformers and vLLM load is the checkpoint's model, and the card says what the run recorded."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from run_helpers import rows, small_run, weights
from test_vllm_export import serve_with_vllm

from harmonyray.cli import main
from harmonyray.config import load_config
from harmonyray.engines.hf import HfEngine
from harmonyray.problems.quickstart import QuickstartSource
from harmonyray.types import Prompt, SampleRequest, Sampling

MODEL_FILES = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
FILES = {"README.md", "config.yaml", *MODEL_FILES}
BEST = "eval/solver/avg_at_k"


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints of steps 1, 2 and 3, all evaluated, and a copy of each step's weights."""
    path = tmp_path_factory.mktemp("export") / "run"
    small_run(path, "steps=3", "eval.every=1", "checkpoint.every=1", "checkpoint.keep=3", f"checkpoint.best={BEST}")
    return path


def exported(capsys: Any, *arguments: object) -> dict[str, Any]:
    assert main(["export", *map(str, arguments), "--json"]) == 0
    summary: dict[str, Any] = json.loads(capsys.readouterr().out)
    return summary


def test_the_newest_is_exported_whole(run_dir: Path, tmp_path: Path, capsys: Any) -> None:
    summary = exported(capsys, run_dir, "--out", tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} == FILES
    assert weights(tmp_path / "out") == weights(run_dir / "model")
    assert summary == {
        "out": str(tmp_path / "out"),
        "checkpoint": str(run_dir / "checkpoints" / "step-000003"),
        "step": 3,
        "policy_version": 3,
        "base_model": "quickstart",
        "files": {name: (tmp_path / "out" / name).stat().st_size for name in sorted(FILES)},
    }
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_step_the_best_and_a_checkpoint_itself(run_dir: Path, tmp_path: Path, capsys: Any) -> None:
    checkpoints = run_dir / "checkpoints"
    accuracy = {row["step"]: row[BEST] for row in rows(run_dir)}
    best = max(accuracy, key=lambda step: (accuracy[step], -step))
    for name, arguments, step in (("two", (run_dir, "--step", 2), 2), ("best", (run_dir, "--best"), best)):
        assert exported(capsys, *arguments, "--out", tmp_path / name)["step"] == step
        assert weights(tmp_path / name) == weights(checkpoints / f"step-{step:06d}" / "model")
    shutil.copytree(checkpoints / "step-000001", tmp_path / "moved")
    (tmp_path / "one").mkdir()  # an empty directory is as good as none
    assert exported(capsys, tmp_path / "moved", "--out", tmp_path / "one")["step"] == 1
    assert weights(tmp_path / "one") == weights(checkpoints / "step-000001" / "model")
    assert len({weights(tmp_path / name) for name in ("one", "two")}) == 2


def test_the_card_says_what_was_recorded(run_dir: Path, tmp_path: Path, capsys: Any) -> None:
    assert main(["export", str(run_dir), "--step", "2", "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.startswith(
        f"step 2 of {run_dir}/checkpoints/step-000002\n-> {tmp_path}/out: 1.2 MiB, README.md"
    )
    card = (tmp_path / "out" / "README.md").read_text()
    assert yaml.safe_load(card.split("---\n")[1]) == {"library_name": "transformers", "pipeline_tag": "text-generation"}
    for line in (
        "| base model | quickstart |",
        "| steps | 2 of 3 |",
        "| policy updates | 2 |",
        "| views | solver (solver, 4 samples), reframer (reframer, 4 samples) |",
        "| seed | 0 |",
    ):
        assert line in card.splitlines()
    assert "method | {type: self_harmony, selector: {type: harmonic, min_score: 0.15}" in card
    row = rows(run_dir)[1]
    low, high = row["eval/solver/greedy_low"], row["eval/solver/greedy_high"]
    assert f"| {row['eval/solver/greedy']:.3f} ({low:.3f} to {high:.3f}) |\n" in card
    assert "on the problems that it adapts to (eval); in brackets" in card


def test_a_step_that_was_not_evaluated_shows_no_figures(tmp_path: Path, capsys: Any) -> None:
    small_run(tmp_path / "run", "steps=2", "eval.every=0", "checkpoint.every=1")
    exported(capsys, tmp_path / "run", "--step", 1, "--out", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.endswith("## Evaluation\n\nThe run did not evaluate this step.\n")


def test_what_best_may_be_is_what_an_evaluation_measures(run_dir: Path) -> None:
    measured = {name.removesuffix("_low") for name in rows(run_dir)[0] if name.endswith("_low")}
    allowed = {name for name in measured if not name.endswith(("pass_at_1", "pass_at_2"))}
    for name in allowed:
        assert load_config("quickstart", [f"checkpoint.best={name}"]).checkpoint.best == name
    assert len(allowed) == 10  # four of each view, two over all


MISTAKES = [
    (["nowhere"], "no such directory: 'nowhere'"),
    (["."], "is neither a run directory (it has no config.yaml) nor a checkpoint"),
    (["run", "--step", "7"], "'run' has no checkpoint of step 7; there are 1, 2, 3"),
    (["run/checkpoints/step-000001", "--step", "1"], "--step and --best choose among a run's checkpoints"),
    (["run/checkpoints/step-000001", "--best"], "--step and --best choose among a run's checkpoints"),
    (["run", "--out", "full"], "already exists and is not empty: give another directory"),
    (["run", "--out", "file"], "'/.*file' is a file"),
    (["run", "--out", "file/below"], "--out: '/.*file/below' cannot be written"),
    (["empty"], "'empty' has no checkpoints yet"),
    (["no-best", "--best"], "--best: the run 'no-best' kept no best checkpoint (checkpoint.best is null): leave --best out"),
    (["unevaluated", "--best"], "--best: no checkpoint of 'unevaluated' has an evaluation with eval/solver/avg_at_k yet"),
]


@pytest.fixture(scope="module")
def folder(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mistakes")
    shutil.copytree(run_dir, folder / "run")
    (folder / "full").mkdir()
    (folder / "full" / "thesis.tex").write_text("precious")
    (folder / "file").write_text("precious")
    for name, best in (("empty", "null"), ("no-best", "null"), ("unevaluated", BEST)):
        (folder / name).mkdir()
        (folder / name / "config.yaml").write_text(f"checkpoint: {{best: {best}}}\n")
        if name != "empty":
            (folder / name / "checkpoints" / "step-000001").mkdir(parents=True)
            (folder / name / "checkpoints" / "step-000001" / "state.json").write_text('{"eval": {}}')
    return folder


@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_a_mistake_is_one_clear_message(
    folder: Path, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    out = [] if "--out" in arguments else ["--out", "new"]
    assert main(["export", *arguments, *out, "--json"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert message.replace("/.*", f"{folder}/") in line
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "named"), [("model/model.safetensors", "was altered"), ("optimizer.safetensors", "has 100 bytes")]
)
def test_an_altered_checkpoint_is_not_exported(folder: Path, tmp_path: Path, name: str, named: str, capsys: Any) -> None:
    damaged = tmp_path / "run"
    shutil.copytree(folder / "run", damaged)
    path = damaged / "checkpoints" / "step-000003" / name
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if named == "was altered" else content[:100])
    assert main(["export", str(damaged), "--out", str(tmp_path / "out")]) == 1
    assert f"step-000003' is refused: '{name}' {named}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert exported(capsys, damaged, "--step", 2, "--out", tmp_path / "out")["step"] == 2


PROMPTS = [f"SOLVE: {p.text}\n" for p in QuickstartSource(QuickstartSource.Options(limit=12)).problems()]


def greedy(model: Path) -> list[Any]:
    asked = [
        SampleRequest(Prompt(str(i), "solver", text=text), (i,), Sampling(48, temperature=0)) for i, text in enumerate(PROMPTS)
    ]
    return [group[0] for group in HfEngine(HfEngine.Options(), model=str(model)).sample(asked, 0)]


def test_transformers_loads_it_and_writes_the_same(run_dir: Path, tmp_path: Path, capsys: Any) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    exported(capsys, run_dir, "--out", tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id is not None
    for text, ours in zip(PROMPTS[:3], greedy(run_dir / "model"), strict=False):
        asked = tokenizer(text, return_tensors="pt", add_special_tokens=False)
        said = model.generate(**asked, do_sample=False, max_new_tokens=48)[0, asked["input_ids"].shape[1] :]
        assert said.tolist() == list(map(int, ours.token_ids))


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="no vLLM build is installed (`make test` installs one)")
def test_vllm_serves_it(run_dir: Path, tmp_path: Path, capsys: Any) -> None:
    exported(capsys, run_dir, "--out", tmp_path / "out")
    ours, theirs = greedy(run_dir / "model"), serve_with_vllm(tmp_path / "out", PROMPTS)
    assert [list(map(int, r.token_ids)) for r in ours] == [row["ids"] for row in theirs]
    gap = max(np.abs(r.logprobs - np.array(row["logprobs"])).max() for r, row in zip(ours, theirs, strict=True))
    assert gap < 1e-4
