"""`rollout.lag: 1`: which weights sampled what, that a resumed run computes the same, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_helpers import samples, small_run, steady, weights

from harmonyray.config import load_config
from harmonyray.errors import ConfigError
from harmonyray.registry import PluginOptions

LAG = ("rollout.lag=1", "loss.type=truncated_is", "steps=7", "checkpoint.every=4", "eval.every=0")


def versions(run_dir: Path) -> dict[int, set[int]]:
    """By step, the policy versions that its rollouts were sampled under."""
    out: dict[int, set[int]] = {}
    for row in samples(run_dir):
        out.setdefault(row["step"], set()).add(row["policy_version"])
    return out


def test_rollouts_come_from_the_weights_before_except_after_a_checkpoint(tmp_path: Path) -> None:
    """Step t ends with policy version t. Nothing is under way at a checkpoint (after steps 4 and 7), so that steps 1 and 5 start
    with the newest weights."""
    small_run(tmp_path / "run", *LAG)
    assert versions(tmp_path / "run") == {1: {0}, 2: {0}, 3: {1}, 4: {2}, 5: {4}, 6: {4}, 7: {5}}
    assert [row["policy_version"] for row in steady(tmp_path / "run")] == [1, 2, 3, 4, 5, 6, 7]


def test_an_evaluation_sees_the_newest_weights_and_changes_nothing(tmp_path: Path) -> None:
    """As after a checkpoint, the step after an evaluation starts afresh; what the evaluation says is the step's own policy."""
    small_run(tmp_path / "with", *LAG, "steps=4", "eval.every=2")
    assert versions(tmp_path / "with") == {1: {0}, 2: {0}, 3: {2}, 4: {2}}
    small_run(tmp_path / "short", *LAG, "steps=2")
    last, same = steady(tmp_path / "short")[-1], steady(tmp_path / "with")[1]
    evaluated = {k: v for k, v in last.items() if k.startswith("eval/")}
    assert evaluated and {k: same[k] for k in evaluated} == evaluated


def test_a_resumed_run_computes_what_an_undisturbed_one_does(tmp_path: Path) -> None:
    small_run(tmp_path / "whole", *LAG)
    small_run(tmp_path / "parts", *LAG, "steps=4")
    # A shorter run evaluates at its end, and its learning rate is the same: the schedule is constant.
    small_run(tmp_path / "parts", *LAG, resume=True)
    assert weights(tmp_path / "whole" / "model") == weights(tmp_path / "parts" / "model")
    assert steady(tmp_path / "whole")[4:] == steady(tmp_path / "parts")[4:]


def test_with_lag_the_run_is_another_one_and_without_it_importance_weights_are_near_one(tmp_path: Path) -> None:
    small_run(tmp_path / "lag", *LAG, "steps=3")
    small_run(tmp_path / "none", *LAG, "rollout.lag=0", "steps=3")
    ahead, on_policy = steady(tmp_path / "lag"), steady(tmp_path / "none")
    assert ahead[0] == on_policy[0]
    assert ahead[1]["train/engine_gap_max"] > 100 * on_policy[1]["train/engine_gap_max"]


@pytest.mark.parametrize("loss", ["ppo_clip", "gspo", "cispo"])
def test_a_loss_that_clips_takes_care_of_older_rollouts_itself(loss: str) -> None:
    assert load_config("quickstart", ["rollout.lag=1", "objective.importance.type=none", f"loss.type={loss}"]).rollout.lag == 1


def test_against_the_older_policy_that_sampled_clips_act(tmp_path: Path) -> None:
    """A bound that a step in float32 passes. In the first step there is no older policy, and the ratio is 1 up to rounding."""
    clips = ("loss.clip_low=1e-3", "loss.clip_high=1e-3", "objective.importance.type=none", "rollout.lag=1")
    small_run(tmp_path / "run", *clips, "steps=3", "eval.every=0", "checkpoint.every=9")
    clipped = [row["train/clipped"] for row in steady(tmp_path / "run")]
    assert clipped[0] == 0
    assert min(clipped[1:]) > 0.01


class Plain:
    """A loss that does not look at the policy that sampled."""

    class Options(PluginOptions):
        pass

    def __init__(self, options: Options) -> None:
        self.options = options


REFUSED = [
    (
        ["rollout.lag=1", "objective.importance.type=none", f"loss={{type: '{__name__}:Plain'}}"],
        "loss .*Plain neither clips nor weighs.*importance.type=truncate",
    ),
    (["rollout.lag=2", "loss.type=truncated_is"], "rollout.lag"),
    (["sync.in_flight=pause"], "nothing is under way"),
    (["rollout.lag=1", "loss.type=truncated_is", "sync.in_flight=pause"], "engine hf cannot change weights.*vllm"),
]


@pytest.mark.parametrize(("overrides", "message"), REFUSED)
def test_what_cannot_work_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config("quickstart", overrides)


def test_weights_under_way_are_for_an_engine_that_takes_them() -> None:
    config = load_config("quickstart", [*LAG, "sync.in_flight=pause", "rollout.engine.type=vllm"])
    assert (config.rollout.lag, config.sync.in_flight) == (1, "pause")
