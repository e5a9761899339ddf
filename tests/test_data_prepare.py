"""`harmonyray data prepare`: the normal form, its way back through the file source, and what can go wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from full_disk import full_for
from run_helpers import write_rows

from harmonyray.cli import main
from harmonyray.problems.file import FileSource
from harmonyray.problems.quickstart import QuickstartSource
from harmonyray.records import RecordWriter
from harmonyray.types import GoldAnswer, Problem

BENCH = Path(__file__).resolve().parents[2] / "shared" / "data" / "bench"
ROWS = [
    {"id": "a", "question": "Which “x”?", "options": ["1", "2"], "answer": "2", "level": 5, "other": "Which one?"},
    {"id": "b", "question": "Or this?", "options": ["3", "4"], "answer": "A", "level": 1, "other": "This?"},
]
OPTIONS = ["-o", "category_column=level", "-o", "rewording_columns=[other]"]


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_rows(tmp_path / "in.jsonl", ROWS)
    return tmp_path / "in.jsonl"


def test_the_normal_form_and_gold_apart(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.jsonl"
    assert main(["data", "prepare", str(source), "--out", str(out), *OPTIONS, "--json"]) == 0
    assert rows(out) == [
        {
            "id": "a",
            "question": "Which “x”?",
            "kind": "choice",
            "choices": ["1", "2"],
            "category": "level 5",
            "rewordings": {"other": "Which one?"},
        },
        {
            "id": "b",
            "question": "Or this?",
            "kind": "choice",
            "choices": ["3", "4"],
            "category": "level 1",
            "rewordings": {"other": "This?"},
        },
    ]
    assert rows(tmp_path / "out.gold.jsonl") == [{"id": "a", "answer": "B"}, {"id": "b", "answer": "A"}]
    summary = json.loads(capsys.readouterr().out)
    assert summary.pop("wall_seconds") >= 0
    assert summary == {
        "out": str(out),
        "gold": str(tmp_path / "out.gold.jsonl"),
        "num_problems": 2,
        "num_gold": 2,
        "kinds": {"choice": 2},
        "categories": {"level 1": 1, "level 5": 1},
        "notes": [],
    }


def round_trip(tmp_path: Path, name: str, *options: str) -> FileSource:
    """The normal form of `name`, read back as the verb's last line says."""
    out = tmp_path / "round.jsonl"
    done = subprocess.run(
        [sys.executable, "-m", "harmonyray", "data", "prepare", name, "--out", str(out), *options], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        done.stdout.splitlines()[-1] == f'problems: {{type: file, path: "{out}", gold_path: "{tmp_path / "round.gold.jsonl"}"}}'
    )
    return FileSource(FileSource.Options(path=str(out), gold_path=str(tmp_path / "round.gold.jsonl")))


def test_what_is_written_reads_back_the_same(source: Path, tmp_path: Path) -> None:
    original = FileSource(FileSource.Options(path=str(source), category_column="level", rewording_columns=("other",)))
    again = round_trip(tmp_path, str(source), *OPTIONS)
    assert (again.problems(), again.gold()) == (original.problems(), original.gold())


def test_any_source_by_its_name(tmp_path: Path) -> None:
    original = QuickstartSource(QuickstartSource.Options(limit=5))
    again = round_trip(tmp_path, "quickstart", "--limit", "5")
    assert (again.problems(), again.gold()) == (original.problems(), original.gold())


@pytest.mark.parametrize(
    ("name", "options", "num"),
    [
        ("aime2024", [], 30),
        ("amc", [], 83),
        ("coreward_rewrite_pairs_500", ["-o", "rewording_columns=[rewritten]", "-o", "category_column=subject"], 500),
        ("gpqa_diamond", ["-o", "kind=choice"], 198),
        ("gsm8k_test", [], 1319),
        ("math500", ["-o", "only.level=5"], 134),
        ("mmlu_pro_1400", [], 1400),
    ],
)
def test_real_sets_there_and_back(tmp_path: Path, name: str, options: list[str], num: int) -> None:
    path = BENCH / f"{name}.jsonl"
    if not path.is_file():
        pytest.skip(f"the shared data is not here: {path}")
    out = tmp_path / "out.jsonl"
    assert main(["data", "prepare", str(path), "--out", str(out), *options]) == 0
    again = FileSource(FileSource.Options(path=str(out), gold_path=str(tmp_path / "out.gold.jsonl")))
    by_id = {row["id"]: row for row in rows(path)}
    assert len(again.problems()) == len(again.gold()) == num
    assert all(p.text == by_id[p.id]["question"] for p in again.problems())
    assert {k: g.text for k, g in again.gold().items()} == {k: by_id[k]["answer"] for k in again.gold()}
    assert "answer" not in {key for row in rows(out) for key in row}


def test_a_benchmark_from_a_local_copy(tmp_path: Path) -> None:
    write_rows(tmp_path / "copy.jsonl", [{"question": "1+1?", "answer": "so\n#### 2"}])
    assert main(["data", "prepare", "gsm8k", "-o", f"dataset={tmp_path / 'copy.jsonl'}", "--out", str(tmp_path / "o.jsonl")]) == 0
    assert rows(tmp_path / "o.jsonl") == [{"id": "gsm8k/test/0", "question": "1+1?", "kind": "math"}]
    assert rows(tmp_path / "o.gold.jsonl") == [{"id": "gsm8k/test/0", "answer": "2"}]


def test_without_gold_there_is_no_gold_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(tmp_path / "in.jsonl", [{"id": "a", "question": "q"}])
    write_rows(tmp_path / "out.gold.jsonl", [{"id": "old", "answer": "1"}])
    arguments = ["data", "prepare", str(tmp_path / "in.jsonl"), "--out", str(tmp_path / "out.jsonl")]
    assert main(arguments) == 2
    assert "out.gold.jsonl is there already" in capsys.readouterr().err
    assert main([*arguments, "--force"]) == 0
    assert not (tmp_path / "out.gold.jsonl").exists()
    assert f'path: "{tmp_path / "out.jsonl"}"}}' in capsys.readouterr().out


class Counted(list[Problem]):
    """Problems that count how often they are all gone through."""

    times = 0

    def __iter__(self) -> Iterator[Problem]:
        Counted.times += 1
        return super().__iter__()


class Many(QuickstartSource):
    def problems(self) -> list[Problem]:
        return Counted(super().problems())


def test_the_work_grows_with_the_problems_and_not_with_their_square(tmp_path: Path) -> None:
    assert main(["data", "prepare", f"{__name__}:Many", "--out", str(tmp_path / "out.jsonl")]) == 0
    assert Counted.times < 10


class Elsewhere(QuickstartSource):
    def gold(self) -> dict[str, GoldAnswer]:
        return {**super().gold(), "elsewhere": GoldAnswer("elsewhere", "1")}


def test_gold_of_another_problem_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "prepare", f"{__name__}:Elsewhere", "--out", str(tmp_path / "out.jsonl")]) == 2
    assert "gold() has 'elsewhere', which problems() has not" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# --- mistakes ---


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["in.jsonl", "--out", "in.jsonl", "--force"], "would replace the input"),
        (["in.jsonl", "--out", "there.jsonl"], "there.jsonl is there already: name another file, or replace it with --force"),
        (["in.jsonl", "--out", "gold.jsonl"], "gold.gold.jsonl is there already"),
        (["in.jsonl", "--out", "link.jsonl"], "link.gold.jsonl is there already"),
        (["in.jsonl", "--out", "far.jsonl", "--force"], "far.gold.jsonl': expected the name of a file in a folder that exists"),
        (["in.jsonl", "--out", "out.parquet"], "expected a name ending in .jsonl"),
        (["in.jsonl", "--out", "no/such/out.jsonl"], "expected the name of a file in a folder that exists"),
        (["math50", "--out", "out.jsonl"], "neither a benchmark nor a type of source: did you mean 'math500'"),
        (["on.jsonl", "--out", "out.jsonl"], "no such file: on.jsonl"),
        (
            ["in.jsonl", "--out", "out.jsonl", "-o", "answer_column=''", "-o", "wrong_answer_columns=[other]"],
            "answer_column is ''",
        ),
        (["in.jsonl", "--out", "out.jsonl", "-o", "kid=5"], "unknown option '-o kid': did you mean 'kind'"),
        (["in.jsonl", "--out", "out.jsonl", "-o", "kind=5"], "bad value for '-o kind'"),
        (["file", "--out", "out.jsonl"], "missing option '-o path'"),
        (["in.jsonl", "--out", "out.jsonl", "-o", "level"], "not of the form key=value"),
        (["in.jsonl", "--out", "out.jsonl", "--limit", "0"], "bad value for '--limit'"),
        (["in.jsonl", "--out", "out.jsonl", "-o", "question_column=ask"], "no column 'ask'"),
        (["hub", "--out", "out.jsonl"], "name a benchmark"),
        (["no_such_module:Source", "--out", "out.jsonl"], "no module 'no_such_module'"),
    ],
)
def test_mistakes(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    part: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("there.jsonl", "gold.gold.jsonl"):
        (tmp_path / name).write_text("precious")
    (tmp_path / "link.gold.jsonl").symlink_to("not-there.jsonl")
    (tmp_path / "far.gold.jsonl").symlink_to("no/such/folder.jsonl")
    before = {p.name: p.is_symlink() or p.read_bytes() for p in tmp_path.iterdir()}
    assert main(["data", "prepare", *arguments]) == 2
    assert part in capsys.readouterr().err
    assert {p.name: p.is_symlink() or p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_write_that_fails_leaves_the_old_files(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["data", "prepare", str(source), "--out", str(tmp_path / "out.jsonl"), "--force"]
    assert main(arguments) == 0
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    write_rows(source, ROWS[:1])
    write, calls = RecordWriter.write, []

    def full(self: RecordWriter, items: Any) -> None:
        calls.append(items)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        write(self, items)

    monkeypatch.setattr(RecordWriter, "write", full)
    assert main(arguments) == 1
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p != source} == {
        k: v for k, v in before.items() if k != source.name
    }


@pytest.mark.parametrize("full", ["out.jsonl", "out.gold.jsonl"])
def test_a_disk_that_is_full_for_one_file_leaves_both_old_ones(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    arguments = ["data", "prepare", str(source), "--out", str(tmp_path / "out.jsonl"), "--force"]
    assert main(arguments) == 0
    write_rows(source, ROWS[:1])
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    hidden = Path(full)
    full_for(tmp_path / f".{hidden.stem}.full{hidden.suffix}", monkeypatch)  # both are written before one takes its name
    assert main(arguments) == 1
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_hidden_files_are_the_users_own(source: Path, tmp_path: Path) -> None:
    """Neither as a source nor beside the output."""
    hidden = tmp_path / ".out.jsonl"
    source.rename(hidden)
    before = hidden.read_bytes()
    assert main(["data", "prepare", str(hidden), "--out", str(tmp_path / "out.jsonl")]) == 0
    assert hidden.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == [".out.jsonl", "out.gold.jsonl", "out.jsonl"]


@pytest.mark.parametrize(
    ("answers", "options", "note"),
    [
        (["2+2\n#### 4", "5"], [], "1 gold answers contain '####'"),
        (["2+2\n#### 4", "x #### 5"], ["-o", "answer_after=####"], None),
        (["B", "A"], [], "every gold answer is a letter, but no problem has choices"),
        (["B", "A"], ["-o", "kind=choice"], None),
        (["B", "12"], [], None),
    ],
)
def test_answers_that_look_misread_are_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], answers: list[str], options: list[str], note: str | None
) -> None:
    write_rows(tmp_path / "in.jsonl", [{"question": f"q{i}", "answer": answer} for i, answer in enumerate(answers)])
    assert main(["data", "prepare", str(tmp_path / "in.jsonl"), "--out", str(tmp_path / "out.jsonl"), *options]) == 0
    out = capsys.readouterr().out
    assert (note in out) if note else ("note:" not in out)


def test_what_is_missing_is_named_as_it_is_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two").mkdir()
    for split in ("train", "test"):
        (tmp_path / "two" / f"{split}.jsonl").write_text('{"question": "1+1?", "answer": "2"}\n')
    assert main(["data", "prepare", "hub", "--out", "out.jsonl", "-o", "dataset=two"]) == 2
    said = capsys.readouterr().err
    assert "two has the splits" in said
    assert "set -o split" in said
