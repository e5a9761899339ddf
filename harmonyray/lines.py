"""Files of JSON lines that are appended to while a run goes on, and that a crash may cut short."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def json_line(row: Mapping[str, Any]) -> str:
    """One object as a line; JSON has no numbers that are not finite: they are null."""
    finite = {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}
    return json.dumps(finite, allow_nan=False) + "\n"


def append_text(path: Path, text: str) -> None:
    """Appends whole lines; they are on the disk when this returns."""
    with path.open("a") as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file's whole lines; none if it does not exist."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def cut_to_whole_lines(path: Path) -> None:
    """Takes away a last line that was not written to its end, so that the next one begins where it did."""
    text = path.read_bytes()
    whole = text.rfind(b"\n") + 1
    if whole < len(text):
        os.truncate(path, whole)
