"""What a person sees: nothing but warnings where there is no terminal, the table at the end, one warning for each mute view."""

from __future__ import annotations

import io
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from harmonyray.config import Config, load_config
from harmonyray.console import Reporter

SMALL = ["steps=4", "eval.num_samples=2", "runtime.type=in_process"]


@pytest.fixture
def config() -> Config:
    return load_config("quickstart", SMALL)


def row(step: int, coverage: float = 0.5, **changes: float) -> dict[str, float]:
    base: dict[str, float] = {
        "step": step,
        "consensus/coverage": coverage,
        "consensus/upper_bound": 1.0,
        "consensus/majority_label_accuracy": 0.25,
        "rollout/solver/answered": 1.0,
        "rollout/reframer/answered": 1.0,
        "runtime/restarts": 0.0,
        **{f"time/{name}_s": 0.2 for name in ("step", "generate", "score", "grade", "learn", "sync", "eval", "save")},
        "train/skipped": float(not coverage),
    }
    if coverage:
        base["consensus/label_accuracy"] = step / 10
    return base | changes


BEFORE = {
    "eval/solver/avg_at_k": 0.4,
    "eval/solver/greedy": 0.5,
    "eval/reframer/avg_at_k": 0.1,
    "eval/reframer/greedy": 0.2,
    "eval/majority_at_k": 0.3,
    "eval/harmonic_at_k": 0.35,
}
AFTER = {key: value + 0.5 for key, value in BEFORE.items()}
SUMMARY: dict[str, Any] = {
    "run_dir": "/x/run",
    "mlflow_run_id": "abc",
    "steps": 4,
    "first_step": 1,
    "eval_before": BEFORE,
    "eval_after": AFTER,
    "wall_seconds": 12.3,
    "guard": [],
}


def cells(text: str) -> list[list[str]]:
    """The rows of the printed table, cell by cell."""
    rows = [line.replace("┃", "│").strip()[1:-1].split("│") for line in text.splitlines() if "│" in line or "┃" in line]
    return [[cell.strip() for cell in row] for row in rows]


def test_the_table_by_hand(config: Config) -> None:
    text = Reporter(quiet=True).finish(config, SUMMARY, [row(i) for i in (1, 2, 3, 4)], "sqlite:///x.db")
    assert text.startswith("quickstart: self_harmony, 4 steps, 12 s")
    assert cells(text) == [
        ["", "before", "after"],
        ["accuracy, solver view, avg@2", "0.400", "0.900"],
        ["accuracy, solver view, greedy", "0.500", "1.000"],
        ["accuracy, reframer view, avg@2", "0.100", "0.600"],
        ["accuracy, reframer view, greedy", "0.200", "0.700"],
        ["majority@2 over all views", "0.300", "0.800"],
        ["harmonic@2 over all views", "0.350", "0.850"],
        ["training, mean of 2 step(s)", "first", "last"],
        ["problems with a pseudo-label", "0.500", "0.500"],
        ["pseudo-labels right", "0.150", "0.350"],  # of steps 1 and 2, of 3 and 4
        ["majority of the 16 solver samples right, of these", "0.250", "0.250"],
        ["upper bound: any sample right", "1.000", "1.000"],
    ]
    closing = text.splitlines()[-6:]
    assert closing[0] == "run     /x/run"
    tool, arguments = closing[3].split(maxsplit=1)
    assert shutil.which(tool) is not None, "the command can be pasted into this shell"
    assert arguments == "eval --model /x/run/model --problems quickstart"
    assert closing[4] == "MLflow  run abc"
    tool, arguments = closing[5].split(maxsplit=1)
    assert shutil.which(tool) is not None
    assert arguments == "ui --backend-store-uri sqlite:///x.db"


def test_the_table_of_a_resumed_run_says_what_the_seconds_are_of(config: Config) -> None:
    text = Reporter(quiet=True).finish(config, SUMMARY | {"first_step": 3}, [row(i) for i in (1, 2, 3, 4)], "")
    assert text.startswith("quickstart: self_harmony, 4 steps, the last 2 of them in 12 s ")


def test_a_paused_run_has_its_newest_evaluation_and_the_way_on() -> None:
    config = load_config("quickstart", [*SMALL, "steps=9"])
    summary = SUMMARY | {"paused": "step 4: paused by the collapse guard: ..."}
    text = Reporter(quiet=True).finish(config, summary, [row(1), row(2, **AFTER), row(3), row(4)], "")
    assert text.startswith("quickstart: self_harmony, paused after 4 of 9 steps, 12 s ")
    assert cells(text)[:2] == [["", "before", "step 2"], ["accuracy, solver view, avg@2", "0.400", "0.900"]]
    assert (
        "\ngo on   the same command with --run-dir /x/run --resume guard.action=warn, or with wider limits (docs/guard.md)\n"
        in text
    )
    assert "harmonyray export /x/run --out /x/run-model\n" in text
    assert "/x/run/model" not in text
    without = Reporter(quiet=True).finish(config, summary | {"eval_after": {}}, [row(1), row(4)], "")
    assert cells(without)[:2] == [["", "before", "after"], ["accuracy, solver view, avg@2", "0.400", "-"]]


def test_a_view_of_another_model_is_marked() -> None:
    config = load_config("quickstart", [*SMALL, "views.reframer.model=other/model"])
    table = cells(Reporter(quiet=True).finish(config, SUMMARY, [row(1)], ""))
    assert [name for name, *_ in table if "avg@2" in name] == [
        "accuracy, solver view, avg@2",
        "accuracy, reframer view (not trained), avg@2",
    ]


WINDOWS = [(1, 1), (2, 1), (3, 1), (5, 2), (16, 8), (40, 8)]


@pytest.mark.parametrize(("num_rows", "window"), WINDOWS)
def test_the_window_never_overlaps_and_is_eight_at_most(config: Config, num_rows: int, window: int) -> None:
    rows = [row(i, **{"consensus/upper_bound": float(i)}) for i in range(1, num_rows + 1)]
    table = cells(Reporter(quiet=True).finish(config, SUMMARY, rows, ""))
    assert table[-5][0] == f"training, mean of {window} step(s)"
    first, last = sum(range(1, window + 1)) / window, sum(range(num_rows - window + 1, num_rows + 1)) / window
    assert table[-1][1:] == [f"{first:.3f}", f"{last:.3f}"]


def test_without_gold_the_table_says_so(config: Config) -> None:
    blind = SUMMARY | {"eval_before": {}, "eval_after": {}}
    without = {"consensus/label_accuracy", "consensus/upper_bound", "consensus/majority_label_accuracy"}
    rows = [{k: v for k, v in row(1).items() if k not in without}]
    table = cells(Reporter(quiet=True).finish(config, blind, rows, ""))
    assert table[1] == ["accuracy, solver view, avg@2", "no gold", "no gold"]
    assert table[-3:] == [[name, "none", "none"] for name, *_ in table[-3:]]


def test_one_view_has_no_harmonic_row() -> None:
    config = load_config("quickstart-majority", SMALL)
    table = cells(Reporter(quiet=True).finish(config, SUMMARY, [row(1)], ""))
    assert [cell[0] for cell in table if "over all views" in cell[0]] == ["majority@2 over all views"]


@pytest.mark.parametrize(("coverages", "said"), [([0, 0], True), ([0, 0.1], False), ([], False)])
def test_a_run_that_trained_nothing_says_so(config: Config, tmp_path: Path, coverages: list[float], said: bool) -> None:
    reporter = Reporter(quiet=True)
    reporter.start(config, tmp_path, 1, 8)
    rows = [row(i, coverage) for i, coverage in enumerate(coverages, 1)]
    for r in rows:
        reporter.step(r)
    assert ("nothing was trained" in reporter.finish(config, SUMMARY, rows, "")) == said
    unlabelled = [r | {"train/skipped": 0.0} for r in rows]  # a method that goes by no labels
    assert "nothing was trained" not in reporter.finish(config, SUMMARY, unlabelled, "")


def drive(reporter: Reporter, config: Config, tmp_path: Path) -> None:
    reporter.start(config, tmp_path, 1, 8)
    reporter.evaluated(BEFORE)
    for i in (1, 2, 3, 4):
        reporter.step(row(i, **{"rollout/reframer/answered": 0.0}))
    reporter.skipped(["a"], 256)
    reporter.tracking_errors(["MlflowException: gone [bold]"])
    reporter.finish(config, SUMMARY, [row(i) for i in (1, 2, 3, 4)], "sqlite:///x.db")


def test_without_a_terminal_progress_is_a_plain_line_now_and_then(
    config: Config, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps at 100, 105, 110 and 112 s: the second comes too soon after a line, as would the last."""
    clock = iter([100.0, 100.0, 105.0, 110.0, 110.0, 112.0, 112.0])
    monkeypatch.setattr("harmonyray.console.time.monotonic", lambda: next(clock))
    drive(Reporter(), config, tmp_path)
    out, err = capsys.readouterr()
    head, batch, *steps, title = out.splitlines()[:6]
    assert head.startswith("quickstart: self_harmony on quickstart, run directory")
    assert "= 256 rollouts a step" in batch
    assert [line.split(" | ")[0] for line in steps] == [f"step {i}/4 accuracy 0.400" for i in (1, 3, 4)]
    assert title.startswith("quickstart: self_harmony, 4 steps")
    assert "\x1b" not in out + err
    assert "\r" not in out + err
    assert err.splitlines() == [
        "step 1: view 'reframer' returned no answers; does the model follow its prompt (harmonyray list views), and is "
        "rollout.max_response_tokens long enough?",
        "skipped 1 problem(s) with a prompt longer than rollout.max_prompt_tokens = 256: a",
        "MlflowException: gone [bold]",
    ]


def test_quiet_leaves_the_warnings_only(config: Config, tmp_path: Path, capsys: Any) -> None:
    drive(Reporter(quiet=True), config, tmp_path)
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 3


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_there_are_a_header_and_progress(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm")
    reporter = Reporter()
    drive(reporter, config, tmp_path)
    assert reporter.progress is None  # stopped: the cursor is back
    text = screen.getvalue()
    assert "8 problems, 8 a step x 32 samples (solver 16, reframer 16) = 256 rollouts a step, 1 step an epoch" in text
    assert "accuracy 0.400 | labelled 0.50, right 0.40" in text


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, "skipped 1 problem(s) .* = 9: p0$"), (5, "p0, p1, p2, p3, p4$"), (8, "skipped 8 .*p4 and 3 more$")],
)
def test_skipped_problems_are_counted_and_named(count: int, expected: str, capsys: Any) -> None:
    Reporter(quiet=True).skipped([f"p{i}" for i in range(count)], 9)
    assert re.search(expected.replace("(s)", r"\(s\)"), capsys.readouterr().err.strip())


def test_nothing_skipped_nothing_said(capsys: Any) -> None:
    Reporter().skipped([], 9)
    assert capsys.readouterr() == ("", "")


def test_markup_in_a_problems_name_is_text(capsys: Any) -> None:
    Reporter().skipped(["[red]id[/red]", "[/]", ":smile:"], 9)
    assert "[red]id[/red], [/], :smile:" in capsys.readouterr().err


def test_markup_in_the_runs_name_is_text(tmp_path: Path, capsys: Any) -> None:
    config = load_config("quickstart", [*SMALL, "name='[a] :b: [bold]c'"])
    text = Reporter().finish(config, SUMMARY, [row(1)], "")
    assert "[a] :b: [bold]c: self_harmony" in text
    assert "[a] :b: [bold]c: self_harmony" in capsys.readouterr().out


def test_drafts_that_are_too_long_are_told_of_once(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter()
    reporter.config = load_config("quickstart", [])
    for i, share in enumerate((0.0, 0.25, 0.5), start=1):
        reporter.step(row(i, **{"rollout/reframer/draft_too_long": share}))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "step 2: view 'reframer' has drafts whose second prompt would be longer than rollout.max_prompt_tokens = 256"
    )


def test_a_replaced_actor_is_told_in_our_own_words(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter()
    reporter.config = load_config("quickstart", ["runtime.max_restarts=5"])
    reporter.step(row(1))
    assert capsys.readouterr().err == ""
    reporter.step(row(2, **{"runtime/restarts": 1.0}))
    assert "step 2: 1 actor(s) died or hung and were started again (runtime.max_restarts = 5 in a run)" in capsys.readouterr().err
