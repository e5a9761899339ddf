"""The numbers and tables of a sweep, from run directories written by hand."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import pytest

from harmonyray.sweep.plots import plot_all
from harmonyray.sweep.results import CellResult, Figures, Spread, collect, figures_of
from harmonyray.sweep.state import SweepState, TrialState
from harmonyray.sweep.tables import as_json, latex, markdown, table_csv
from harmonyray.sweep.trials import Cell, Trial

MEASURE = "eval/solver/avg_at_k"


def write_run(run_dir: Path, *values: float, labels: float = 1.0) -> None:
    """A run with an evaluation before the first step and after each."""
    run_dir.mkdir(parents=True)
    (run_dir / "run.json").write_text(json.dumps({"mlflow_run_id": "abc", "eval_before": {MEASURE: values[0]}}))
    rows = [{"step": i + 1, MEASURE: v, "consensus/label_accuracy": labels, "time/step_s": 2.0} for i, v in enumerate(values[1:])]
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def row(label: str, *finals: float, group: str = "", gold: bool = False) -> CellResult:
    figures = {seed: Figures(curve=((0, 0.5), (1, final))) for seed, final in enumerate(finals)}
    return CellResult(Cell(label, group, ()), gold, planned=len(finals), figures=figures)


def test_the_interval_is_students_t() -> None:
    spread = Spread.of([1.0, 2.0, 3.0])
    assert spread is not None and spread.half is not None
    assert spread.mean == 2.0
    assert spread.half == pytest.approx(4.302653 / math.sqrt(3), abs=1e-5)  # the quantile for 2 degrees of freedom, sd 1
    assert str(spread) == "2.000 ± 2.484"
    assert str(Spread.of([0.25])) == "0.250"
    assert Spread.of([]) is None
    same = Spread.of([0.5, 0.5])
    assert same is not None and same.half == 0


def test_a_runs_figures_are_read_off_its_records(tmp_path: Path) -> None:
    write_run(tmp_path / "run", 0.5, 0.9, 0.2, labels=0.75)
    figures = figures_of(tmp_path / "run", MEASURE)
    assert figures.curve == ((0, 0.5), (1, 0.9), (2, 0.2))
    assert (figures.before, figures.final, figures.peak) == (0.5, 0.2, 0.9)
    assert (figures.labels_right, figures.mlflow_run_id, figures.seconds) == (0.75, "abc", 4.0)
    nothing = figures_of(tmp_path / "nothing", MEASURE)
    assert nothing.curve == () and nothing.mlflow_run_id is None and math.isnan(nothing.final)


def test_cells_are_counted_marked_and_compared_within_their_group(tmp_path: Path) -> None:
    ends = {  # label, group: (final, status) of each seed
        ("a", "x"): [(0.9, "finished"), (0.7, "finished")],
        ("b", "x"): [(0.44, "finished"), (0.46, "stopped")],  # of 0.5: 0.88 has collapsed, 0.92 has not
        ("a", "y"): [(0.3, "finished"), (0.0, "failed")],
        ("b", "y"): [(0.0, "failed"), (0.0, "failed")],
    }
    trials = [
        Trial(f"{label}{group}{seed}", Cell(label, group, ()), seed, None)  # type: ignore[arg-type]
        for (label, group), seeds in ends.items()
        for seed in range(len(seeds))
    ]
    state = SweepState(tmp_path, trials)
    for trial in trials:
        final, status = ends[trial.cell.label, trial.cell.group][trial.seed]
        state.trials[trial.id] = TrialState(status=status)  # type: ignore[arg-type]
        write_run(state.run_dir(trial), 0.5, final)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trial, "reads_gold", False)
        rows = collect(trials, state, MEASURE, 0.9)
    counted = [(r.cell.name, r.planned, len(r.figures), r.failed, r.stopped, r.collapsed) for r in rows]
    assert counted == [("a, x", 2, 2, 0, 0, 0), ("b, x", 2, 2, 0, 1, 1), ("a, y", 2, 1, 1, 0, 1), ("b, y", 2, 0, 2, 0, 0)]
    assert [r.marks.get("final") for r in rows] == [1, 2, None, None]  # y has one cell with figures: nothing to compare
    assert str(rows[0].spread("final")) == f"0.800 ± {12.7062 * 0.1:.3f}"  # 1 degree of freedom, standard error 0.1
    text = markdown(rows, MEASURE)
    assert "| y | b | 0/2 | - | - | - | - | 0/0 | - |" in text
    assert "| x | b | 2 (1 ended early) | 0.500 ± 0.000 | _0.450 ± 0.127_ |" in text


def test_the_best_and_second_best_are_marked_and_a_bound_is_not() -> None:
    from harmonyray.sweep.results import _mark

    ends = {"low": 0.2, "tie_1": 0.70004, "tie_2": 0.7, "best|%": 0.9}
    rows = [*(row(label, end, end) for label, end in ends.items()), row("gold", 1.0, gold=True)]
    _mark([r for r in rows if not r.reads_gold], "final")
    assert [r.marks.get("final") for r in rows] == [None, 2, 2, 1, None]
    lines = markdown(rows, MEASURE).splitlines()
    assert lines[0] == "| cell | seeds | before | final | peak | labels right | collapsed | s/trial |"
    assert lines[2] == "| low | 2 | 0.500 ± 0.000 | 0.200 ± 0.000 | 0.500 ± 0.000 | - | 0/2 | 0 |"
    assert lines[3].startswith("| tie_1 | 2 | 0.500 ± 0.000 | _0.700 ± 0.000_ |")
    assert lines[5].startswith(r"| best\|% | 2 | 0.500 ± 0.000 | **0.900 ± 0.000** |")
    assert lines[6].startswith("| gold † | 1 | 0.500 | 1.000 |")
    assert "† reads the gold answers" in lines[-1]
    tex = latex(rows, MEASURE)
    assert r"best|\% & 2 & 0.500 $\pm$ 0.000 & \textbf{0.900 $\pm$ 0.000} & 0.900 $\pm$ 0.000 & - & 0/2 & 0 \\" in tex
    assert r"tie\_2 & 2 & 0.500 $\pm$ 0.000 & \underline{0.700 $\pm$ 0.000} &" in tex
    assert r"gold $\dagger$" in tex
    assert r"\begin{tabular}{lrrrrrrr}" in tex


def test_nothing_is_marked_where_a_row_has_no_interval() -> None:
    from harmonyray.sweep.results import _mark

    for rows in ([row("a", 0.2), row("b", 0.9)], [row("a", 0.2, 0.3), row("b", 0.9)]):
        _mark(rows, "final")
        assert [r.marks for r in rows] == [{}, {}]


def test_csv_and_json_have_the_plain_numbers() -> None:
    rows = [row("a", 0.25, 0.75), row("b", 0.5)]
    [first, second] = csv.DictReader(io.StringIO(table_csv(rows)))
    assert (first["cell"], first["final"], first["planned"]) == ("a", "0.5", "2")
    assert float(first["final_half"]) == pytest.approx(12.7062 * 0.25, abs=1e-4)
    assert second["final_half"] == ""
    cell = json.loads(json.dumps(as_json(rows)))[0]
    assert cell["seeds"]["1"]["curve"] == [[0, 0.5], [1, 0.75]]
    assert (cell["final"], cell["labels_right"]) == (0.5, None)


def test_pictures_are_drawn_for_what_has_ended(tmp_path: Path) -> None:
    rows = [row("a", 0.2, 0.3, group="x"), row("b", 0.9, group="x"), row("a", 0.9, group="y"), row("none", group="y")]
    for path in plot_all(rows, MEASURE, tmp_path):
        assert path.read_bytes()[:4] == b"\x89PNG" and path.stat().st_size > 10_000
    assert {p.name for p in tmp_path.iterdir()} == {"curves.png", "final.png"}
    assert plot_all([row("none")], MEASURE, tmp_path / "nowhere") == []
