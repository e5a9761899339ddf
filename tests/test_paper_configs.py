"""The configs of the published table: what each asks for, who would sit where, and two steps of each with a tiny model.

The models are random Qwen3 and Llama weights with a tokenizer made here, the problems four rows of our own in the columns of the
hub's data set; everything between is the real thing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from run_helpers import rows, samples, weights
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast, Qwen3Config

from harmonyray import config_files
from harmonyray.actors.placement import Node, assign, seats
from harmonyray.build import make_views, plan
from harmonyray.config import Config, load_config
from harmonyray.console import Reporter
from harmonyray.problems.presets import PRESETS
from harmonyray.run import run_training
from harmonyray.types import Problem

ROOT = Path(config_files.__file__).parent.parent
PAPER = ROOT / "configs" / "paper"

MODELS = {  # piece: (what the paper calls it, hub id, asked by chat template)
    "qwen3-1.7b-base": ("Qwen3-1.7B-Base", "Qwen/Qwen3-1.7B-Base", False),
    "qwen3-4b-base": ("Qwen3-4B-Base", "Qwen/Qwen3-4B-Base", False),
    "qwen3-8b-base": ("Qwen3-8B-Base", "Qwen/Qwen3-8B-Base", False),
    "llama-3.2-3b-instruct": ("Llama-3.2-3B-Instruct", "meta-llama/Llama-3.2-3B-Instruct", True),
    "llama-3.1-8b-instruct": ("Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-8B-Instruct", True),
}
PROBLEMS = {
    "math500": "MATH-500",
    "gsm8k": "GSM8K",
    "aime2024": "AIME 2024",
    "amc": "AMC",
    "gpqa_diamond": "GPQA-Diamond",
    "mmlu_pro": "MMLU-Pro",
}
TABLE = list(product(MODELS, PROBLEMS))


def named(model: str, problems: str) -> str:
    return f"self_harmony-{model}-{problems}"


# --- the files -------------------------------------------------------------------------------------------------------------


def test_the_folder_holds_the_table_and_nothing_else() -> None:
    texts = {
        named(m, p): f"# Self-Harmony on {PROBLEMS[p]} with {MODELS[m][0]}, as published: docs/paper.md.\n"
        f"extends: [methods/self_harmony, models/{m}, problems/{p}]\n"
        f"name: {named(m, p)}\n"
        for m, p in TABLE
    }
    assert len(texts) == 30
    assert {path.stem: path.read_text() for path in PAPER.iterdir()} == texts


@pytest.mark.parametrize(("model", "problems"), TABLE)
def test_a_config_asks_for_what_was_published(model: str, problems: str) -> None:
    c = load_config(named(model, problems))
    assert (c.model.path, c.problems.type, c.problems.options.name) == (MODELS[model][1], "hub", problems)
    assert {name: (v.type, v.num_samples, v.options.chat) for name, v in c.views.items()} == {
        "solver": ("solver", 16, MODELS[model][2]),
        "reframer": ("reframer", 16, MODELS[model][2]),
    }
    assert (c.steps, c.rollout.problems_per_step, c.rollout.temperature) == (300, 128, 1.0)
    assert (c.rollout.max_prompt_tokens, c.rollout.max_response_tokens) == (1024, 3072)
    assert (c.eval.every, c.eval.num_samples, c.eval.temperature, c.eval.top_p) == (10, 16, 0.8, 0.95)
    assert (c.method.type, c.method.options.selector.type, c.method.options.combine) == ("self_harmony", "harmonic", "gated")
    assert (c.method.options.format_penalty, c.method.options.diversity_penalty) == (0.1, 0.1)
    assert (c.advantage.type, c.advantage.options.group) == ("grpo", "view")
    assert (c.loss.type, c.loss.options.clip_low, c.loss.options.clip_high) == ("ppo_clip", 0.2, 0.2)
    assert (c.objective.aggregation, c.objective.kl, c.objective.kl_coef) == ("token-mean", "k3", 0.005)
    learner = c.learner.options
    assert (learner.lr, learner.schedule, learner.warmup_share) == (3e-6, "cosine", 0.1)


@pytest.mark.parametrize(("model", "problems"), TABLE)
def test_a_config_is_planned_for_eight_gpus(model: str, problems: str) -> None:
    config = load_config(named(model, problems))
    table, fits = plan(config)
    assert re.search(r"^asked +\S+ +8$", table, flags=re.M)
    assert fits == ("NO ROOM" not in table)
    wanted = seats(config)
    assert sorted(s.num_gpus for s in wanted) == [0] + 8 * [1]
    assert None not in assign(wanted, [Node("a machine of eight", 16, 8)])
    assert None in assign(wanted, [Node("a machine of seven", 16, 7)])


def test_the_example_of_another_method_in_the_docs(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "paper.md").read_text(), flags=re.S)
    (tmp_path / "mine.yaml").write_text(text)
    config = load_config(str(tmp_path / "mine.yaml"))
    assert (config.method.type, config.name) == ("majority_vote", "majority_vote-llama-3.2-3b-instruct-gsm8k")
    assert {name: (v.num_samples, v.options.chat) for name, v in config.views.items()} == {"solver": (32, True)}
    assert sum(seat.num_gpus for seat in seats(config)) == 8
    (tmp_path / "mine.yaml").write_text(text.replace("majority_vote", "ground_truth"))
    config = load_config(str(tmp_path / "mine.yaml"))
    assert (config.method.type, config.views["solver"].num_samples, config.steps) == ("ground_truth", 8, 300)


def test_every_command_of_the_docs_names_a_config() -> None:
    commands = re.findall(r"harmonyray (?:train|plan) (self_\S+?)[`\s]", (ROOT / "docs" / "paper.md").read_text())
    assert set(commands) == {named(m, p) for m, p in TABLE}


# --- tiny models -----------------------------------------------------------------------------------------------------------

QUESTIONS = ["What is 3 minus 2?", "Half of two is what number?", "How many suns does the Earth go round?", "What is 7 - 6?"]
OPTIONS = ["one", "two", "five", "nine"]
ANSWERS = ("1", "A", "B")
SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
    "initializer_range": 0.2,
}
ARCHITECTURES = {False: Qwen3Config(**SHAPE, head_dim=8), True: LlamaConfig(**SHAPE)}  # by: asked by chat template
TEMPLATE = "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}{% endfor %}<|start|>assistant\n"


def make_tokenizer(texts: list[str], chat: bool) -> PreTrainedTokenizerFast:
    """Byte-level BPE trained on the prompts, and 180 tokens that are whole answers, so that random weights give some."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    specials = ["<|end|>", "<|start|>"]
    raw.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=420, special_tokens=specials, initial_alphabet=alphabet))
    boxes = [f"\\boxed{{{answer}}}" + i * "." for answer in ANSWERS for i in range(60)]
    raw.add_tokens([AddedToken(box, normalized=False) for box in boxes])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|end|>", pad_token="<|end|>")
    tokenizer.chat_template = TEMPLATE if chat else None
    return tokenizer


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """The directory of a tiny Qwen3 without, and of a tiny Llama with a chat template."""
    torch.set_num_threads(1)
    views = make_views(load_config("base", ["name=x", "steps=1", "model.path=x", "problems={type: quickstart}"]))
    texts = [str(view.render(Problem(q, q)).text) for view in views for q in QUESTIONS]
    out = {}
    for chat, architecture in ARCHITECTURES.items():
        out[chat] = tmp_path_factory.mktemp(architecture.model_type)
        tokenizer = make_tokenizer(texts, chat)
        architecture.vocab_size = len(tokenizer)
        architecture.eos_token_id = architecture.pad_token_id = tokenizer.eos_token_id
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(architecture).save_pretrained(out[chat])
        tokenizer.save_pretrained(out[chat])
    return out


# --- small data sets in the hub's columns ----------------------------------------------------------------------------------


def hub_rows(problems: str) -> Iterator[dict[str, Any]]:
    """Our own questions as rows of the data set that the hub has under this preset."""
    for i, question in enumerate(QUESTIONS):
        yield {
            "math500": {"problem": question, "answer": "1", "subject": "Algebra", "level": 1 + i, "unique_id": f"test/{i}.json"},
            "gsm8k": {"question": question, "answer": "First we think.\n#### 1"},
            "aime2024": {"id": i, "problem": question, "solution": "Think.", "answer": "1", "url": "", "year": "2024"},
            "amc": {"id": i, "problem": question, "answer": 1.0, "url": ""},
            "gpqa_diamond": {
                "Record ID": f"rec{i}",
                "Question": question,
                "Correct Answer": OPTIONS[0],
                **{f"Incorrect Answer {n}": OPTIONS[n] for n in (1, 2, 3)},
                "High-level domain": "Physics",
            },
            "mmlu_pro": {
                "question_id": i,
                "question": question,
                "options": OPTIONS,
                "answer": "A",
                "answer_index": 0,
                "category": "math",
            },
        }[problems]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """A folder for every preset, as a clone of its data set would be; what `datasets` makes of them stays beside them."""
    root = tmp_path_factory.mktemp("data")
    for problems in PROBLEMS:
        (root / problems).mkdir()
        lines = [json.dumps(row) + "\n" for row in hub_rows(problems)]
        (root / problems / f"{PRESETS[problems]['split']}.jsonl").write_text("".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", root / "cache")
        yield {problems: root / problems for problems in PROBLEMS}


# --- two steps of each -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the runs of this module live; they share one MLflow store."""
    return tmp_path_factory.mktemp("runs")


def small(config: str, model: Path, data: Path) -> Config:
    """The config with the tiny model and data, two steps of it; everything else as it is."""
    return load_config(
        config,
        [
            "runtime.type=in_process",
            "placement.view.replicas=1",
            "placement.views.reframer.replicas=1",
            f"model.path={model}",
            f"problems.dataset={data}",
            "problems.limit=3",
            "steps=2",
            "views.solver.num_samples=6",
            "views.reframer.num_samples=5",
            "rollout.problems_per_step=2",
            "rollout.max_response_tokens=8",
            "eval.num_samples=1",
        ],
    )


@pytest.mark.parametrize(("model", "problems"), TABLE)
def test_two_steps(model: str, problems: str, tiny: dict[bool, Path], data: dict[str, Path], folder: Path) -> None:
    chat = MODELS[model][2]
    config = small(named(model, problems), tiny[chat], data[problems])
    run_dir = folder / config.name
    summary = run_training(config, run_dir, resume=False, reporter=Reporter(quiet=True))
    assert [(row["step"], row["policy_version"]) for row in rows(run_dir)] == [(1, 1), (2, 2)]
    assert summary["steps"] == 2
    for row in rows(run_dir):
        assert 0 < row["consensus/coverage"] <= 1
        assert 0 <= row["consensus/label_accuracy"] <= row["consensus/upper_bound"] <= 1
        assert row["train/num_rows"] == 2 * row["consensus/coverage"] * (6 + 5)
        assert all(0 < row[f"reward/{view}/mean"] < 1 for view in ("solver", "reframer"))
        assert all(0 < row[f"rollout/{view}/answered"] <= 1 for view in ("solver", "reframer"))
    assert {f"eval/{view}/avg_at_k" for view in ("solver", "reframer")} <= set(summary["eval_after"])
    assert len({s["problem_id"] for s in samples(run_dir)}) in (2, 3)
    assert load_config(str(run_dir / "config.yaml")) == config
    trained = AutoModelForCausalLM.from_pretrained(run_dir / "model")
    assert trained.config.model_type == ("llama" if chat else "qwen3")
    assert weights(run_dir / "model") != weights(tiny[chat])
