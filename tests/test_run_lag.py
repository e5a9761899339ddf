"""`rollout.lag: 1`: which weights sampled what, that a resumed run computes the same, and what is refused."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from run_helpers import samples, small_run, steady, weights

from harmonyray.algos.self_harmony import SelfHarmony
from harmonyray.clock import Clock
from harmonyray.config import load_config
from harmonyray.errors import ConfigError, GraderError, LearnerLostError, WeightSyncError
from harmonyray.inprocess import InProcessRuntime
from harmonyray.judging import judged
from harmonyray.registry import PluginOptions

LIMIT_S = 60.0
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


# --- weights that are sent while a step is graded -----------------------------------------------------------------------------


def ahead() -> bool:
    """Whether this is one of the loop's own threads."""
    return threading.current_thread().name.startswith("step")


def test_a_step_is_graded_while_weights_are_sent_and_learned_from_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    graded = threading.Event()
    judge, sync, update = SelfHarmony.judge, InProcessRuntime.sync, InProcessRuntime.update

    def judges(self: SelfHarmony, groups: Any, step: int) -> Any:
        out = judge(self, groups, step)
        told.append(f"graded {step}")
        graded.set()
        return out

    def syncs(self: InProcessRuntime, given: Any = None) -> Any:
        if ahead():
            assert graded.wait(LIMIT_S), "a step was not graded while the weights were being sent"
            graded.clear()
            told.append("sent")
        return sync(self, given)

    def updates(self: InProcessRuntime, plan: Any, step: int) -> Any:
        told.append(f"update {step}")
        return update(self, plan, step)

    monkeypatch.setattr(SelfHarmony, "judge", judges)
    monkeypatch.setattr(InProcessRuntime, "sync", syncs)
    monkeypatch.setattr(InProcessRuntime, "update", updates)
    small_run(tmp_path / "run", *LAG, "steps=3")
    assert told == ["graded 1", "sent", "update 1", "graded 2", "sent", "update 2", "graded 3", "update 3"]


def test_a_step_is_learned_from_while_the_engines_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are at it until the learner has begun; what they sample then are the weights from before it did."""
    learned = threading.Event()
    sync, update = InProcessRuntime.sync, InProcessRuntime.update

    def syncs(self: InProcessRuntime, given: Any = None) -> Any:
        metrics = sync(self, given)
        assert given is None or learned.wait(LIMIT_S), "the learner waited for engines that had all they needed"
        learned.clear()
        return metrics

    def updates(self: InProcessRuntime, plan: Any, step: int) -> Any:
        learned.set()
        return update(self, plan, step)

    monkeypatch.setattr(InProcessRuntime, "sync", syncs)
    monkeypatch.setattr(InProcessRuntime, "update", updates)
    small_run(tmp_path / "run", *LAG, "steps=4")
    assert versions(tmp_path / "run") == {1: {0}, 2: {0}, 3: {1}, 4: {2}}


@pytest.mark.parametrize("given_before", [False, True])
def test_engines_that_cannot_load_end_the_run_after_the_step_learned_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given_before: bool
) -> None:
    """Nothing is lost of the step that was being learned from; if it could not begin, the one before is the last."""
    times = [0]
    sync = InProcessRuntime.sync

    def syncs(self: InProcessRuntime, given: Any = None) -> Any:
        times[0] += given is not None
        if given is not None and times[0] == 2:
            if given_before:
                given({})
            raise WeightSyncError("not loaded")
        return sync(self, given)

    monkeypatch.setattr(InProcessRuntime, "sync", syncs)
    with pytest.raises(WeightSyncError, match="not loaded"):
        small_run(tmp_path / "run", *LAG)
    last = "step-000002" if given_before else "step-000001"
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == [last]


class Grading:
    """The parts that are turned to judge a step, which fails; `order` is what was done."""

    def __init__(self, scores: bool, lost: Exception | None = None) -> None:
        self.order: list[str] = []
        self.score = self.ask_learner if scores else None
        self.lost = lost

    def ask_learner(self, got: Any) -> Any:
        self.order.append("score")
        return got

    def audit(self, groups: Any) -> Any:
        self.order.append("grade")
        raise GraderError("no room for another grader")

    def synced(self) -> dict[str, float]:
        self.order.append("synced")
        if self.lost is not None:
            raise self.lost
        return {}

    def judge(self) -> None:
        parts: Any = self
        judged(parts, 1, parts, parts, Clock(), {})

    groups = ()


@pytest.mark.parametrize(("scores", "order"), [(False, ["grade", "synced"]), (True, ["synced", "score", "grade", "synced"])])
def test_a_method_that_asks_the_learner_waits_for_the_weights_first(scores: bool, order: list[str]) -> None:
    grading = Grading(scores)
    with pytest.raises(GraderError):
        grading.judge()
    assert grading.order == order


def test_a_lost_learner_is_what_ended_the_step_whatever_else_went_wrong() -> None:
    with pytest.raises(LearnerLostError):
        Grading(False, LearnerLostError("gone")).judge()


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
