"""`harmonyray vote`: hand-computed labels, every form of input and output, mistakes, replaying a run, and what gets loaded."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from run_helpers import samples, small_run, write_rows

from harmonyray.cli import main
from harmonyray.registry import BUILT_IN

# a: the harmonic mean of 2/3 and 1/3 is 4/9 for 4, and 0 for 5 and 6. b: no common answer. c: 1/2 is 0.5. d: nobody answered.
ROWS: list[dict[str, Any]] = [
    {"id": "a", "views": {"s": ["4", "5", "4.0"], "r": ["4", "6", "6"]}, "gold": "4"},
    {"id": "b", "views": {"s": ["1", "1", ""], "r": ["2", None, "3"]}, "gold": "1"},
    {"id": "c", "views": {"s": ["\\frac{1}{2}", "7", ""], "r": ["0.5", "50%", "8"]}, "gold": "0.5"},
    {"id": "d", "views": {"s": ["", None], "r": []}, "gold": "9"},
]
FOUR_NINTHS = 4 / 9
HEAVY = {"torch", "ray", "transformers", "mlflow", "vllm", "pandas", "math_verify", "matplotlib"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "votes.jsonl", ROWS)


def vote(capsys: pytest.CaptureFixture[str], *arguments: Any) -> dict[str, Any]:
    """The JSON of a vote that works."""
    assert main(["vote", *map(str, arguments), "--json"]) == 0
    summary: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return summary


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(*arguments: Any, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harmonyray", "vote", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


# --- figures by hand ---------------------------------------------------------------------------------------------------------


def test_harmonic_by_hand(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = vote(capsys, file, "--out", tmp_path / "out.jsonl")
    a, b, c, d = read(tmp_path / "out.jsonl")
    assert a == {
        "id": "a",
        "label": "4",
        "scores": {"4": pytest.approx(FOUR_NINTHS), "5": 0.0, "6": 0.0},
        "margin": pytest.approx(FOUR_NINTHS),
    }
    assert b == {"id": "b", "label": None, "scores": {"1": 0.0, "2": 0.0, "3": 0.0}, "margin": 0.0}
    assert (c["label"], c["scores"][c["label"]]) == ("0.5", pytest.approx(FOUR_NINTHS))
    assert d == {"id": "d", "label": None, "scores": {}, "margin": 0.0}
    expected = {
        "num_problems": 4,
        "num_gold": 4,
        "num_abstained": 2,
        "num_timeouts": 0,
        "num_skipped": 0,
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
    bare = [{key: value for key, value in row.items() if key != "gold"} for row in ROWS]
    summary = vote(capsys, write_rows(tmp_path / "none.jsonl", bare))
    assert summary["num_gold"] == 0
    assert "accuracy" not in summary


def test_gold_from_a_problem_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare = [{key: value for key, value in row.items() if key != "gold"} for row in ROWS]
    problems = write_rows(tmp_path / "p.jsonl", [{"id": r["id"], "question": "?", "answer": r["gold"]} for r in ROWS])
    assert vote(capsys, write_rows(tmp_path / "v.jsonl", bare), "--problems", problems)["accuracy"] == 0.5


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
    assert table["majority"] == {"num_abstained": 1, "coverage": 0.75, "disagreement": 0.0, "accuracy": 0.75}
    assert table["harmonic"]["accuracy"] == summary["accuracy"] == 0.5
    assert table["mean_variance"]["disagreement"] == 0.0
    rows = read(tmp_path / "o.jsonl")
    assert len(rows) == 4 * len(table)
    assert [row["label"] for row in rows if row["selector"] == "harmonic"] == ["4", None, "0.5", None]
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_the_table_for_people(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["vote", str(file), "--selector", "all"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["selector", "accuracy", "coverage", "differs", "from", "majority"]
    assert ["majority", "0.7500", "0.7500", "0.0000"] in [line.split() for line in lines]
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


# --- forms of input and output -----------------------------------------------------------------------------------------------


def test_standard_input_to_standard_output(file: Path) -> None:
    done = run("-", "--out", "-", "--json", input=file.read_text())
    assert done.returncode == 0, done.stderr
    *rows, summary = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["label"] for row in rows] == ["4", None, "0.5", None]
    assert summary["num_problems"] == 4


def test_standard_input_in_this_process(file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(file.read_bytes())))
    assert main(["vote", "-", "--out", "-"]) == 0
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 4
    assert "harmonic" in captured.err


@pytest.mark.parametrize("shape", ["struct", "map"])
def test_parquet_in_and_out(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], shape: str) -> None:
    views = pa.map_(pa.string(), pa.list_(pa.string()))
    columns = {"id": pa.array([r["id"] for r in ROWS]), "gold": pa.array([r["gold"] for r in ROWS])}
    if shape == "map":
        columns["views"] = pa.array([list(r["views"].items()) for r in ROWS], views)
    else:
        columns["views"] = pa.array([r["views"] for r in ROWS])
    pq.write_table(pa.table(columns), tmp_path / "in.parquet")
    assert vote(capsys, tmp_path / "in.parquet", "--out", tmp_path / "out.parquet")["accuracy"] == 0.5
    vote(capsys, file, "--out", tmp_path / "out.jsonl")
    rows = [{**row, "scores": dict(row["scores"])} for row in pq.read_table(tmp_path / "out.parquet").to_pylist()]
    assert rows == read(tmp_path / "out.jsonl")
    assert not list(tmp_path.glob(".*"))


def test_ids_keep_their_type_and_odd_texts_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"id": 7, "views": {"s": ["\ud800", "é", 3, 0.5, "\u0000"]}}, {"id": 8, "views": {"s": ["x" * 5000]}}]
    source = write_rows(tmp_path / "odd.jsonl", rows)
    for out in ("o.jsonl", "o.parquet"):
        assert vote(capsys, source, "--out", tmp_path / out)["num_problems"] == 2
    assert [row["id"] for row in read(tmp_path / "o.jsonl")] == [7, 8]
    assert set(read(tmp_path / "o.jsonl")[0]["scores"]) == {"é", "3", "0.5"}
    assert pq.read_table(tmp_path / "o.parquet")["id"].to_pylist() == [7, 8]


def test_a_reader_that_leaves_is_no_failure(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "many.jsonl", [{**ROWS[0], "id": i} for i in range(4000)])
    command = f"{sys.executable} -m harmonyray vote {source} --out - | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["label"] == "4"


def test_more_problems_than_a_chunk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_rows(tmp_path / "many.jsonl", [{**ROWS[i % 4], "id": i} for i in range(1000)])
    summary = vote(capsys, source, "--out", tmp_path / "o.parquet", "--selector", "reliability")
    assert summary["num_problems"] == 1000
    assert pq.read_table(tmp_path / "o.parquet")["id"].to_pylist() == list(range(1000))


# --- mistakes ----------------------------------------------------------------------------------------------------------------

GOOD = json.dumps(ROWS[0])
BAD_LINES: list[tuple[bytes, str]] = [
    (b'{"id": "x", ', r"bad\.jsonl, line 2: not JSON: .*expected one JSON object per line"),
    (b"[1, 2]", r"bad\.jsonl, line 2: got an array; expected an object .*\"views\""),
    (b'{"id": "\xff"}', r"bad\.jsonl, line 2: byte 9 of the line is 0xff, which is not UTF-8"),
    (b'{"id": "x"}', r"line 2: no column 'views'"),
    (b'{"id": "x", "veiws": {}}', r"line 2: no column 'views'; did you mean 'veiws'"),
    (b'{"views": {"s": ["1"], "r": ["1"]}}', r"line 2: no id in column 'id'"),
    (b'{"id": true, "views": {"s": ["1"], "r": ["1"]}}', r"line 2: the id in column 'id' is True"),
    (b'{"id": "x", "views": {}}', r"line 2: column 'views' is \{\}; expected an object of lists"),
    (b'{"id": "x", "views": ["1"]}', r"line 2: column 'views' is \['1'\]"),
    (b'{"id": "x", "views": {"s": "1", "r": ["1"]}}', r"line 2: view 's' is '1'; expected a list of answers"),
    (b'{"id": "x", "views": {"s": ["1", ["2"]], "r": ["1"]}}', r"line 2: answer 2 of view 's' is \['2'\]"),
    (b'{"id": "x", "views": {"s": [NaN], "r": ["1"]}}', r"line 2: answer 1 of view 's' is nan"),
    (b'{"id": "x", "views": {"s": ["1"]}}', r"line 2: view 'r' is missing .*\"r\": \[\]"),
    (b'{"id": "x", "views": {"s": ["1"], "r": null}}', r"line 2: view 'r' is null"),
    (b'{"id": "x", "views": {"s": [], "r": [], "rr": []}}', r"line 2: view 'rr' is not one of the first row's; did you mean 'r'"),
    (b'{"id": "x", "views": {"s": [], "r": []}, "gold": ["4"]}', r"line 2: column 'gold' is \['4'\]"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "message"), BAD_LINES)
def test_a_bad_line_is_named_or_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str], line: bytes, message: str) -> None:
    source = tmp_path / "bad.jsonl"
    source.write_bytes(GOOD.encode() + b"\n" + line + b"\n\n" + GOOD.encode() + b"\n")
    out = tmp_path / "o.jsonl"
    assert main(["vote", str(source), "--out", str(out)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.search(message, captured.err), captured.err
    assert not out.exists()
    assert list(tmp_path.glob(".*")) == []
    summary = vote(capsys, source, "--skip-bad", "--out", out)
    assert (summary["num_problems"], summary["num_skipped"], len(read(out))) == (2, 1, 2)


MISTAKES: list[tuple[list[str], str]] = [
    (["votes.jsonl", "--selector", "harmonik"], "unknown type 'harmonik' among selectors: did you mean 'harmonic'"),
    (["votes.jsonl", "-o", "wieghts=[1,2]"], "unknown option 'wieghts': did you mean 'weights'"),
    (["votes.jsonl", "-o", "weights=[1,2,3]"], "3 entries but there are 2 views"),
    (["votes.jsonl", "-o", "weights"], "not of the form key=value"),
    (["votes.jsonl", "-o", "weights=[1,"], "cannot be read"),
    (["votes.jsonl", "--selector", "bootstrap"], "missing option 'of'"),
    (["votes.jsonl", "--selector", "all", "-o", "lam=2"], "belongs to one selector"),
    (["votes.jsonl", "--kind", "choice"], "give --extract too"),
    (["votes.jsonl", "--view", "solver"], "--view 'solver'"),
    (["votes.jsonl", "--out", "labels.txt"], "expected a name ending in .jsonl"),
    (["votes.jsonl", "--out", "nowhere/labels.jsonl"], "a folder that exists"),
    (["votes.jsonl", "--out", "votes.jsonl"], "is the input itself"),
    (["votes.jsonl", "--plot", "picture.bmp"], "ending in .png"),
    (["votes.jsonl", "--problems", "nothing.jsonl"], "no such file: nothing.jsonl"),
    (["vote.jsonl"], "did you mean 'votes.jsonl'"),
    (["empty.jsonl"], "empty.jsonl has no rows"),
    (["folder"], "without rollouts"),
    (["notes.txt"], "expected one of .jsonl"),
    (["broken.parquet"], "not a readable Parquet file"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_mistakes_end_with_2_and_one_message(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(file.parent)
    Path("empty.jsonl").write_text("\n")
    Path("notes.txt").write_text("4")
    Path("broken.parquet").write_text("PAR1")
    Path("folder").mkdir()
    assert main(["vote", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err


def test_a_mistake_in_a_process_of_its_own(file: Path) -> None:
    done = run(file, "--selector", "harmonik")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


# --- a run replayed, and what is loaded --------------------------------------------------------------------------------------


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
