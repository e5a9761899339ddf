"""Real damage to real files: what is wrong is named, and the checkpoint before is taken."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from xxhash import xxh3_128

from harmonyray.checkpoint import CheckpointStore
from harmonyray.errors import CheckpointError
from harmonyray.manifest import read_manifest


def write(directory: Path) -> None:
    (directory / "model").mkdir()
    (directory / "model" / "weights").write_bytes(bytes(range(256)) * 4)
    (directory / "optimizer").write_bytes(b"moments")


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    """With checkpoints of steps 4 and 5, of policy versions 3 and 4 (a step was skipped)."""
    store = CheckpointStore(tmp_path / "checkpoints", keep=2)
    store.save(4, 3, write, {"eval": {}})
    store.save(5, 4, write, {"eval": {}})
    return store


def test_a_manifest_lists_every_file(store: CheckpointStore) -> None:
    manifest = read_manifest(store.path(5))
    assert (manifest["format"], manifest["step"], manifest["policy_version"]) == (1, 5, 4)
    assert list(manifest["files"]) == ["model/weights", "optimizer", "state.json"]
    # XXH3-128 of "moments" is that of the library, fed at once.
    assert manifest["files"]["optimizer"] == {"bytes": 7, "xxh3_128": xxh3_128(b"moments").hexdigest()}


def truncate(c: Path) -> None:
    os.truncate(c / "model" / "weights", 1000)


def flip(c: Path) -> None:
    content = bytearray((c / "model" / "weights").read_bytes())
    content[500] ^= 1
    (c / "model" / "weights").write_bytes(content)


def lengthen(c: Path) -> None:
    with (c / "optimizer").open("ab") as f:
        f.write(b"!")


def edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    def edit_file(c: Path) -> None:
        text = (c / name).read_text()
        assert text.count(old) == 1
        (c / name).write_text(text.replace(old, new))

    return edit_file


def swap_in(name: str) -> Callable[[Path], None]:
    return lambda c: (c / name).write_bytes((c.parent / "step-000004" / name).read_bytes())


def replace_by_the_one_before(c: Path) -> None:
    shutil.rmtree(c)
    shutil.copytree(c.parent / "step-000004", c)


DAMAGE: list[tuple[Callable[[Path], None], str]] = [
    (truncate, r"'model/weights' has 1000 bytes, and 1024 were written"),
    (lengthen, r"'optimizer' has 8 bytes, and 7 were written"),
    (flip, r"'model/weights' was altered"),
    (lambda c: (c / "optimizer").unlink(), r"'optimizer' is missing"),
    (lambda c: shutil.rmtree(c / "model"), r"'model/weights' is missing"),
    (lambda c: (c / "model" / "stray").write_text(""), r"'model/stray' does not belong to it"),
    (lambda c: (c / "optimizer").rename(c / "x"), r"'x' does not belong to it.*; 'optimizer' is missing"),
    (lambda c: (c / "state.json").write_text("{"), r"'state.json' has 1 bytes"),
    (edit("state.json", '"step": 5', '"step": 6'), r"'state.json' was altered"),
    (edit("manifest.json", '"step": 5', '"step": 6'), r"'manifest.json' was altered: its own checksum"),
    (edit("manifest.json", '"policy_version": 4', '"policy_version": 5'), r"'manifest.json' was altered"),
    (edit("manifest.json", '"bytes": 7', '"bytes": 8'), r"'manifest.json' was altered"),
    (edit("manifest.json", '"format": 1', '"format": 2'), r"has format 2, and this version reads format 1: use the version"),
    (swap_in("manifest.json"), r"'manifest.json' is of step 4, another checkpoint's; 'state.json' was altered"),
    (swap_in("state.json"), r"'state.json' was altered"),
    (replace_by_the_one_before, r"'manifest.json' is of step 4, another checkpoint's$"),
    (lambda c: (c / "manifest.json").write_text(""), r"'manifest.json' is damaged"),
    (lambda c: (c / "manifest.json").write_bytes(b'{"format": \xff'), r"'manifest.json' is damaged"),
    (lambda c: (c / "manifest.json").write_text("[]"), r"'manifest.json' is damaged"),
    (lambda c: (c / "manifest.json").write_text("{}"), r"'manifest.json' is damaged"),
    (lambda c: (c / "manifest.json").unlink(), r"it has no 'manifest.json'.*before manifests.*model.path=.*step-000005/model"),
]


@pytest.mark.parametrize(("damage", "named"), DAMAGE)
def test_damage_is_named_and_the_one_before_is_used(store: CheckpointStore, damage: Callable[[Path], None], named: str) -> None:
    damage(store.path(5))
    with pytest.raises(CheckpointError, match=rf"step-000005' is refused: .*{named}"):
        read_manifest(store.path(5))
    found, refused = store.newest()
    assert found == (store.path(4), {"step": 4, "eval": {}})
    assert list(refused) == [5]


def test_a_byte_anywhere_in_a_checkpoint_counts(store: CheckpointStore) -> None:
    """Every seventh byte of every file, one after the other, the manifest's too."""
    for path in sorted(p for p in store.path(5).rglob("*") if p.is_file()):
        good = path.read_bytes()
        for i in range(0, len(good), 7):
            path.write_bytes(good[:i] + bytes([good[i] ^ 4]) + good[i + 1 :])
            with pytest.raises(CheckpointError):
                read_manifest(store.path(5))
        path.write_bytes(good)
    read_manifest(store.path(5))


def test_none_left_is_one_error_with_every_reason(store: CheckpointStore) -> None:
    truncate(store.path(4))
    flip(store.path(5))
    with pytest.raises(CheckpointError) as caught:
        store.newest()
    first, *reasons = str(caught.value).splitlines()
    assert "can be used; put back a copy of one, or delete that folder to begin again at step 1" in first
    assert [line.split(":")[0].strip() for line in reasons] == ["step-000005", "step-000004"]


def test_what_was_set_aside_neither_counts_nor_crowds_out(store: CheckpointStore) -> None:
    for _ in range(2):
        flip(store.path(5))
        store.set_aside(store.newest()[1])
        assert store.steps() == [4]
        store.save(5, 4, write, {"eval": {}})
    assert sorted(p.name for p in store.directory.iterdir()) == ["refused-step-000005", "step-000004", "step-000005"]


def test_a_checkpoint_may_be_moved_and_renamed(store: CheckpointStore, tmp_path: Path) -> None:
    store.path(5).rename(tmp_path / "the-good-one")
    assert read_manifest(tmp_path / "the-good-one")["step"] == 5
