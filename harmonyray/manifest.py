"""A checkpoint's manifest: what its files were when they were written, and what is wrong with them now.

XXH3 finds damage (rotten bits, files cut short or mixed up) at about the speed of memory. It is no protection against somebody
who alters a file on purpose, and the manifest with it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from xxhash import xxh3_128

from harmonyray.errors import CheckpointError

MANIFEST = "manifest.json"
FORMAT = 1
SHOWN_FAULTS = 3


def write_manifest(directory: Path, step: int, policy_version: int) -> None:
    """Adds the manifest of everything that is in `directory`. Nothing may be added or changed afterwards."""
    files = {name: {"bytes": path.stat().st_size, "xxh3_128": _digest(path)} for name, path in _files(directory)}
    facts = {"format": FORMAT, "step": step, "policy_version": policy_version, "files": files}
    (directory / MANIFEST).write_text(json.dumps({**facts, "checksum": _seal(facts)}, indent=1))


def read_manifest(directory: Path) -> dict[str, Any]:
    """`step`, `policy_version` and `files` of a checkpoint of which every file is what was written.

    Raises CheckpointError naming the files that are not.
    """
    if wrong := find_faults(directory):
        raise CheckpointError(f"checkpoint '{directory}' is refused: {wrong}")
    facts: dict[str, Any] = json.loads((directory / MANIFEST).read_bytes())
    return facts


def find_faults(directory: Path) -> str:
    """What is wrong with a checkpoint, file by file (the first few); empty for a good one."""
    return "; ".join(islice(_faults(directory), SHOWN_FAULTS))


def _faults(directory: Path) -> Iterator[str]:
    if not (directory / MANIFEST).is_file():
        yield (
            f"it has no '{MANIFEST}': it is incomplete, or of a version before manifests, which resumes it still (a new run can "
            f"begin with its weights: model.path={directory / 'model'})"
        )
        return
    try:
        facts = json.loads((directory / MANIFEST).read_bytes())
        checksum, version = facts.pop("checksum"), facts["format"]
    except (OSError, ValueError, AttributeError, TypeError, KeyError) as e:
        yield f"'{MANIFEST}' is damaged ({type(e).__name__}: {e})"
        return
    if version != FORMAT:
        yield f"'{MANIFEST}' has format {version!r}, and this version reads format {FORMAT}: use the version that wrote it"
    elif checksum != _seal(facts):
        yield f"'{MANIFEST}' was altered: its own checksum does not fit"
    else:
        yield from _step_fault(directory, facts["step"])
        yield from _file_faults(directory, facts["files"])


def _step_fault(directory: Path, step: int) -> Iterator[str]:
    """A checkpoint may be moved anywhere, but not to another step's name."""
    named = re.fullmatch(r"step-(\d+)", directory.name)
    if named and int(named[1]) != step:
        yield f"'{MANIFEST}' is of step {step}, another checkpoint's"


def _file_faults(directory: Path, expected: dict[str, dict[str, Any]]) -> Iterator[str]:
    found = dict(_files(directory))
    for name in sorted(found.keys() - expected.keys()):
        yield f"'{name}' does not belong to it ('{MANIFEST}' does not list it)"
    for name, want in expected.items():
        if name not in found:
            yield f"'{name}' is missing"
            continue
        try:
            size = found[name].stat().st_size
            if size != want["bytes"]:
                yield f"'{name}' has {size} bytes, and {want['bytes']} were written"
            elif _digest(found[name]) != want["xxh3_128"]:
                yield f"'{name}' was altered: its checksum is not that of what was written"
        except OSError as e:
            yield f"'{name}' cannot be read ({e})"


def _files(directory: Path) -> Iterator[tuple[str, Path]]:
    """(path within the checkpoint, path) of every file but the manifest, in order."""
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        if name != MANIFEST and not path.is_dir():
            yield name, path


def _digest(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, xxh3_128).hexdigest()


def _seal(facts: dict[str, Any]) -> str:
    """The checksum of the manifest itself."""
    return xxh3_128(json.dumps(facts, sort_keys=True).encode()).hexdigest()
