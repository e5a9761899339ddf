"""Rows out of the offline verbs: to JSON Lines or Parquet by extension, to standard output as `-`; checks before any work.

Rows stream, but on their way to Parquet they are kept on disk until all have been seen.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from harmonyray.errors import ConfigError
from harmonyray.files import whole_file
from harmonyray.records.columns import ParquetSpool, json_text
from harmonyray.records.reading import PARQUET, STREAM

_JSONL = (".jsonl", ".ndjson")


def check_out(out: str | None, source: str) -> None:
    """Raises ConfigError where results cannot be written: an unknown extension, no such folder, the input itself."""
    if out is None or out == STREAM:
        return
    path = Path(out).expanduser()
    if path.suffix.lower() not in (*_JSONL, PARQUET):
        raise ConfigError(f"--out {out!r}: expected a name ending in .jsonl, .ndjson or .parquet, or - for standard output")
    check_folder("--out", path)
    if source != STREAM and path.exists() and Path(source).expanduser().exists() and path.samefile(Path(source).expanduser()):
        raise ConfigError(f"--out {out!r} is the input itself: name another file")


def check_folder(option: str, path: Path) -> None:
    """Raises ConfigError unless `path` names a file, new or one's own to replace, in a folder that can be written to."""
    folder = Path(os.path.realpath(path)).parent  # a link's is that of what it leads to
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ConfigError(f"{option} '{path}': expected the name of a file in a folder that exists and can be written to")
    if path.exists() and not os.access(path, os.W_OK):
        raise ConfigError(f"{option} '{path}' is there already and may not be replaced: name another file")


class RecordWriter(AbstractContextManager["RecordWriter"]):
    """Writes rows to JSON Lines or Parquet by extension, to standard output for `-`, or nowhere for None.

    A file appears under its name when it is whole; after an error there is none. `fixed`: Parquet columns whose kind does not
    depend on the rows (`columns`).
    """

    def __init__(self, out: str | None, fixed: Mapping[str, Any] | None = None) -> None:
        self._stream = out == STREAM
        self._spool: ParquetSpool | None = None
        self._file: Any = None
        self._open = ExitStack()
        if out is None or self._stream:
            return
        path = Path(out).expanduser()
        with ExitStack() as opening:
            temporary = opening.enter_context(whole_file(path))
            if path.suffix.lower() == PARQUET:
                self._spool = opening.enter_context(ParquetSpool(temporary, fixed or {}))
            else:
                self._file = opening.enter_context(temporary.open("wb"))
            self._open = opening.pop_all()

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Appends rows. Raises UserError for numbers that JSON does not have."""
        if self._spool is not None:
            self._spool.add(rows)
        elif self._file is not None:
            self._file.writelines(_line(row) for row in rows)
        elif self._stream:
            sys.stdout.flush()
            sys.stdout.buffer.writelines(_line(row) for row in rows)
            sys.stdout.buffer.flush()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._open.__exit__(kind, error, trace)


def _line(row: Mapping[str, Any]) -> bytes:
    """A row as a line of JSON in UTF-8; half a surrogate pair, which UTF-8 cannot hold, stays an escape."""
    return (json_text(row) + "\n").encode("utf-8", "backslashreplace")
