"""The configs of the methods: what each was published with, what cannot work together, and what a run of each kind leaves."""

from __future__ import annotations

import re
import textwrap
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from run_helpers import rows, samples, small_run

from harmonyray import build, config_checks, config_files
from harmonyray.actors.placement import seats
from harmonyray.compared import check_compared
from harmonyray.config import Config, load_config
from harmonyray.errors import ConfigError, RunError
from harmonyray.registry import BUILT_IN
from harmonyray.scoring import scored
from harmonyray.types import GoldAnswer

ROOT = Path(config_files.__file__).parent.parent
METHODS, DOCS = ROOT / "configs" / "methods", (ROOT / "docs" / "methods.md").read_text()

# name: method, samples by view, steps, problems a step, prompt, response, lr, schedule, warm-up, KL
BOTH = {"solver": 16, "reframer": 16}
AS_PAPER = (3e-6, "cosine", 0.1, 0.005)
PUBLISHED: dict[str, tuple[Any, ...]] = {
    "self_harmony": ("self_harmony", BOTH, 300, 128, 1024, 3072, *AS_PAPER),
    "self_harmony_published_code": ("self_harmony", BOTH, 300, 128, 1024, 3072, *AS_PAPER),
    "ground_truth": ("ground_truth", {"solver": 8}, 300, 128, 512, 3072, *AS_PAPER),
    "intuitor": ("intuitor", {"solver": 8}, 300, 128, 512, 3072, *AS_PAPER),
    "rent": ("rent", {"solver": 5}, 150, 500, 1024, 3072, 1e-6, "constant", 0.0, 0.001),
    "ttrl": ("majority_vote", {"solver": 64}, 300, 8, 512, 3072, 5e-7, "cosine", 0.03, 0.001),
    "majority_vote": ("majority_vote", {"solver": 32}, 300, 128, 1024, 3072, *AS_PAPER),
    "co_reward": ("co_reward", {"solver": 8, "reframer": 8}, 300, 128, 1024, 3072, *AS_PAPER),
    "self_certainty_vote": ("self_certainty_vote", {"solver": 32}, 300, 128, 1024, 3072, *AS_PAPER),
    "empo": ("empo", {"solver": 7}, 300, 16, 512, 2048, 1e-6, "constant", 0.0, 0.0),
}


def composed(method: str, folder: Path) -> Config:
    (folder / "mine.yaml").write_text(f"extends: [{method}, models/llama-3.2-3b-instruct, problems/math500]\nname: mine\n")
    return load_config(str(folder / "mine.yaml"))


def test_every_file_has_its_row() -> None:
    assert {path.stem for path in METHODS.glob("*.yaml")} - {"grpo"} == set(PUBLISHED)
    assert {method for method, *_ in PUBLISHED.values()} == set(BUILT_IN["methods"])


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_a_config_asks_for_what_was_published(name: str, tmp_path: Path) -> None:
    c = composed(name, tmp_path)
    learner, rollout = c.learner.options, c.rollout
    assert (
        c.method.type,
        {view: v.num_samples for view, v in c.views.items()},
        c.steps,
        rollout.problems_per_step,
        rollout.max_prompt_tokens,
        rollout.max_response_tokens,
        *(getattr(learner, key) for key in ("lr", "schedule", "warmup_share")),
        c.objective.kl_coef,
    ) == PUBLISHED[name]
    assert sum(seat.num_gpus for seat in seats(c)) == 8


def test_what_only_some_of_them_set(tmp_path: Path) -> None:
    ttrl = composed("ttrl", tmp_path)
    assert ttrl.method.options.num_trained == 32  # type: ignore[attr-defined]
    assert (ttrl.eval.num_samples, ttrl.eval.temperature, ttrl.eval.top_p) == (16, 0.6, 0.95)
    published = composed("self_harmony_published_code", tmp_path)
    options: Any = published.method.options
    assert (options.exact_votes, options.format_penalty, options.diversity_penalty) == (True, 0, 0)
    assert published.objective.first_view_mask
    assert not composed("self_harmony", tmp_path).objective.first_view_mask


def test_every_command_of_the_docs_is_a_run(tmp_path: Path) -> None:
    commands = [line.split("#")[0].split() for line in re.findall(r"^harmonyray train (.*)$", DOCS, flags=re.M)]
    asked = [load_config(name, overrides).method.type for name, *overrides in commands]
    assert set(asked) == set(BUILT_IN["methods"])
    (text,) = re.findall(r"```yaml\n(.*?)```", DOCS, flags=re.S)
    (tmp_path / "mine.yaml").write_text(textwrap.dedent(text))
    config = load_config(str(tmp_path / "mine.yaml"))
    assert {name: (view.type, view.num_samples) for name, view in config.views.items()} == {
        "solver": ("solver", 8),
        "rewritten": ("static", 8),
    }
    assert sum(seat.num_gpus for seat in seats(config)) == 8


# --- what cannot work --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method={type: majority_vote, num_trained: 17}"], r"num_trained' is 17, but view 'solver' has 16 samples"),
        (["method.type=co_reward", "views.reframer=null"], "co_reward compares views and needs at least 2, got 1"),
        (["method.type=rent", "views.reframer.model=other"], "view 'reframer' has a model of its own"),
        (
            ["objective.first_view_mask=true", "views.solver.num_samples=8"],
            r"got \{'solver': 8, 'reframer': 16\}",
        ),
        (["method.type=empo", "views.reframer=null", "objective.first_view_mask=true"], r"it needs two views or more"),
    ],
)
def test_what_does_not_go_together_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config("quickstart", overrides)


STAGED = "views.reframer={type: staged_reframer, num_samples: 8, samples_per_draft: 4}"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method.num_trained=1"], r"num_trained' is 1: .* set it to 2 or more"),
        (["method.num_trained=1", "views.reframer=null", "advantage.group=problem"], r"num_trained' is 1: "),
        ([STAGED, "method.num_trained=4"], r"is 4, and 'views.reframer' has 4 samples of each draft: .* set num_trained to 5"),
        (["method.num_trained=1", "advantage.group=problem"], None),
        ([STAGED, "method.num_trained=5"], None),
        ([STAGED, "views.reframer.model=other", "method.num_trained=4"], None),
    ],
)
def test_all_that_is_trained_is_compared_with_something(overrides: list[str], message: str | None) -> None:
    """Of 8 samples of two drafts the first 4 are all of the first draft, and only a fifth gives the second one a reward."""
    config = load_config("quickstart", ["method.type=majority_vote", *overrides])
    asks = build.make_asks(config, build.make_views(config))
    with nullcontext() if message is None else pytest.raises(ConfigError, match=message):
        check_compared(config, asks)


def test_a_learner_that_cannot_score(monkeypatch: pytest.MonkeyPatch) -> None:
    real = config_checks.resolve
    monkeypatch.setattr(
        config_checks, "resolve", lambda kind, name: type("Mute", (), {}) if kind == "learners" else real(kind, name)
    )
    load_config("quickstart", ["method.type=empo"])
    with pytest.raises(ConfigError, match="intuitor asks the learner about every response, and learner torch has no `score`"):
        load_config("quickstart", ["method.type=intuitor"])


def test_a_statistic_that_there_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    from harmonyray.algos.rent import Rent

    monkeypatch.setattr(Rent, "token_statistics", ("entropi",))
    with pytest.raises(ConfigError, match="method rent asks for statistic 'entropi': did you mean 'entropy'"):
        load_config("quickstart", ["method.type=rent"])


@pytest.mark.parametrize("method", sorted(BUILT_IN["methods"]))
def test_gold_reaches_a_method_only_if_it_says_that_it_needs_it(method: str) -> None:
    config = load_config("quickstart", [f"method.type={method}"])
    built = build.make_method(config, None, {"p": GoldAnswer("p", "1")})  # type: ignore[arg-type]
    assert bool(built.context.gold) == built.needs_gold == build.uses_gold(config) == (method == "ground_truth")


# --- what a run leaves -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the runs of this module live; they share one MLflow store."""
    return tmp_path_factory.mktemp("runs")


def test_ttrl_in_one_line_records_who_only_voted(folder: Path) -> None:
    small_run(folder / "ttrl", "steps=2", "views.solver.num_samples=8", "method.num_trained=3", config="quickstart-majority")
    assert [row["train/num_rows"] for row in rows(folder / "ttrl")] == [4 * 3, 4 * 3]
    kept = samples(folder / "ttrl")
    assert len(kept) == 2 * 4 * 8
    assert {(row["sample"] < 3, row["reward"] is None) for row in kept} == {(True, False), (False, True)}


@pytest.fixture(scope="module")
def rent(folder: Path) -> Path:
    """Two steps of a method that asks the learner and has no labels."""
    small_run(folder / "rent", "steps=2", "method.type=rent", config="quickstart-majority")
    return folder / "rent"


def test_a_method_without_labels_trains_and_says_nothing_of_labels(rent: Path) -> None:
    for row in rows(rent):
        assert (row["consensus/coverage"], row["train/skipped"]) == (0, 0)
        assert row["time/score_s"] > 0
        assert "consensus/label_accuracy" not in row
    assert "No problem got a pseudo-label" not in (rent / "summary.txt").read_text()
    assert {row["label"] for row in samples(rent)} == {None}
    # The reward is a mean of responses, the metric one of tokens; both are of the model before the update.
    first = rows(rent)[0]
    assert first["train/entropy"] == pytest.approx(-first["reward/solver/mean"], rel=0.2)


def test_mlflow_says_whose_rewards_are_gold(folder: Path, rent: Path) -> None:
    from mlflow.tracking import MlflowClient

    small_run(folder / "truth", "steps=1", "method.type=ground_truth", config="quickstart-majority")
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    (experiment,) = [e.experiment_id for e in client.search_experiments() if e.name == "harmonyray"]
    found = {run.info.run_name: run.data.tags["uses_gold"] for run in client.search_runs([experiment])}
    assert (found["truth"], found[rent.name]) == ("true", "false")


def test_a_statistic_that_is_not_finite_ends_the_run() -> None:
    class Diverged:
        def score(self, plan: Any, statistics: Any) -> Any:
            import numpy as np

            return {"entropy": np.array([0.0, np.nan])}

    with pytest.raises(RunError, match="the entropy of 1 response"):
        scored(Diverged(), [], ["entropy"], type("Nothing", (), {"rollouts": [], "groups": [SimpleNamespace(statistics={})]})())  # type: ignore[arg-type]
