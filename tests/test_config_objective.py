"""The objective section: its defaults, what is refused, and how it reaches a learner."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from harmonyray.build import _learner_arguments
from harmonyray.config import load_config
from harmonyray.errors import ConfigError


def test_the_defaults() -> None:
    c = load_config("quickstart")
    assert (c.loss.type, c.loss.options.clip_low, c.loss.options.clip_high, c.loss.options.dual_clip) == (
        "ppo_clip",
        0.2,
        0.2,
        None,
    )
    objective = c.objective
    assert (objective.aggregation, objective.view_weights, objective.kl, objective.kl_coef) == ("token-mean", {}, "k3", 0.005)
    importance, entropy = objective.importance, objective.entropy
    assert (importance.type, importance.level, importance.high) == ("truncate", "token", 2.0)
    assert (entropy.coef, entropy.top_share, entropy.band) == (0.0, 1.0, None)


def test_the_docs_show_the_defaults() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", (Path(__file__).parent.parent / "docs" / "objective.md").read_text(), flags=re.S)
    got = load_config("quickstart").to_container()
    assert yaml.safe_load(block) == {key: got[key] for key in ("advantage", "loss", "objective")}


def test_a_learner_gets_the_weights_in_the_views_order_and_the_seed() -> None:
    c = load_config("quickstart", ["objective.view_weights.reframer=0.5", "rollout.max_response_tokens=17", "seed=7"])
    settings = _learner_arguments(c)["objective"]
    assert _learner_arguments(c)["seed"] == 7
    assert settings.view_weights == (1.0, 0.5)
    assert settings.max_response_tokens == 17
    assert settings.options == c.objective


REFUSED = [
    (["objective.view_weights.reframr=1"], "objective.view_weights.*'reframr'.*did you mean 'reframer'"),
    (["objective.view_weights.solver=-1"], "view_weights.solver"),
    (["objective.aggregation=token_mean"], "objective.aggregation"),
    (["objective.kl=k4"], "objective.kl"),
    (["objective.kl_coef=-1"], "objective.kl_coef"),
    (["objective.importance.cap=2"], "unknown option 'objective.importance.cap'"),
    (["objective.importance.type=mask", "objective.importance.low=2"], "every token would be left out"),
    (["objective.entropy.band.low=1"], "missing option 'objective.entropy.band.high'"),
    (["learner.kl_coef=0.1"], "unknown option 'learner.kl_coef'"),
    (["loss.clip=0.2"], "unknown option 'loss.clip'.*clip_"),
    (["objective.importance.low=0.9"], "'objective.importance.low' belongs to type mask"),
    (["loss.type=gspo"], "every such loss is the same: set objective.importance.type=none"),
    (["loss.clip_high=0.3"], "every such loss is the same: set objective.importance.type=none"),
    (["loss.type=truncated_is", "objective.importance.type=mask"], "loss truncated_is weighs the engine's samples itself"),
    (["objective.view_weights={solver: 0, reframer: 0}"], "all 0, so nothing would be learned"),
    (["views.reframer.model=quickstart", "objective.view_weights.reframer=2"], "has a model of its own"),
    (["objective.kl_in=reward", "objective.kl_coef=0"], "with objective.kl_coef 0 there is no KL"),
    (["guard.max_kl=0.1", "objective.kl_coef=0"], "with objective.kl_coef 0 no KL is computed"),
    (["checkpoint.best=eval/solver/avg_at_k", "eval.every=0"], "only the last step is evaluated"),
]


@pytest.mark.parametrize(("overrides", "message"), REFUSED)
def test_what_cannot_be(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config("quickstart", overrides)


@pytest.mark.parametrize("loss", ["ppo_clip", "truncated_is"])
def test_lag_goes_with_every_loss_that_is_weighed(loss: str) -> None:
    assert load_config("quickstart", ["rollout.lag=1", f"loss.type={loss}"]).rollout.lag == 1


def test_a_band_and_what_is_removed_again(tmp_path: Path) -> None:
    low = tmp_path / "low.yaml"
    low.write_text(
        "extends: quickstart\nobjective:\n  view_weights: {reframer: 0.5}\n  entropy: {band: {low: 0.5, high: 2, coef: 0.1}}\n"
    )
    c = load_config(str(low))
    assert c.objective.entropy.band is not None
    assert (c.objective.entropy.band.low, c.objective.entropy.band.high, c.objective.entropy.band.coef) == (0.5, 2.0, 0.1)
    c = load_config(str(low), ["objective.view_weights.reframer=null", "objective.entropy.band=null"])
    assert (c.objective.view_weights, c.objective.entropy.band) == ({}, None)


def test_the_saved_config_is_the_same_one(tmp_path: Path) -> None:
    c = load_config("quickstart", ["objective.view_weights.solver=2", "objective.importance.level=sequence"])
    saved = tmp_path / "config.yaml"
    saved.write_text(c.to_yaml())
    assert load_config(str(saved)) == c
