"""`harmonyray vote`: hand-computed labels and figures, replaying a run, and what gets loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from run_helpers import samples, small_run, write_rows
from vote_helpers import BARE, ROWS, read, vote

from harmonyray.cli import main
from harmonyray.registry import BUILT_IN

FOUR_NINTHS = 4 / 9
HEAVY = {"torch", "ray", "transformers", "mlflow", "vllm", "pandas", "math_verify", "matplotlib"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "votes.jsonl", ROWS)


def test_harmonic_by_hand(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = vote(capsys, file, "--out", tmp_path / "out.jsonl")
    a, b, c, d = read(tmp_path / "out.jsonl")
    assert a == {
        "id": "a",
        "label": "4",
        "scores": {"4": pytest.approx(FOUR_NINTHS), "5": 0.0, "6": 0.0},
        "margin": pytest.approx(FOUR_NINTHS),
        "tie": False,
    }
    assert b == {"id": "b", "label": None, "scores": {"1": 0.0, "2": 0.0, "3": 0.0}, "margin": 0.0, "tie": False}
    assert (c["label"], c["scores"][c["label"]]) == ("0.5", pytest.approx(FOUR_NINTHS))
    assert d == {"id": "d", "label": None, "scores": {}, "margin": 0.0, "tie": False}
    expected = {
        "num_problems": 4,
        "num_gold": 4,
        "num_abstained": 2,
        "num_timeouts": 0,
        "num_ties": 0,
        "num_skipped": 0,
        "skipped": [],
        "accuracy": 0.5,
        "coverage": 0.5,
        "disagreement": 0.0,
        "selector": "harmonic",
    }
    assert {key: summary[key] for key in expected} == expected
    assert summary["wall_seconds"] > 0


def test_majority_by_hand(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = vote(capsys, file, "--selector", "majority", "--out", tmp_path / "out.jsonl")
    rows = read(tmp_path / "out.jsonl")
    assert [row["label"] for row in rows] == ["4", "1", "0.5", None]
    assert rows[0]["scores"] == {"4": 3.0, "5": 1.0, "6": 2.0}
    assert rows[0]["margin"] == 1.0
    assert (summary["accuracy"], summary["num_abstained"]) == (0.75, 1)


def test_options_reach_the_selector(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vote(capsys, file, "--selector", "arithmetic", "-o", "weights=[1, 0]", "-o", "min_score=0.5", "--out", tmp_path / "o.jsonl")
    assert [row["label"] for row in read(tmp_path / "o.jsonl")] == ["4", "1", None, None]
    vote(capsys, file, "--selector", "bootstrap", "-o", "of.type=majority", "-o", "seed=3", "--out", tmp_path / "o.jsonl")
    assert read(tmp_path / "o.jsonl")[0]["label"] == "4"


def test_accuracy_is_over_the_problems_with_gold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{**row, "gold": None} if row["id"] in "bd" else row for row in ROWS]
    summary = vote(capsys, write_rows(tmp_path / "some.jsonl", rows))
    assert (summary["num_gold"], summary["accuracy"]) == (2, 1.0)
    summary = vote(capsys, write_rows(tmp_path / "none.jsonl", BARE))
    assert summary["num_gold"] == 0
    assert "accuracy" not in summary


def test_gold_from_a_problem_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    problems = write_rows(tmp_path / "p.jsonl", [{"id": r["id"], "question": "?", "answer": r["gold"]} for r in ROWS])
    assert vote(capsys, write_rows(tmp_path / "v.jsonl", BARE), "--problems", problems)["accuracy"] == 0.5


def test_views_judged_apart_give_the_label_of_the_view_asked_for(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = {}
    for name, view in (("self", "s"), ("self", "r"), ("cross", "s")):
        vote(capsys, file, "--selector", name, "--view", view, "--out", tmp_path / "o.jsonl")
        labels[name, view] = [row["label"] for row in read(tmp_path / "o.jsonl")]
    # ties in b's second view: 2 was sampled before 3
    assert labels["self", "s"] == ["4", "1", "0.5", None]
    assert labels["self", "r"] == labels["cross", "s"] == ["6", "2", "0.5", None]


def test_every_selector_at_once(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = vote(capsys, file, "--selector", "all", "--out", tmp_path / "o.jsonl", "--plot", tmp_path / "p.png")
    table = summary["selectors"]
    assert set(BUILT_IN["selectors"]) - set(table) == {"bootstrap", "schedule", "mixed"}
    assert table["majority"] == {
        "num_abstained": 1,
        "num_ties": 0,
        "coverage": 0.75,
        "disagreement": 0.0,
        "accuracy": 0.75,
    }
    assert table["harmonic"]["accuracy"] == summary["accuracy"] == 0.5
    assert table["mean_variance"]["disagreement"] == 0.0
    rows = read(tmp_path / "o.jsonl")
    assert len(rows) == 4 * len(table)
    assert [row["label"] for row in rows if row["selector"] == "harmonic"] == ["4", None, "0.5", None]
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_the_table_for_people(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["vote", str(file), "--selector", "all"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["selector", "accuracy", "coverage", "differs", "from", "majority", "ties"]
    assert ["majority", "0.7500", "0.7500", "0.0000", "0"] in [line.split() for line in lines]
    assert lines[-1].startswith("4 problems, 4 with gold; ")


def test_whole_responses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    views = {"s": ["So \\boxed{4}.", "I give up", "<think>\\boxed{9}</think> The answer is 4."], "r": ["#### 4"]}
    source = write_rows(tmp_path / "r.jsonl", [{"id": 1, "views": views, "gold": "thinking...\n#### 4"}])
    assert vote(capsys, source, "--extract", "--out", tmp_path / "o.jsonl")["accuracy"] == 1.0
    assert read(tmp_path / "o.jsonl")[0]["scores"] == {"4": pytest.approx(2 * (2 / 3) / (5 / 3))}
    choice = write_rows(tmp_path / "c.jsonl", [{"id": 1, "views": {"s": ["I'd say (B)"], "r": ["Option b"]}, "gold": "B"}])
    assert vote(capsys, choice, "--extract", "--kind", "choice")["accuracy"] == 1.0


def test_permuting_problems_and_views_permutes_the_labels(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vote(capsys, file, "--out", tmp_path / "a.jsonl")
    turned = [{**row, "views": dict(reversed(row["views"].items()))} for row in reversed(ROWS)]
    vote(capsys, write_rows(tmp_path / "turned.jsonl", turned), "--out", tmp_path / "b.jsonl")
    assert sorted(read(tmp_path / "a.jsonl"), key=str) == sorted(read(tmp_path / "b.jsonl"), key=str)


def test_a_run_is_replayed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_run(tmp_path / "run", "steps=2")
    recorded: dict[tuple[int, str], str | None] = {}
    for row in samples(tmp_path / "run"):
        recorded[row["step"], row["problem_id"]] = row["label"]
    out = tmp_path / "o.jsonl"
    summary = vote(capsys, tmp_path / "run", "--out", out, "--problems", "quickstart")
    assert {(row["step"], row["id"]): row["label"] for row in read(out)} == recorded
    assert summary["num_problems"] == summary["num_gold"] == len(recorded) == 8
    with_ledger = vote(capsys, tmp_path / "run", "--selector", "all", "--out", out)["selectors"]
    rows = read(out)
    for path in (tmp_path / "run" / "ledger").glob("*.parquet"):
        path.unlink()  # as runs of the first version are
    assert vote(capsys, tmp_path / "run", "--selector", "all", "--out", out)["selectors"] == with_ledger
    assert read(out) == rows
    assert main(["vote", str(tmp_path / "run"), "--extract"]) == 2


def test_nothing_heavy_is_loaded(file: Path, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom harmonyray.cli import main\n"
        f"assert main(['vote', {str(file)!r}, '--selector', 'all', '--out', {str(tmp_path / 'o.jsonl')!r}]) == 0\n"
        "print('\\n'.join(sorted({m.split('.')[0] for m in sys.modules})), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert set(done.stderr.split()) & HEAVY == set()
