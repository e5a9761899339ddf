"""Mistakes in the input and the options of `harmonyray vote`: one message each, rows skipped, and what is left of a bad file."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import sys
from pathlib import Path

import pytest
from full_disk import full_for
from run_helpers import write_rows
from vote_helpers import BARE, ROWS, mistake, read, run, vote

from harmonyray.cli import main


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "votes.jsonl", ROWS)


GOOD = json.dumps(ROWS[0])
BAD_LINES: list[tuple[bytes, str]] = [
    (b'{"id": "x", ', r"bad\.jsonl, line 2: not JSON: .* at column 13; expected one JSON object per line"),
    (b"[1, 2]", r"bad\.jsonl, line 2: got an array; expected an object .*\"views\""),
    (b'{"id": "\xff"}', r"bad\.jsonl, line 2: byte 9 of the line is 0xff, which is not UTF-8"),
    (b'{"id": "x"}', r"line 2: no column 'views'; the row has: id; expected rows"),
    (b'{"id": "x", "view": "s"}', r"line 2: no column 'answers' beside 'view'; the row has: id, view; expected rows like"),
    (b'{"id": "x", "veiws": {}}', r"line 2: no column 'views'; did you mean 'veiws'"),
    (b'{"views": {"s": ["1"], "r": ["1"]}}', r"line 2: no id in column 'id'"),
    (b'{"id": true, "views": {"s": ["1"], "r": ["1"]}}', r"line 2: the id in column 'id' is True"),
    (b'{"id": "x", "views": {}}', r"line 2: column 'views' is \{\}; expected an object of lists"),
    (b'{"id": "x", "views": ["1"]}', r"line 2: column 'views' is \['1'\]"),
    (b'{"id": "x", "views": {"s": "1", "r": ["1"]}}', r"line 2: view 's' is '1'; expected a list of answers"),
    (b'{"id": "x", "views": {"s": ["1", ["2"]], "r": ["1"]}}', r"line 2: answer 2 of view 's' is \['2'\]"),
    (b'{"id": "x", "views": {"s": [NaN], "r": ["1"]}}', r"line 2: not JSON: NaN is no JSON number"),
    (b'{"id": "x", "views": {"s": ["1"]}}', r"line 2: view 'r' is missing; the views of most rows .*are s, r; .*\"r\": \[\]"),
    (b'{"id": "x", "views": {"s": ["1"], "r": null}}', r"line 2: view 'r' is null"),
    (b'{"id": "x", "views": {"s": [], "r": [], "rr": []}}', r"line 2: view 'rr' is not one of s, r, .*did you mean 'r'"),
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
    assert summary["skipped"] == [2]


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


@pytest.mark.parametrize("option", ["--out", "--plot"])
def test_a_file_that_may_not_be_replaced(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    theirs = tmp_path / ("theirs.jsonl" if option == "--out" else "theirs.png")
    theirs.write_text("precious")
    access = os.access  # root may do everything
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != theirs and access(path, mode))
    message = mistake(capsys, file, option, theirs)
    assert f"{option} '{theirs}' is there already and may not be replaced: name another file" in message
    assert theirs.read_text() == "precious"


def test_a_link_that_leads_nowhere(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out.jsonl").symlink_to("gone/out.jsonl")
    message = mistake(capsys, file, "--out", tmp_path / "out.jsonl")
    assert "out.jsonl': expected the name of a file in a folder that exists" in message


@pytest.mark.parametrize("verb", ["vote", "grade"])
def test_a_full_disk_asks_for_the_same_command_again(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    if verb == "grade":
        write_rows(file, [{"id": "a", "pred": "1", "gold": "1"}])
    full_for(tmp_path / "o.jsonl", monkeypatch)
    assert main([verb, str(file), "--out", str(tmp_path / "o.jsonl")]) == 1
    assert capsys.readouterr().err.endswith("free some space, then give the same command again\n")
    assert list(tmp_path.iterdir()) == [file]


def test_a_mistake_in_a_process_of_its_own(file: Path) -> None:
    done = run(file, "--selector", "harmonik")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_nothing_left_after_skipping(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "bad.jsonl"
    source.write_text("[1]\nnonsense\n")
    message = mistake(capsys, source, "--skip-bad", "--out", tmp_path / "o.jsonl")
    assert re.search(r"2 rows skipped, and none is left to use; the first: .*line 1: got an array", message)
    assert not (tmp_path / "o.jsonl").exists()


def test_every_skipped_row_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "bad.jsonl"
    source.write_text("".join(f"{GOOD}\n" if n % 2 else "no\n" for n in range(400)))
    assert main(["vote", str(source), "--skip-bad", "--json"]) == 0
    captured = capsys.readouterr()
    summary = json.loads(captured.out)
    assert (summary["num_skipped"], summary["skipped"]) == (200, list(range(1, 400, 2)))
    assert len(captured.err.splitlines()) == 6
    assert "--json lists their numbers" in captured.err


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'[{"id": 1}]\n', "jq -c '.[]' FILE | harmonyray vote -"),
        (b"[\n", "jq -c '.[]' FILE | harmonyray vote -"),
        (b"PAR1\x15\x04", "<stdin> is Parquet; expected JSON Lines: name the file, harmonyray vote FILE.parquet"),
        (gzip.compress(b"{}", mtime=0), "zcat FILE | harmonyray vote -"),
        (b"7" * 10_000, "line 1: got a number; expected an object"),
    ],
)
def test_standard_input_of_another_format(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], data: bytes, message: str
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert message in mistake(capsys, "-")


def test_a_compressed_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "votes.jsonl.gz"
    source.write_bytes(gzip.compress(b"{}"))
    assert f"zcat {source} | harmonyray vote -" in mistake(capsys, source)


def test_one_mistake_in_a_file_of_bare_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_rows(tmp_path / "v.jsonl", [*BARE, {"id": 1, "views": {"s": [], "r": [{"a": 1}]}}])
    assert "line 5: answer 1 of view 'r' is {'a': 1}" in mistake(capsys, source)
