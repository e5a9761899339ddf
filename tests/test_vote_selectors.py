"""Which selectors `harmonyray vote` takes, alone and together, with weights by the views' names, and classes of one's own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from run_helpers import write_rows
from vote_helpers import BARE, ROWS, mistake, read, vote

from harmonyray.cli import main

OWN = '''
import numpy as np
from harmonyray.selectors import Selector, SelectorOptions

class Least(Selector):
    """Score: the smallest frequency."""
    class Options(SelectorOptions):
        pass
    def scores(self, support, counts, num_samples):
        return support.min(axis=-1)

class Nan(Least):
    def scores(self, support, counts, num_samples):
        return np.full(len(support), np.nan)

class NoSelect:
    Options = SelectorOptions
    def __init__(self, options):
        pass
'''


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own_selectors.py").write_text(OWN)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "own_selectors", raising=False)
    return write_rows(tmp_path / "votes.jsonl", ROWS)


def test_several_selectors_in_one_table(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["majority,own_selectors:Least", "harmonic, majority"]
    arguments = ["--selector", names[0], "--selector", names[1], "--plot", tmp_path / "p.png", "--out", tmp_path / "o.jsonl"]
    summary = vote(capsys, file, *arguments)
    assert list(summary["selectors"]) == ["majority", "own_selectors:Least", "harmonic"]
    assert (summary["selector"], summary["accuracy"]) == ("majority", 0.75)
    assert [table["accuracy"] for table in summary["selectors"].values()] == [0.75, 0.5, 0.5]
    rows = read(tmp_path / "o.jsonl")
    assert [row["selector"] for row in rows[::4]] == list(summary["selectors"])
    assert [row["label"] for row in rows[4:8]] == ["4", None, "0.5", None]
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_all_and_one_more(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = vote(capsys, file, "--selector", "all,own_selectors:Least")
    assert next(iter(summary["selectors"])) == summary["selector"] == "harmonic"
    assert list(summary["selectors"])[-1] == "own_selectors:Least"


@pytest.mark.parametrize("weights", ["[0, 1]", "{r: 1, s: 0}", "{s: 0, r: 2.5}"])
def test_weights_in_order_or_by_name(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], weights: str) -> None:
    vote(capsys, file, "--selector", "arithmetic", "-o", f"weights={weights}", "--out", tmp_path / "o.jsonl")
    assert [row["label"] for row in read(tmp_path / "o.jsonl")] == ["6", "2", "0.5", None]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "weights=0.3,0.7"], "expected -o weights=[0.3,0.7] in the order s, r, or by name: -o 'weights={s: 0.5, r: 0.5}'"),
        (["-o", "weights=2"], "is one number for 2 views"),
        (["-o", "weights=[1,2,3]"], "has 3 entries but there are 2 views; expected -o weights=[0.5,0.5] in the order s, r"),
        (["-o", "weights={s: 1}"], "view 'r' has no weight"),
        (["-o", "weights={s: 1, rr: 1}"], "no view is called 'rr': did you mean 'r'"),
        (["-o", "weights={s: 1, r: x}"], "bad value for 'weights"),
        (["-o", "weights=[1,-1]"], "none negative"),
        (["--selector", "majority", "-o", "weights=[1,1]"], "unknown option 'weights'"),
        (["--selector", "harmonic,majority", "-o", "lam=2"], "'lam' belongs to one selector"),
        (["--selector", "harmonic,,majority"], "names with one comma between"),
        (["--selector", "harmonic,majorty"], "did you mean 'majority'"),
        (["--selector", "bootstrap", "-o", "of=bootstrap"], "-o of.type=bootstrap -o of.of=..."),
        (["--selector", "own_selectors:NoSelect"], "class NoSelect has no select(counts, num_samples, *, step, key)"),
        (["--selector", "own_selectors:Nan"], "selector Nan: scores() must be finite, got nan"),
    ],
)
def test_mistakes(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert message in mistake(capsys, file, *arguments, "--out", tmp_path / "o.jsonl")
    assert not (tmp_path / "o.jsonl").exists()


def test_mistakes_are_told_before_the_file_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean 'lam'" in mistake(capsys, tmp_path / "missing.jsonl", "--selector", "infomax", "-o", "lamb=1")
    assert "no such file" in mistake(capsys, tmp_path / "missing.jsonl")


def test_weights_that_overflow_when_summed(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    even = vote(capsys, file, "--selector", "harmonic")
    huge = vote(capsys, file, "--selector", "harmonic", "-o", "weights=[1e308,1e308]")
    assert {**huge, "wall_seconds": 0} == {**even, "wall_seconds": 0}


def test_a_single_problem_without_gold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_rows(tmp_path / "one.jsonl", BARE[:1])
    assert main(["vote", str(source), "--plot", str(tmp_path / "one.svg")]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("1 problem, no gold answers; ")
    picture = (tmp_path / "one.svg").read_text()
    for text in ("1 problem, no gold answers", "1.000", "coverage (share with a label)"):
        assert f"<!-- {text} -->" in picture
    assert "<!-- 0.000 -->" not in picture
