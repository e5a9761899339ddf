"""`harmonyray grade`: verdicts and counts by hand, every form of input, mistakes, and the recorded and hostile pairs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from run_helpers import write_rows

from harmonyray.answers.extract import extract_answer
from harmonyray.cli import main

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
LIMIT_S = 1.5
BUSY = 3.0  # how many times the limit a pair may take by the clock on a busy machine
PAIRS: list[dict[str, Any]] = [
    {"gold": "1/2", "pred": "0.5", "id": 1},
    {"gold": "4", "pred": "5", "id": 2},
    {"gold": "\\frac{\\sqrt{2}}{2}", "pred": "1/\\sqrt{2}", "id": 3},
    {"gold": "7", "pred": None, "id": 4},
    {"gold": "12", "pred": "y + 9^{9^{9}}", "id": 5},
    {"gold": 3, "pred": 3.0, "id": 6},
]
VERDICTS = [(True, "ok"), (False, "ok"), (True, "ok"), (False, "unparsable"), (False, "timeout"), (True, "ok")]


def grade(capsys: pytest.CaptureFixture[str], *arguments: Any) -> dict[str, Any]:
    """The JSON of a grading that works."""
    assert main(["grade", *map(str, arguments), "--json"]) == 0
    summary: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return summary


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def recorded(name: str) -> list[dict[str, Any]]:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"no recorded data: {name} is not in shared/data beside the repository")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_verdicts_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_rows(tmp_path / "pairs.jsonl", PAIRS)
    summary = grade(capsys, source, "--out", tmp_path / "out.jsonl")
    rows = read(tmp_path / "out.jsonl")
    assert [(row["equal"], row["status"]) for row in rows] == VERDICTS
    assert [row["id"] for row in rows] == [1, 2, 3, 4, 5, 6]
    expected = {"num_pairs": 6, "num_equal": 3, "num_timeouts": 1, "num_unparsable": 1, "num_skipped": 0}
    assert {key: summary[key] for key in expected} == expected
    # the bomb is the slowest pair: it took its limit, and no more than a busy machine makes of it
    assert 0.9 * LIMIT_S < summary["max_pair_seconds"] < BUSY * LIMIT_S + 1
    assert summary["max_pair_seconds"] < summary["wall_seconds"]


def test_exact_pairs_are_timed_too_and_start_no_solver(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = grade(capsys, write_rows(tmp_path / "p.jsonl", PAIRS[:2] * 500))
    assert summary["num_equal"] == 500
    assert 0 < summary["max_pair_seconds"] < 0.5


@pytest.mark.parametrize("suffix", ["parquet", "csv", "json"])
def test_other_files(tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str) -> None:
    path = tmp_path / f"pairs.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.table({"gold": ["1/2", "4"], "pred": ["0.5", None], "n": [1, 2]}), path)
    elif suffix == "csv":
        path.write_text("gold,pred,n\n1/2,0.5,1\n4,,2\n")
    else:
        path.write_text('[{"gold": "1/2", "pred": "0.5", "n": 1}, {"gold": "4", "pred": null, "n": 2}]')
    grade(capsys, path, "--out", tmp_path / "out.parquet")
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [(row["equal"], row["status"], str(row["n"])) for row in rows] == [(True, "ok", "1"), (False, "unparsable", "2")]


def test_standard_input_to_standard_output(tmp_path: Path) -> None:
    text = write_rows(tmp_path / "p.jsonl", PAIRS[:2]).read_text()
    command = [sys.executable, "-m", "harmonyray", "grade", "-", "--out", "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["equal"] for line in done.stdout.splitlines()] == [True, False]
    assert done.stderr.startswith("2 pairs: 1 equal (0.5000)")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"gold": "1"', r"pairs\.jsonl, line 2: not JSON"),
        ('{"gold": "1"}', r"line 2: no column 'pred'"),
        ('{"gold": "1", "prd": "1"}', r"line 2: no column 'pred'; did you mean 'prd'"),
        ('{"gold": "1", "pred": ["1"]}', r"line 2: column 'pred' is \['1'\]; expected a text or a number"),
        ('{"gold": true, "pred": "1"}', r"line 2: column 'gold' is True"),
        ("4", r"line 2: got a number; expected an object"),
    ],
)
def test_a_bad_line_is_named_or_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, message: str) -> None:
    source = tmp_path / "pairs.jsonl"
    source.write_text('{"gold": "1", "pred": "1"}\n' + line + '\n{"gold": "1", "pred": "2"}\n')
    assert main(["grade", str(source), "--out", str(tmp_path / "o.jsonl")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.search(message, captured.err), captured.err
    assert not (tmp_path / "o.jsonl").exists()
    summary = grade(capsys, source, "--skip-bad")
    assert (summary["num_pairs"], summary["num_equal"], summary["num_skipped"]) == (2, 1, 1)


def written(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, *arguments: Any) -> str:
    """What `--out` holds for rows given as text."""
    (tmp_path / "in.jsonl").write_text(text)
    grade(capsys, tmp_path / "in.jsonl", "--out", tmp_path / "out.jsonl", *arguments)
    return (tmp_path / "out.jsonl").read_text()


def test_rows_pass_through_as_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = '{"gold": 4.0, "pred": 4.00, "big": 1e400, "p": 0.12345678901234567890123, "n": -0, "x": [1.50, {"é": null}]'
    assert written(tmp_path, capsys, row + "}\n") == row + ', "equal": true, "status": "ok"}\n'


def test_late_fractions_are_not_cut_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"gold": 4 if i < 300 else 2.5, "pred": "4"} | ({"late": i} if i else {}) for i in range(600)]
    grade(capsys, write_rows(tmp_path / "p.jsonl", rows), "--out", tmp_path / "out.parquet")
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["gold"].to_pylist() == [row["gold"] for row in rows]
    assert table["late"].to_pylist() == [None, *range(1, 600)]
    assert sum(table["equal"].to_pylist()) == 300


def test_numbers_that_json_does_not_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, table = tmp_path / "p.jsonl", tmp_path / "p.parquet"
    source.write_text('{"gold": 1, "pred": 1, "n": NaN}\n{"gold": 1, "pred": 1, "n": -Infinity}\n')
    assert main(["grade", str(source)]) == 2
    assert "line 1: not JSON: NaN is no JSON number" in capsys.readouterr().err
    pq.write_table(pa.table({"gold": ["1", "2"], "pred": ["1", "2"], "n": [float("nan"), 1.0]}), table)
    assert main(["grade", str(table), "--out", str(tmp_path / "o.jsonl")]) == 2
    assert "row 1: column 'n': nan is no JSON number; expected null there, or --out FILE.parquet" in capsys.readouterr().err
    assert grade(capsys, table, "--out", tmp_path / "o.jsonl", "--skip-bad")["skipped"] == [1]
    assert grade(capsys, table, "--out", tmp_path / "o.parquet")["num_equal"] == 2


def test_whole_responses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"gold": "4", "pred": "2 + 2\n#### 4"},
        {"gold": "2 + 2\n#### 4", "pred": "so the answer is 4."},
        {"gold": "4", "pred": "I give up"},
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    got = [json.loads(line) for line in written(tmp_path, capsys, text, "--extract").splitlines()]
    assert [(row["equal"], row["extracted"], row["status"]) for row in got] == [
        (True, "4", "ok"),
        (True, "4", "ok"),
        (False, None, "unparsable"),
    ]
    choice = written(tmp_path, capsys, '{"gold": "B", "pred": "I would say (B)"}\n', "--extract", "--kind", "choice")
    assert json.loads(choice)["equal"] is True
    assert main(["grade", str(tmp_path / "in.jsonl"), "--kind", "choice"]) == 2
    assert "give --extract too" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("data", "arguments", "message"),
    [
        (b'{"answer": "1", "pred": "1"}', [], "no column 'gold'; did you mean 'answer'?"),
        (b'{"a": 1, "b": 2}', [], "no column 'gold'; the row has: a, b"),
        (b"no\nno\n", ["--skip-bad"], "2 rows skipped, and none is left to use"),
        (b"\n", [], "has no rows"),
        (b"PAR1", [], "is Parquet; expected JSON Lines"),
    ],
)
def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str], data: bytes, arguments: list[str], message: str) -> None:
    (tmp_path / "p.jsonl").write_bytes(data)
    assert main(["grade", str(tmp_path / "p.jsonl"), "--out", str(tmp_path / "o.jsonl"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "o.jsonl").exists()


def test_nothing_heavy_is_loaded(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "p.jsonl", PAIRS[:3])
    code = (
        f"import sys\nfrom harmonyray.cli import main\nassert main(['grade', {str(source)!r}]) == 0\n"
        "print('\\n'.join(sorted({m.split('.')[0] for m in sys.modules})), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert set(done.stderr.split()) & {"torch", "ray", "transformers", "mlflow", "vllm", "math_verify", "sympy"} == set()


def test_recorded_pairs_at_least_as_good_as_math_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = recorded("equiv/pairs.jsonl")
    peer = {row["id"]: row["mv_configured"] for row in recorded("equiv/peer_results.jsonl")}
    summary = grade(capsys, SHARED / "equiv" / "pairs.jsonl", "--out", tmp_path / "out.jsonl")
    right = sum(row["equal"] == row["expected"] for row in read(tmp_path / "out.jsonl"))
    assert summary["num_pairs"] == len(rows) == 341
    assert right >= sum(peer[row["id"]] == row["expected"] for row in rows)


def test_the_hostile_set(tmp_path: Path) -> None:
    """In a process of its own: exit code 0, nothing hangs, nothing equals what it must not, no marker file appears."""
    pairs = []
    for row in recorded("hostile/hostile.jsonl"):
        text = row["text"] if "text" in row else "".join(part * count for part, count in row["parts"])
        pred = text if row["form"] == "answer" else extract_answer(text) or ""
        expect = row["expect"]
        equal = expect.get("equal_to", [])
        for gold in [*expect["not_equal_to"], *equal]:
            pairs.append(
                {"gold": gold, "pred": pred, "id": row["id"], "must": gold in equal, "marker": expect.get("must_not_exist")}
            )
    source = write_rows(tmp_path / "hostile.jsonl", pairs)
    command = [sys.executable, "-m", "harmonyray", "grade", str(source), "--out", str(tmp_path / "out.jsonl"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    summary, rows = json.loads(done.stdout.splitlines()[-1]), read(tmp_path / "out.jsonl")
    assert summary["num_pairs"] == len(pairs) == len(rows)
    assert [(row["id"], row["gold"]) for row in rows if row["equal"] != row["must"]] == []
    assert [row["marker"] for row in rows if row["marker"] and os.path.exists(row["marker"])] == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["hostile.jsonl", "out.jsonl"]
    assert summary["max_pair_seconds"] < BUSY * LIMIT_S + 1
    assert summary["num_timeouts"] <= 4
