"""Files that appear whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """The name to write a file under: hidden, in the same folder, with the same extension. The file takes `path`'s place at the
    end of the block; an error in the block, such as a full disk, leaves what was at `path`, and nothing beside it. For one
    writer of a path at a time."""
    temporary = path.with_name(f".{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        with suppress(OSError):  # it is still there only after an error, which says more than this one would
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replaces a file in one go: a full disk or a killed process leaves the old one."""
    with whole_file(path) as temporary:
        temporary.write_text(text)
