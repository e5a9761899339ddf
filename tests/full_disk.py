"""A disk that is full for one file."""

from __future__ import annotations

from pathlib import Path

import pytest


def full_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next time that `files.whole_file` writes `path`, the disk is full: the hidden name leads to /dev/full."""
    monkeypatch.setattr("harmonyray.files.token_hex", lambda num_bytes: "full")
    path.with_name(f".{path.stem}.full{path.suffix}").symlink_to("/dev/full")
