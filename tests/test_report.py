"""What a report holds: its data by hand, its charts, what it says of gold and guard."""

from __future__ import annotations

import base64
import gzip
import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from report_helpers import GOLD, SHOWN, make_run
from run_helpers import small_run

from harmonyray.errors import ReportError
from harmonyray.report import packing
from harmonyray.report.charts import Chart, Series, run_charts
from harmonyray.report.packing import pack_run, spread
from harmonyray.report.page import FOLDER
from harmonyray.report.reading import read_run
from harmonyray.report.reporting import describe_report, run_report
from harmonyray.report.svg import hover_data, scale_of, tick_step, ticks


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("report") / "by-hand")


def unpack(text: str) -> Any:
    return json.loads(gzip.decompress(base64.b64decode(text)))


def page_of(run_dir: Path) -> str:
    return Path(run_report(str(run_dir))["report"]).read_text()


def test_the_votes_by_hand(run: Path) -> None:
    packed = pack_run(run)
    assert packed is not None
    pieces = {name: unpack(text) for name, text in packed.pieces.data.items()}
    index, votes = pieces["index"], pieces["votes-2"]
    assert (index["ids"], index["steps"], index["views"]) == (["p", "q", "r", "s"], [1, 2], ["solver", "reframer"])
    assert index["questions"][0] == "What is six times seven?"
    assert votes["l"]["harmonic"] == [1, 0, -1, -1]
    assert votes["l"]["majority"] == [0, 0, 0, -1]
    assert votes["l"]["self"] == [[0, 1], 0, [0, 1], -1]
    assert votes["l"]["used"] == votes["l"]["harmonic"]
    assert votes["k"][0] == [[6, 1], [2, 4]]
    assert votes["n"][0] == [8, 8]
    assert votes["r"] == [[0, 1], [1, 0], [0, 0], None]
    assert votes["g"] == [GOLD["p"], SHOWN, "9", None]
    assert votes["s"][0] == [round(2 / (8 / 6 + 8 / 1), 4), round(2 / (8 / 2 + 8 / 4), 4)]


def test_disagreement_between_selectors_by_hand(run: Path) -> None:
    packed = pack_run(run)
    assert packed is not None
    table = packed.disagreement
    place = table.names.index
    assert table.num_cells == 8
    # Harmonic and majority: another label of p, and none against one of r; at both steps.
    assert table.counts[place("harmonic"), place("majority")] == table.counts[place("majority"), place("harmonic")] == 4
    assert table.counts[place("harmonic"), place("harmonic")] == 0
    assert table.counts[place("harmonic"), place("self")] == 4  # p and r, where the views differ


def test_what_was_right_can_be_asked_for_where_the_ledger_says_it(tmp_path: Path) -> None:
    """Whatever the metrics have."""
    button = 'data-a="harmonic:right"'
    marked, unmarked = make_run(tmp_path / "marked"), make_run(tmp_path / "unmarked")
    metrics = (marked / "metrics.jsonl").read_text().replace("consensus/upper_bound", "consensus/other")
    (marked / "metrics.jsonl").write_text(metrics)
    for path in (unmarked / "ledger").iterdir():
        pq.write_table(pq.read_table(path).drop_columns(["gold", "right"]), path)  # as an earlier version wrote it
    assert button in page_of(marked) and button not in page_of(unmarked)


def test_texts_are_kept_whole_if_they_fit_and_say_when_they_are_cut(run: Path) -> None:
    packed = pack_run(run)
    assert packed is not None
    index = unpack(packed.pieces.data["index"])
    rows: dict[str, list[Any]] = {}
    for name, _ in index["texts"]["1"]:
        for problem, found in unpack(packed.pieces.data[name]).items():
            rows.setdefault(problem, []).extend(found)
    assert [len(rows[p]) for p in "0123"] == [16, 6, 6, 4]
    view, sample, cluster, answer, reward, tokens, cut_off, text, draft, _ = sorted(rows["0"])[8]
    assert (view, sample, cluster, answer, reward, tokens, cut_off) == (1, 0, 1, "5", 1.0, 12, False)
    assert (text, draft) == (["step 1, sample 0: \\boxed{5}", 0], ["draft 0", 0])
    assert [row[4] for row in sorted(rows["0"])[6:9]] == [1.0, None, 1.0]  # one sample only voted
    assert rows["2"][0][7][1] == 300_000
    assert len(rows["2"][0][7][0]) < 21_000


def test_beyond_the_budget_one_example_of_each_answer_goes_first(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pack_run(run)
    assert whole is not None
    first = len(whole.pieces.data["texts-2-0"])
    monkeypatch.setattr(packing, "TEXT_BYTES", first)
    packed = pack_run(run)
    assert packed is not None
    assert [name for name in packed.pieces.data if name.startswith("texts")] == ["texts-2-0"]
    examples = unpack(packed.pieces.data["texts-2-0"])
    assert [row[:3] for row in examples["0"]] == [[0, 0, 0], [0, 6, 1], [1, 0, 1], [1, 4, 0], [1, 5, -1]]
    monkeypatch.setattr(packing, "TEXT_BYTES", first - 1)
    packed = pack_run(run)
    assert packed is not None and not any(name.startswith("texts") for name in packed.pieces.data)


def test_steps_are_taken_from_the_ends_inwards() -> None:
    assert spread([1, 2, 3, 4, 5, 6, 7, 8, 9]) == [9, 1, 5, 3, 7, 2, 4, 6, 8]
    assert spread([3]) == [3]
    assert spread([1, 2]) == [2, 1]


def test_scales_and_ticks_by_hand() -> None:
    assert tick_step(0, 1) == 0.5 and tick_step(0, 40) == 10 and tick_step(0, 0.03) == 0.01
    assert ticks(0, 40, 10) == [0, 10, 20, 30, 40]
    chart = Chart("a", "A", "", (Series("x", ((0, 2.0), (4, float("nan")), (10, 3.5))),))
    scale = scale_of(chart)
    assert (scale.x0, scale.x1, scale.y0, scale.y1) == (0, 10, 0, 4)
    assert (scale.x(5), scale.y(2)) == (40 + 390 / 2, 230 - 24 - 196 / 2)
    data = json.loads(hover_data(chart))
    assert data["at"] == [[0, 40.0], [4, 196.0], [10, 430.0]]
    assert data["values"] == [{"0": "2.000", "4": "nan", "10": "3.500"}]


def test_an_accuracy_curve_begins_before_the_first_step(tmp_path: Path) -> None:
    name = "eval/solver/avg_at_k"
    figures = {name: 0.9, f"{name}_low": 0.8, f"{name}_high": 1.0, "time/step_s": 2.0, "time/score_s": 1.0}
    run_dir = make_run(tmp_path / "run", metrics=[{}, figures])
    before = {name: 0.5, f"{name}_low": 0.4, f"{name}_high": 0.6}
    events = [{"step": 2, "onset": 1, "signs": {"sharpening": "entropy 0.1"}, "action": "warn"}]
    (run_dir / "summary.json").write_text(json.dumps({"eval_before": before, "guard": events}))
    chart = run_charts(read_run(run_dir))[0]
    assert chart.series == (Series("solver", ((0, 0.5), (2, 0.9)), band=((0, 0.4, 0.6), (2, 0.8, 1.0))),)
    assert [series.name for series in run_charts(read_run(run_dir))[-1].series] == ["score"]  # the one phase that took time
    page = page_of(run_dir)
    assert "step 2: collapse guard: sharpening: entropy 0.1; since step 1" in page
    assert "No sign of collapse" not in page
    (run_dir / "summary.json").unlink()
    assert "No sign of collapse in 2 steps" in page_of(run_dir)


def test_signs_of_a_run_that_did_not_end_well(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", metrics=[{}, {"guard/fired": 1.0, "guard/divergence": 1.0, "guard/length": 0.0}])
    page = page_of(run_dir)
    assert "divergence: fired at 1 step(s), first 2, last 2" in page
    assert "length: fired" not in page


def test_a_page_says_whether_gold_was_used_for_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Trained without gold answers" in page_of(make_run(tmp_path / "a"))
    gold = page_of(make_run(tmp_path / "b", config="quickstart-ground_truth"))
    assert "Gold answers were used for training" in gold and "Trained without gold answers" not in gold
    unknown = make_run(tmp_path / "c")
    (tmp_path / "never_imported.py").write_text("raise AssertionError\n")
    monkeypatch.syspath_prepend(tmp_path)
    text = (unknown / "config.yaml").read_text().replace("type: self_harmony", "type: never_imported:Method")
    (unknown / "config.yaml").write_text(text)
    assert "Whether gold answers were used is not known here" in page_of(unknown)
    assert page_of(tmp_path).count("gold: not known") == 1


def test_the_page_is_one_file_that_asks_nobody_and_holds_no_markup_of_others(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "<b>name")
    with (run_dir / "config.yaml").open("a") as file:
        file.write("# </pre><script>window.hacked = 3</script>\n")
    page = page_of(run_dir)
    assert "<b>name" not in page and "&lt;b&gt;name" in page
    assert page.count("<script>") == 1 and page.count("</script>") == 1 + page.count('<script type="text/plain"')
    addresses = set(re.findall(r"(?:https?:)?//[\w.]+\.\w+[^\s\"']*", page))
    assert addresses <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<(?:link|img|iframe)\b|\burl\(|@import", page)


def luminance(color: str) -> float:
    """Relative luminance (WCAG 2.2) of #rrggbb."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("block", [0, 1], ids=["light", "dark"])
def test_text_has_the_contrast_that_people_need(block: int) -> None:
    """4.5 to 1 for text, 3 to 1 for lines (WCAG 2.2, 1.4.3 and 1.4.11)."""
    blocks = re.findall(r":root \{(.*?)\}", (FOLDER / "style.css").read_text(), flags=re.S)
    colors = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", blocks[block]))
    assert len(blocks) == 2

    def contrast(a: str, b: str) -> float:
        high, low = sorted((luminance(colors[a]), luminance(colors[b])), reverse=True)
        return (high + 0.05) / (low + 0.05)

    for ground in ("paper", "card"):
        for name in ("ink", "muted", "accent", "right", "wrong", "none"):
            assert contrast(name, ground) >= 4.5, (name, ground)
        for line in range(8):
            assert contrast(f"c{line}", ground) >= 3, line
    assert contrast("warn", "warn-paper") >= 4.5 and contrast("ink", "warn-paper") >= 4.5


@pytest.mark.slow
def test_a_real_run_by_its_directory_and_by_its_mlflow_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a run goes on after it was reported."""
    trained = small_run(tmp_path / "run", "steps=2", "checkpoint.every=1")
    summary = run_report(str(tmp_path / "run"))
    page = Path(summary["report"]).read_text()
    assert "harmonyray 0.1.0" in page and "torch 2." in page
    assert "Explorer" in page and 'id="data-votes-2"' in page
    assert describe_report(summary).splitlines()[0] == str(tmp_path / "run" / "report.html")
    assert len(summary["pictures"]) >= 10
    (tmp_path / "run" / "report.html").unlink()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    again = run_report(trained["mlflow_run_id"])
    assert (again["report"], again["num_runs"]) == (summary["report"], 1)
    assert small_run(tmp_path / "run", "steps=3", "checkpoint.every=1", resume=True)["steps"] == 3
    with pytest.raises(ReportError, match="gives no run"):
        run_report("0" * 32)
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    with pytest.raises(ReportError, match=r"is not on this machine: fetch it with `mlflow artifacts download"):
        run_report(trained["mlflow_run_id"])
