"""The collapse guard by hand: rows of metrics in, alarms out; and what is done about them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from harmonyray.checkpoint import CheckpointStore
from harmonyray.config_sections import GuardConfig
from harmonyray.errors import CollapseError, RunError
from harmonyray.guard import SIGNS, Alarm, Guard
from harmonyray.guarding import TurnBack, Watch, described

# --- the signs ---------------------------------------------------------------------------------------------------------------


def limits(**changes: Any) -> GuardConfig:
    return GuardConfig.model_validate(changes)


def row(step: int, entropy: float = 1.0, js: float = 0.2, **changes: float) -> dict[str, float]:
    """A healthy step of two views, `a` and `b`."""
    base = {"step": step, "consensus/entropy": entropy, "consensus/js": js, "train/kl": 0.01}
    of_views = {f"rollout/{view}/{key}": value for view in "ab" for key, value in (("length", 100.0), ("answered", 0.8))}
    return base | of_views | {key.replace("__", "/"): value for key, value in changes.items()}


def alarms(guard: Guard, rows: list[dict[str, float]]) -> list[Alarm]:
    return [alarm for each in rows if (alarm := guard.look(each)) is not None]


def entropies(values: list[float], views: str = "a", voted: bool = True, **changes: Any) -> list[tuple[int, int]]:
    """The (step, onset) of a run's alarms, its entropies being these and its views agreeing in everything."""
    rows = [row(i, value, 0.0) for i, value in enumerate(values, 1)]
    return [(alarm.step, alarm.onset) for alarm in alarms(Guard(limits(**changes), list(views), voted), rows)]


def test_one_view_that_grows_sure_is_told_after_three_steps() -> None:
    # The start is (1.2 + 1.0 + 0.8) / 3 = 1, so below 0.7 counts.
    assert entropies([1.2, 1.0, 0.8, 0.71, 0.69, 0.69, 0.69, 0.3]) == [(7, 5), (8, 5)]
    assert entropies([1.2, 1.0, 0.8, 0.71, 0.71, 0.71, 0.71, 0.71]) == []


def test_one_odd_step_is_no_alarm() -> None:
    assert entropies([1, 1, 1, 0.1, 0.1, 1, 0.1, 0.1, 1]) == []
    assert entropies([1, 1, 1, 0.1, 0.1, 1, 0.1, 0.1, 1], window=2) == [(5, 4), (8, 7)]
    assert entropies([1, 1, 1, 0.1, 1], window=1) == [(4, 4)]


def test_a_second_view_that_agrees_confirms_the_first() -> None:
    assert entropies([1, 1, 1, 0.5, 0.2, 0.1, 0.05], views="ab") == []


def test_labels_that_are_given_need_no_confirmation() -> None:
    assert entropies([1, 1, 1, 0.5, 0.2, 0.1, 0.05], voted=False) == []


def test_a_run_that_begins_sure_has_nothing_to_lose() -> None:
    assert entropies([0.0] * 8) == []


def test_views_that_grow_sure_of_different_answers_diverge() -> None:
    # At the start 0.2 of the entropy lies between views; 0.3 of the way from there to 1 is 0.44.
    falling = [(1.0, 0.2)] * 3 + [(0.9, 0.39), (0.8, 0.36), (0.7, 0.35), (0.7, 0.35)]
    guard = Guard(limits(max_divergence=0.3), ["a", "b"], voted=True)
    (alarm,) = alarms(guard, [row(i, *pair) for i, pair in enumerate(falling, 1)])
    assert (alarm.step, alarm.onset) == (7, 5)  # 0.39 / 0.9 is 0.433, 0.36 / 0.8 is 0.45
    assert alarm.text == (
        "divergence: 0.50 of the answers' entropy is between the views, 0.20 at the start (guard.max_divergence 0.3)"
    )


def test_stray_answers_at_the_end_are_no_divergence() -> None:
    rows = [row(i) for i in (1, 2, 3)] + [row(i, 0.05, 0.049) for i in (4, 5, 6, 7)]
    assert alarms(Guard(limits(), ["a", "b"], voted=True), rows) == []


@pytest.mark.parametrize(
    ("key", "fine", "beyond", "sign"),
    [
        ("rollout__b__length", 34.0, 33.0, "length"),  # three times shorter than 100 is 33.3
        ("rollout__b__length", 300.0, 301.0, "length"),
        ("rollout__b__answered", 0.41, 0.39, "answered"),  # half of 0.8
        ("train__kl", 1.0, 1.01, "kl"),
        ("train__kl", 1.0, float("nan"), "kl"),
    ],
)
def test_the_other_limits(key: str, fine: float, beyond: float, sign: str) -> None:
    def seen(value: float) -> list[Alarm]:
        rows = [row(i) for i in (1, 2, 3)] + [row(i, **{key: value}) for i in (4, 5, 6)]
        return alarms(Guard(limits(), ["a", "b"], voted=True), rows)

    assert seen(fine) == []
    (alarm,) = seen(beyond)
    assert (alarm.step, alarm.onset, list(alarm.signs)) == (6, 4, [sign])


def test_a_step_without_an_update_has_no_kl_and_that_is_no_sign() -> None:
    rows = [row(i, train__kl=2.0) for i in range(1, 6)]
    del rows[3]["train/kl"]
    assert [a.step for a in alarms(Guard(limits(), ["a", "b"], voted=True), rows)] == [3]


def test_two_signs_at_once_and_the_earlier_onset() -> None:
    rows = [row(i) for i in (1, 2, 3)]
    rows += [row(4, train__kl=2.0), *(row(i, train__kl=2.0, rollout__a__length=1.0) for i in (5, 6, 7))]
    last = alarms(Guard(limits(), ["a", "b"], voted=True), rows)[-1]
    assert (last.step, last.onset, list(last.signs)) == (7, 4, ["length", "kl"])


class Listening(dict[str, float]):
    """A row that remembers what was read of it."""

    def __init__(self, values: Mapping[str, float]) -> None:
        super().__init__(values)
        self.read: set[str] = set()

    def __getitem__(self, key: str) -> float:
        self.read.add(key)
        return super().__getitem__(key)

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("the guard looks only at what it names")


def test_the_guard_reads_no_figure_that_knows_a_gold_answer() -> None:
    known = {"consensus/label_accuracy": 0.5, "consensus/upper_bound": 1.0, "eval/a/avg_at_k": 0.4, "reward/a/mean": 0.5}
    guard, read = Guard(limits(), ["a", "b"], voted=True), set()
    for i in range(1, 6):
        listening = Listening(row(i) | known)
        guard.look(listening)
        read |= listening.read
    assert read == set(row(1))


# --- what survives -----------------------------------------------------------------------------------------------------------


def test_a_guard_that_was_saved_goes_on_as_if_nothing_had_happened() -> None:
    values = [1.2, 1.0, 0.8, 0.75, 0.5, 0.5, 0.5, 0.3]
    for cut in range(len(values)):
        first, second = Guard(limits(), ["a"], True), Guard(limits(), ["a"], True)
        rows = [row(i, value) for i, value in enumerate(values, 1)]
        got = alarms(first, rows[:cut])
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert [(a.step, a.onset) for a in got + alarms(second, rows[cut:])] == [(7, 5), (8, 5)]


def test_limits_that_changed_hold_for_the_steps_before_too() -> None:
    rows = [row(i, value) for i, value in enumerate([1, 1, 1, 0.5, 0.5, 0.5, 0.5], 1)]
    strict, wide = Guard(limits(), ["a"], True), Guard(limits(window=4), ["a"], True)
    assert [a.step for a in alarms(strict, rows[:6])] == [6]
    wide.load_state_dict(strict.state_dict())
    assert [(a.step, a.onset) for a in alarms(wide, rows[6:])] == [(7, 4)]


def test_going_back_forgets_what_came_after() -> None:
    guard = Guard(limits(), ["a"], True)
    assert alarms(guard, [row(i, value) for i, value in enumerate([1, 1, 1, 0.5, 0.5, 0.5], 1)])
    guard.go_back(2)
    # A new third step makes the start (1 + 1 + 4) / 3 = 2, and 1.3 is below 0.7 of that, 1.5 is not.
    again = [row(i, value) for i, value in enumerate([4, 1.3, 1.5, 1.3, 1.3, 1.3], 3)]
    assert [(a.step, a.onset) for a in alarms(guard, again)] == [(8, 6)]


def test_what_is_kept_does_not_grow_with_the_run() -> None:
    guard = Guard(limits(window=100), ["a"], True)
    got = [guard.look(row(i, 1.0 if i < 4 else 0.1)) for i in range(1, 300)]
    assert [i for i, alarm in enumerate(got, 1) if alarm][:1] == [103]
    assert len(json.dumps(guard.state_dict())) < 200 * len(json.dumps(row(100)))


# --- what is done ------------------------------------------------------------------------------------------------------------


def store(tmp_path: Path, *steps: int, keep: int = 3) -> CheckpointStore:
    made = CheckpointStore(tmp_path, keep)
    for step in steps:
        made.save(step, step, lambda directory: None, {})
    return made


def watch(saved: CheckpointStore, **changes: Any) -> Watch:
    """A watch over one view whose samples agree from step 4 on, before it acts on step 6."""
    made = Watch(Guard(limits(**changes), ["a"], True), limits(**changes), saved, lambda event: None)
    for i, value in enumerate([1, 1, 1, 0.5, 0.5], 1):
        assert not made.look(row(i, value)).get("guard/fired")
        made.act()
    made.look(row(6, 0.5))
    return made


def test_the_metrics_name_the_sign(tmp_path: Path) -> None:
    made = watch(store(tmp_path))
    assert made.look(row(7, 0.5)) == {
        "guard/fired": 1.0,
        "guard/rollbacks": 0.0,
        **{f"guard/{sign}": float(sign == "sharpening") for sign in SIGNS},
    }


def test_a_warning_is_given_once_a_sign(tmp_path: Path) -> None:
    made = watch(store(tmp_path))
    made.act()
    made.look(row(7, 0.5))
    made.act()
    assert [(event["step"], event["onset"], event["action"]) for event in made.events] == [(6, 4, "warn")]
    for i in (8, 9, 10):
        made.look(row(i, 0.5, train__kl=2.0))
        made.act()
    assert [(event["step"], list(event["signs"])) for event in made.events] == [(6, ["sharpening"]), (10, ["sharpening", "kl"])]
    assert described(made.events[0]) == (
        "step 6: collapse guard: sharpening: the answers' entropy is 0.5 nats, 0.50 of that at the start "
        "(guard.min_entropy_left 0.7), and no second view confirms them; since step 4"
    )


def test_none_does_nothing_but_remembers_for_a_resumed_run(tmp_path: Path) -> None:
    made = watch(store(tmp_path), action="none")
    made.act()
    assert made.look(row(7, 0.5)) == {}
    assert made.events == []
    resumed = Watch(Guard(limits(), ["a"], True), limits(), store(tmp_path), lambda event: None)
    resumed.load_state_dict(json.loads(json.dumps(made.state_dict())))
    assert resumed.look(row(8, 0.5))["guard/sharpening"] == 1.0


def test_a_pause_names_the_last_good_checkpoint_that_stays(tmp_path: Path) -> None:
    with pytest.raises(
        CollapseError,
        match=r"step 6: paused by the collapse guard: sharpening: .*; since step 4\. Step 6 is saved: "
        r"go on with --resume and guard\.action=warn .* delete the checkpoints after step 3, the last good one$",
    ):
        watch(store(tmp_path, 2, 3), action="pause").act()
    with pytest.raises(CollapseError, match=r"wider limits \(docs/guard\.md\)$"):  # saving step 6 pushes out step 3
        watch(store(tmp_path, 3, 4, 5), action="pause").act()


def test_a_rollback_goes_to_the_last_checkpoint_before_the_onset(tmp_path: Path) -> None:
    made = watch(store(tmp_path, 2, 3, 4), action="rollback", lr_factor=0.1)
    with pytest.raises(TurnBack) as back:
        made.act()
    assert (back.value.step, back.value.lr_scale) == (3, 0.1)
    assert made.events[-1]["to"] == 3
    assert described(made.events[-1]).endswith("since step 4; back to step 3, 0.1 of the learning rate")
    assert made.look(row(4, 0.5))["guard/rollbacks"] == 1.0


def test_rollbacks_end_in_a_pause(tmp_path: Path) -> None:
    made = watch(store(tmp_path, 3), action="rollback")
    scales = []
    for _ in range(2):
        with pytest.raises(TurnBack) as back:
            made.act()
        scales.append(back.value.lr_scale)
        for i in (4, 5, 6):
            made.look(row(i, 0.5))
    assert scales == [0.5, 0.25]
    with pytest.raises(CollapseError, match=r"paused by the collapse guard after 2 rollback\(s\)"):
        made.act()
    assert [event["action"] for event in made.events] == ["rollback", "rollback", "pause"]


def test_without_a_good_checkpoint_there_is_nothing_to_go_back_to(tmp_path: Path) -> None:
    with pytest.raises(CollapseError, match="paused by the collapse guard: sharpening"):
        watch(store(tmp_path, 4, 5), action="rollback").act()


# --- the configuration -------------------------------------------------------------------------------------------------------


def test_a_rollback_keeps_a_checkpoint_from_before_the_window(tmp_path: Path) -> None:
    """However few are kept and however often is saved. A rotten one is passed over, and without a sound one the run pauses."""
    kept = CheckpointStore(tmp_path, 1, spare=3)
    for step in range(1, 7):
        kept.save(step, step, lambda directory: None, {})
    assert kept.steps() == [3, 5, 6]
    with pytest.raises(TurnBack) as back:
        watch(kept, action="rollback").act()
    assert back.value.step == 3
    (kept.path(3) / "state.json").write_text("{}")
    with pytest.raises(CollapseError, match="paused by the collapse guard: sharpening"):
        watch(kept, action="rollback").act()


def test_after_an_evaluation_that_failed_nothing_is_done(tmp_path: Path) -> None:
    made = watch(store(tmp_path, 3), action="rollback")
    made.act(RunError("the engines are gone"))
    assert made.events == []
