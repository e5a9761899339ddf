"""What the tests of `harmonyray vote` share: rows whose figures are known by hand, and ways to run the verb."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harmonyray.cli import main

# a: the harmonic mean of 2/3 and 1/3 is 4/9 for 4, and 0 for 5 and 6. b: no common answer. c: 1/2 is 0.5. d: nobody answered.
ROWS: list[dict[str, Any]] = [
    {"id": "a", "views": {"s": ["4", "5", "4.0"], "r": ["4", "6", "6"]}, "gold": "4"},
    {"id": "b", "views": {"s": ["1", "1", ""], "r": ["2", None, "3"]}, "gold": "1"},
    {"id": "c", "views": {"s": ["\\frac{1}{2}", "7", ""], "r": ["0.5", "50%", "8"]}, "gold": "0.5"},
    {"id": "d", "views": {"s": ["", None], "r": []}, "gold": "9"},
]
BARE = [{key: value for key, value in row.items() if key != "gold"} for row in ROWS]


def vote(capsys: pytest.CaptureFixture[str], *arguments: Any) -> dict[str, Any]:
    """The JSON of a vote that works."""
    assert main(["vote", *map(str, arguments), "--json"]) == 0
    summary: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return summary


def mistake(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    """The message of a vote that is the user's mistake."""
    assert main(["vote", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(*arguments: Any, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harmonyray", "vote", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)
