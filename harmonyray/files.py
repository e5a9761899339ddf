"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A name to write a file under: hidden and nobody else's, in the same folder, with the same extension.

    At the end of the block the file is on the disk and takes `path`'s place and permissions; a link stays one. An error in the
    block, such as a full disk, leaves what was at `path`, and nothing beside it.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.stem}.{token_hex(4)}{path.suffix}")
    try:
        yield temporary
        sync_file(temporary)
        if target.exists():
            shutil.copymode(target, temporary)
        temporary.replace(target)
    finally:
        with suppress(OSError):  # it is still there only after an error, which says more than this one would
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Replaces a file in one go: a full disk or a crash leaves the old one."""
    with whole_file(path) as temporary:
        temporary.write_text(text)


def sync_file(path: Path) -> None:
    """Returns when the file's bytes are on the disk: what is renamed after that is never met empty after a crash."""
    with path.open("rb") as f:
        os.fsync(f.fileno())
