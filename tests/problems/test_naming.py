"""What a name stands for: one order of looking it up, the same for every verb, and what is said of a name that is nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harmonyray.cli import main
from harmonyray.errors import ConfigError
from harmonyray.problems.naming import named_source

ROW = {"id": "a", "question": "1+1?", "answer": "2"}


def write(path: Path, row: dict[str, Any]) -> None:
    path.write_text(json.dumps(row) + "\n")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write(tmp_path / "mine.jsonl", ROW)
    write(tmp_path / "odd:name.jsonl", ROW)
    (tmp_path / "copies").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mine.jsonl", ("file", {"path": "mine.jsonl"})),
        ("./mine.jsonl", ("file", {"path": "./mine.jsonl"})),
        ("~/mine.jsonl", ("file", {"path": "~/mine.jsonl"})),
        ("odd:name.jsonl", ("file", {"path": "odd:name.jsonl"})),
        ("quickstart", ("quickstart", {})),
        ("file", ("file", {})),
        ("gsm8k", ("hub", {"name": "gsm8k"})),
        ("my.module:Source", ("my.module:Source", {})),
        ("copies", ("file", {"path": "copies"})),  # the file source says that it is a directory
    ],
)
def test_names(name: str, expected: tuple[str, dict[str, str]]) -> None:
    assert named_source(name) == expected


def test_a_file_that_is_there_goes_before_all_and_a_folder_does_not(folder: Path) -> None:
    (folder / "gsm8k").mkdir()
    assert named_source("gsm8k") == ("hub", {"name": "gsm8k"})
    for name in ("quickstart", "math500"):
        (folder / name).write_text("")
        assert named_source(name) == ("file", {"path": name})


NOTHING = [
    ("min.jsonl", "did you mean 'mine.jsonl'"),
    ("copies/../min.jsonl", "did you mean 'copies/../mine.jsonl'"),
    ("math50", "did you mean 'math500'"),
    ("quikstart", "did you mean 'quickstart'?"),
    ("gsm8k.jsonl", "'gsm8k'"),
    (
        "zzz",
        "one of: aime2024, amc, file, gpqa_diamond, gsm8k, hub, math500, mmlu_pro, quickstart, 'package.module:Class', or a",
    ),
    ("no/such/folder.jsonl", "expected one of: "),
]


@pytest.mark.parametrize(("name", "hint"), NOTHING)
def test_a_name_that_is_nothing(name: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        named_source(name)
    assert str(caught.value).startswith(f"no such file: {name} (looked in ")
    assert hint in str(caught.value)


def test_a_name_that_no_file_can_have() -> None:
    with pytest.raises(ConfigError, match="cannot be looked at"):
        named_source("x" * 5000)


VERBS = [
    ["data", "prepare", "NAME", "--out", "out.jsonl"],
    ["eval", "--model", "quickstart", "--problems", "NAME"],
    ["vote", "votes.jsonl", "--problems", "NAME"],
]


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: str(verb[0]))
def test_every_verb_looks_a_name_up_alike(verb: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(folder / "votes.jsonl", {"id": "a", "views": {"s": ["2"]}})

    def said(name: str) -> str:
        assert main([name if part == "NAME" else part for part in verb]) == 2
        return capsys.readouterr().err

    assert "neither a benchmark nor a type of source: did you mean 'math500'" in said("math50")
    assert "no module 'mod' can be imported" in said("mod.ule:Source")
    assert "name a benchmark (name: math500) or a data set" in said("hub")
    (folder / "math500").write_text("")
    assert "math500 has no extension" in said("math500")


def test_a_vote_takes_gold_from_a_users_own_source(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(folder / "votes.jsonl", {"id": "74-34", "views": {"s": ["40", "40", "1"]}})
    own = "harmonyray.problems.quickstart:QuickstartSource"
    assert main(["vote", "votes.jsonl", "--problems", own, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == 1.0
