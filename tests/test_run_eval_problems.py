"""The standalone evaluation of any model on any problems: a random model, and what of a config's own problems is kept."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from eval_helpers import LOCAL
from run_helpers import SMALL, small_run, write_rows

from harmonyray.cli import main
from harmonyray.config import load_config
from harmonyray.console import Reporter
from harmonyray.errors import ConfigError
from harmonyray.problems.quickstart import QuickstartSource
from harmonyray.registry import PluginOptions
from harmonyray.run import run_training
from harmonyray.run_eval import load_eval_config
from harmonyray.tracking import read_metrics

GSM8K = Path(__file__).resolve().parents[2] / "shared" / "data" / "bench" / "gsm8k_test.jsonl"

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


# --- whose problems ------------------------------------------------------------------------------------------------------------

HUB = """
problems:
  type: hub
  name: math500
  dataset: mine/math
  config: hard
  split: train
  revision: abc
  question_column: ask
  answer_column: reply
  category_column: subject
  only: {level: 5}
  limit: 3
  holdout: 0.5
"""
FILE = """
problems:
  type: file
  path: a.jsonl
  gold_path: a.gold.jsonl
  question_column: ask
  answer_after: "####"
  kind: choice
  only: {level: 5}
  limit: 3
  holdout: 0.5
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in (("hub", HUB), ("file", FILE)):
        (tmp_path / f"{name}.yaml").write_text(f"extends: quickstart\n{text}")
    for name in ("a", "b"):
        write_rows(tmp_path / f"{name}.jsonl", [{"question": "1+1?", "answer": "2"}])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def problems_of(config: str, name: str, *overrides: str) -> dict[str, Any]:
    return load_eval_config(config, "quickstart", name, None, overrides).to_container()["problems"]


@pytest.mark.parametrize("config", ["hub.yaml", "file.yaml", "quickstart", "base"])
@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("gsm8k", {"type": "hub", "name": "gsm8k"}),
        ("math500", {"type": "hub", "name": "math500"}),  # also where the config has it: its split is another
        ("b.jsonl", {"type": "file", "path": "b.jsonl"}),
    ],
)
def test_of_other_problems_nothing_is_inherited(folder: Path, config: str, name: str, named: dict[str, str]) -> None:
    alone = {**load_config("quickstart", [f"problems.{k}={v}" for k, v in named.items()]).to_container()["problems"]}
    assert problems_of(config, name) == alone
    assert [alone[key] for key in ("limit", "only", "question_column", "answer_after")] == [None] * 4


def test_overrides_are_of_the_problems_that_are_named(folder: Path) -> None:
    """Merged with the config's own, `only` would hold the level too."""
    got = problems_of("hub.yaml", "math500", "problems.only.subject=Algebra", "problems.limit=2", "steps=7")
    assert (got["only"], got["limit"], got["split"], got["holdout"]) == ({"subject": "Algebra"}, 2, None, 0.0)
    assert problems_of("file.yaml", "b.jsonl", "problems={only: {subject: x}}")["only"] == {"subject": "x"}
    with pytest.raises(ConfigError, match=r"unknown option 'problems\.splt': did you mean 'split'\?"):
        problems_of("hub.yaml", "gsm8k", "problems.splt=test")
    with pytest.raises(ConfigError, match=r"'problems\.split' is not of the form key=value"):
        problems_of("hub.yaml", "gsm8k", "problems.split")
    with pytest.raises(ConfigError, match="cannot be read"):
        problems_of("hub.yaml", "gsm8k", "problems.only={")
    for nonsense in ("problems=[1]", "problems.limit=${nowhere}"):
        with pytest.raises(ConfigError, match="cannot be used"):
            problems_of("hub.yaml", "gsm8k", nonsense)
    with pytest.raises(ConfigError, match="'problems' must be a mapping"):
        problems_of("hub.yaml", "gsm8k", "problems=5")
    assert problems_of("hub.yaml", "b.jsonl", "problems.answer_after=####")["answer_after"] == "####"


class Subtractions(QuickstartSource):
    """Has options of the file source's names, which must be given."""

    class Options(PluginOptions):
        path: str
        limit: int = 2


def test_another_type_takes_nothing_either(folder: Path) -> None:
    assert problems_of("file.yaml", "quickstart") == {"type": "quickstart", "limit": None, "holdout": 0.0}
    with pytest.raises(ConfigError, match=r"missing option 'problems\.path'"):
        problems_of("file.yaml", f"{__name__}:Subtractions")
    got = problems_of("file.yaml", f"{__name__}:Subtractions", "problems.path=x")
    assert got == {"type": f"{__name__}:Subtractions", "path": "x", "limit": 2, "holdout": 0.0}


@pytest.mark.parametrize(("config", "name"), [("file.yaml", "a.jsonl"), ("file.yaml", "../{}/a.jsonl"), ("hub.yaml", "hub")])
def test_the_configs_own_problems_are_taken_as_it_says(folder: Path, config: str, name: str) -> None:
    own = load_config(config).to_container()["problems"]
    assert problems_of(config, name.format(folder.name)) == own
    assert (own["limit"], own["only"], own["holdout"], own["question_column"]) == (3, {"level": 5}, 0.5, "ask")
    assert problems_of(config, name.format(folder.name), "problems.limit=1")["limit"] == 1


def test_a_name_that_is_nothing_is_told_at_once(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such file: c\.jsonl .*did you mean '[ab]\.jsonl' or '[ab]\.jsonl'"):
        problems_of("quickstart", "c.jsonl")


def printed_command(run_dir: Path) -> list[str]:
    (line,) = [line for line in (run_dir / "summary.txt").read_text().splitlines() if " eval --model " in line]
    return shlex.split(line)[1:]


def repeated(run_dir: Path) -> tuple[dict[str, float], dict[str, float]]:
    """The figures of a run's last evaluation, and those of the command that it prints for it."""
    done = subprocess.run(
        [sys.executable, "-m", "harmonyray", *printed_command(run_dir), "--json"], capture_output=True, text=True, check=True
    )
    last = {k: v for k, v in read_metrics(run_dir)[-1].items() if k.startswith(("eval/", "holdout/"))}
    return last, json.loads(done.stdout.splitlines()[-1])["metrics"]


def test_the_printed_command_repeats_the_evaluation_of_prepared_files(folder: Path) -> None:
    """Gold answers in a file of their own, rows left out, a limit, a held-out part, and a space in every path."""
    assert main(["data", "prepare", "quickstart", "--limit", "20", "--out", "my problems.jsonl"]) == 0
    rows = "limit: 8, holdout: 0.25, only: {category: borrow}"
    own = f"{{type: file, path: my problems.jsonl, gold_path: my problems.gold.jsonl, {rows}}}"
    small = [*(o for o in SMALL if "problems.limit" not in o), "steps=1", f"problems={own}"]
    run_training(load_config("quickstart", small), Path("my run"), resume=False, reporter=Reporter(quiet=True))
    assert printed_command(Path("my run"))[-2:] == ["--problems", "my problems.jsonl"]
    last, again = repeated(Path("my run"))
    assert (last["eval/num_problems"], last["holdout/num_problems"]) == (6, 2)
    assert again == last


class Twins(QuickstartSource):
    """A source of the user's own with an option called `path`, which is no problem file."""

    class Options(QuickstartSource.Options):
        path: str = "a.jsonl"


def test_the_printed_command_repeats_an_own_sources_evaluation(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    small_run(Path("run"), "steps=1", "problems.limit=4", f"problems.type={__name__}:Twins")
    last, again = repeated(Path("run"))
    assert again == last
    assert last["eval/num_problems"] == 4
