"""Training cannot read gold answers: with the true ones, wrong ones or none at all, a label-free method trains the same model
to the last bit. And what a run does when there is nothing to learn from."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from run_helpers import quickstart_rows, rows, samples, small_run, weights, write_rows

from harmonyray.config import load_config
from harmonyray.console import Reporter
from harmonyray.errors import ConfigError
from harmonyray.problems.quickstart import MODEL_DIR
from harmonyray.run import run_training

MATH500 = Path(__file__).resolve().parents[2] / "shared" / "data" / "bench" / "math500.jsonl"

Train = Callable[[str, str], Path]


def of_gold(metric: str) -> bool:
    """Whether a metric of a training step is the evaluator's, who has the gold answers."""
    return metric.endswith("label_accuracy") or metric == "consensus/upper_bound"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions, three files about gold, and the runs."""
    folder = tmp_path_factory.mktemp("sealed")
    questions, gold = quickstart_rows("questions.jsonl")[:8], quickstart_rows("gold.jsonl")[:8]
    write_rows(folder / "questions.jsonl", [{"id": r["id"], "question": r["question"]} for r in questions])
    write_rows(folder / "true.jsonl", list(gold))
    write_rows(folder / "garbage.jsonl", [{"id": r["id"], "answer": f"\\frac{{{i}}}{{"} for i, r in enumerate(gold)])
    return folder


@pytest.fixture(scope="module")
def train(folder: Path) -> Train:
    """The run directory of two steps of a method with a kind of gold; each is run once."""
    done: dict[tuple[str, str], Path] = {}

    def run(method: str, gold: str) -> Path:
        if (method, gold) not in done:
            run_dir = folder / f"{method}-{gold}"
            gold_path = "null" if gold == "none" else str(folder / f"{gold}.jsonl")
            source = f"problems={{type: file, path: '{folder / 'questions.jsonl'}', kind: number, gold_path: {gold_path}}}"
            small_run(run_dir, "steps=2", f"method.type={method}", source)
            done[method, gold] = run_dir
        return done[method, gold]

    return run


@pytest.mark.parametrize("method", ["self_harmony", "majority_vote"])
@pytest.mark.parametrize("gold", ["garbage", "none"])
def test_gold_answers_do_not_reach_a_label_free_method(train: Train, method: str, gold: str) -> None:
    sealed, true = train(method, gold), train(method, "true")
    assert weights(sealed / "model") == weights(true / "model")
    assert weights(true / "model") != weights(MODEL_DIR)
    assert samples(sealed) == samples(true)
    assert rows(true)[1]["policy_version"] == 2

    def blind(run_dir: Path) -> list[dict[str, Any]]:
        left_out = ("time/", "sync/", "eval/")
        return [{k: v for k, v in r.items() if not k.startswith(left_out) and not of_gold(k)} for r in rows(run_dir)]

    assert blind(sealed) == blind(true)


def test_evaluation_did_read_the_gold(train: Train) -> None:
    """Or the test above would compare three times nothing."""
    true, garbage, none = (rows(train("self_harmony", gold))[1] for gold in ("true", "garbage", "none"))
    assert true["consensus/upper_bound"] > 0
    assert true["eval/solver/avg_at_k"] > 0
    assert garbage["consensus/upper_bound"] == garbage["eval/solver/avg_at_k"] == 0
    assert not any(key.startswith("eval/") or of_gold(key) for key in none)


def test_ground_truth_does_read_it(train: Train) -> None:
    true, garbage = train("ground_truth", "true"), train("ground_truth", "garbage")
    assert weights(true / "model") != weights(garbage / "model")
    assert weights(garbage / "model") == weights(MODEL_DIR)  # no sample is right, so nothing is trained
    assert rows(garbage)[1]["policy_version"] == 0


def test_ground_truth_without_gold_stops_before_anything_is_made(folder: Path) -> None:
    run_dir = folder / "nothing-made"
    source = f"problems={{type: file, path: '{folder / 'questions.jsonl'}'}}"
    with pytest.raises(ConfigError, match=r"ground_truth needs a gold answer for every problem; 8 of 8 have none"):
        small_run(run_dir, "steps=1", source, config="quickstart-ground_truth")
    assert not run_dir.exists()


def test_a_run_without_gold_says_so_in_its_table(train: Train) -> None:
    text = (train("self_harmony", "none") / "summary.txt").read_text()
    assert "no gold" in text
    assert "pseudo-labels right" in text


# --- nothing to learn from ----------------------------------------------------------------------------------------------------

MUTE = '''
from harmonyray.registry import PluginOptions
from harmonyray.types import ParsedResponse, Prompt


class Mute:
    """Reads no answer out of anything."""

    class Options(PluginOptions):
        pass

    def __init__(self, name, options):
        self.name = name

    def render(self, problem):
        return Prompt(problem.id, self.name, text=f"SOLVE: {problem.text}\\n")

    def parse(self, problem, response):
        return ParsedResponse(answer=None)
'''


@pytest.fixture
def mute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "mute_view_of_mine.py").write_text(MUTE)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield "mute_view_of_mine:Mute"
    sys.modules.pop("mute_view_of_mine", None)


def test_no_answers_train_nothing_and_the_run_says_so(mute: str, folder: Path, capsys: Any) -> None:
    run_dir = folder / "mute"
    views = [f"views.{name}={{type: '{mute}', template: null}}" for name in ("solver", "reframer")]
    with pytest.raises(ConfigError, match=r"unknown option 'views\.solver\.template'"):
        small_run(run_dir, "steps=2", *views)
    summary = small_run(run_dir, "steps=4", *(f"views.{n}.type={mute}" for n in ("solver", "reframer")), reporter=Reporter())
    for row in rows(run_dir):
        assert (row["consensus/coverage"], row["policy_version"], row["train/skipped"]) == (0, 0, 1)
        assert "consensus/label_accuracy" not in row
        assert "train/loss" not in row
    assert weights(run_dir / "model") == weights(MODEL_DIR)
    assert (summary["coverage"], summary["pseudo_label_accuracy"]) == (0, None)
    out, err = capsys.readouterr()
    assert "No problem got a pseudo-label in any step (coverage 0)" in out
    assert err.count("view 'solver' returned no answers") == 1
    assert err.count("view 'reframer' returned no answers") == 1
    assert {r["label"] for r in samples(run_dir)} == {None}
    # The policy never changed, so what differs between two epochs is what was drawn.
    said: dict[tuple[str, str], dict[int, list[str]]] = {}
    for r in samples(run_dir):
        said.setdefault((r["problem_id"], r["view"]), {}).setdefault(r["step"], []).append(r["response"])
    assert all(len(steps) == 2 for steps in said.values())
    assert any(first != second for first, second in (steps.values() for steps in said.values()))


def test_one_mute_view_of_two_leaves_the_harmonic_mean_nothing(mute: str, folder: Path, capsys: Any) -> None:
    run_dir = folder / "half-mute"
    small_run(run_dir, "steps=1", f"views.reframer.type={mute}")
    assert rows(run_dir)[0]["consensus/coverage"] == 0
    assert rows(run_dir)[0]["rollout/solver/answered"] > 0
    assert "view 'reframer' returned no answers" in capsys.readouterr().err


MATH = [
    {"id": "m1", "question": "Let $f(x) = \\frac{1}{x^2+1}$. Evaluate $\\int_0^1 f(x)\\,dx$.", "answer": "\\frac{\\pi}{4}"},
    {"id": "m2", "question": "How many primes $p < 100$ satisfy $p \\equiv 3 \\pmod 4$?", "answer": "13"},
    {"id": "m3", "question": "Nenne die größte Wurzel von $x^2 - 5x + 6 = 0$. \u2264 \U0001f600", "answer": "3"},
    {"id": "m4", "question": "Is $\\sqrt{2}$ rational?", "answer": "\\text{no}"},
]


def test_mathematics_that_the_model_cannot_do_is_no_failure(folder: Path, capsys: Any) -> None:
    run_dir = folder / "math"
    path = write_rows(folder / "math.jsonl", MATH)
    many = [*(f"views.{view}.num_samples=16" for view in ("solver", "reframer")), "method.selector.min_score=0.5"]
    problems = f"problems={{type: file, path: '{path}', limit: null}}"
    summary = small_run(run_dir, "steps=2", problems, *many, reporter=Reporter())
    assert (run_dir / "model" / "config.json").is_file()
    assert [(row["consensus/coverage"], row["policy_version"]) for row in rows(run_dir)] == [(0, 0), (0, 0)]
    assert summary["eval_after"]["eval/solver/avg_at_k"] == 0
    assert "No problem got a pseudo-label in any step (coverage 0)" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif(not MATH500.exists(), reason="the benchmark questions are not beside the repository")
def test_real_mathematics_abstains_instead_of_inventing_labels(folder: Path, capsys: Any) -> None:
    overrides = ["problems.type=file", f"problems.path={MATH500}", "problems.limit=16", "steps=2", "runtime.type=in_process"]
    run_training(load_config("quickstart", [*overrides, "eval.num_samples=2"]), folder / "math500", False, Reporter())
    assert [(row["consensus/coverage"], row["policy_version"]) for row in rows(folder / "math500")] == [(0, 0), (0, 0)]
    out, err = capsys.readouterr()
    assert "No problem got a pseudo-label in any step (coverage 0)" in out
    assert "skipped 1 problem(s) with a prompt longer than rollout.max_prompt_tokens = 256: math500/" in err
