"""Files that appear whole or not at all: on a full disk the old file stays, and nothing beside it."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from full_disk import full_for
from test_ledger import MARKS, STEP
from test_tracking import step

from harmonyray.eval_report import SAMPLES, SUMMARY, SampleFile, write_summary
from harmonyray.evaluate import Graded
from harmonyray.files import whole_file, write_text
from harmonyray.ledger import take_ledger, write_ledger
from harmonyray.outbox import SENT, Outbox, Place
from harmonyray.records.writing import RecordWriter
from harmonyray.tracking import METRICS, rewind, write_rollouts
from harmonyray.types import GoldAnswer
from harmonyray.vote_report import plot_vote

OLD = '{"step": 1}\n{"step": 2}\n'


def rollouts(path: Path) -> None:
    collected, judgements = step()
    write_rollouts(path, 7, ["a", "b"], collected.rollouts, judgements)


def ledger(path: Path) -> None:
    write_ledger(path, ["solver", "reframer"], take_ledger(1, STEP, MARKS))


def samples(path: Path) -> None:
    collected, _ = step()
    with SampleFile(path.parent, ["a", "b"], {"p": GoldAnswer("p", "4")}) as file:
        file.add(Graded("eval", False, collected.rollouts, collected.groups, [np.array([True, False])]))


def records(path: Path, num: int = 1) -> None:
    with RecordWriter(str(path)) as writer:
        writer.write([{"text": "x"}] * num)


def picture(path: Path) -> None:
    plot_vote({"num_problems": 2, "num_gold": 0, "selector": "majority", "coverage": 0.5, "disagreement": 0.5}, path)


WRITERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "text": ("config.yaml", lambda path: write_text(path, "new")),
    "metrics": (METRICS, lambda path: rewind(path.parent, 1)),
    "rollouts": ("step-000007.parquet", rollouts),
    "ledger": ("step-000001.parquet", ledger),
    "samples of an evaluation": (SAMPLES, samples),
    "summary of an evaluation": (SUMMARY, lambda path: write_summary(path, {}, {})),
    "a record": ("out.jsonl", records),
    "more records than a buffer holds": ("out.jsonl", lambda path: records(path, 10_000)),
    "records in Parquet": ("out.parquet", records),
    "picture": ("out.png", picture),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    file, write = WRITERS[name]
    path = tmp_path / file
    path.write_text(OLD)
    full_for(path, monkeypatch)
    with pytest.raises(OSError, match="No space left"):
        write(path)
    assert path.read_text() == OLD
    assert list(tmp_path.iterdir()) == [path]
    write(path)
    assert path.read_bytes() != OLD.encode()
    assert list(tmp_path.iterdir()) == [path]


def fill_up_in_mid_file(folder: Path) -> None:
    """For a process of its own, which may write no file beyond 100 bytes from now on."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    for name in ("rollouts", "ledger", "samples of an evaluation", "records in Parquet"):
        file, write = WRITERS[name]
        path = folder / file
        path.write_text(OLD)
        with pytest.raises(OSError, match="File too large"):
            write(path)
        assert path.read_text() == OLD, name
        assert list(folder.iterdir()) == [path], name
        path.unlink()
    print("done")


def test_nor_does_one_that_fills_up_in_mid_file(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; import test_files; test_files.fill_up_in_mid_file(Path(sys.argv[1]))"
    here = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    child = [sys.executable, "-B", "-c", code, str(tmp_path)]  # -B: compiled modules would be cut off, too
    done = subprocess.run(child, env=here, capture_output=True, text=True, timeout=120)
    assert done.stdout == "done\n", done.stderr


def test_nor_does_a_name_that_cannot_be_taken(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write_text(tmp_path / "folder", "new")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_two_writers_of_one_name_do_not_meet(tmp_path: Path) -> None:
    """The last one's file is there, whole."""
    path = tmp_path / "a.txt"
    with whole_file(path) as first:
        first.write_text("first, and longer")
        write_text(path, "second")
        assert path.read_text() == "second"
    assert path.read_text() == "first, and longer"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_one_and_permissions_stay(tmp_path: Path) -> None:
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "real.txt").chmod(0o640)
    (tmp_path / "link.txt").symlink_to("real.txt")
    write_text(tmp_path / "link.txt", "new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"
    assert (tmp_path / "real.txt").stat().st_mode & 0o777 == 0o640
    assert len(list(tmp_path.iterdir())) == 2
    (tmp_path / "link.png").symlink_to("real.txt")
    with whole_file(tmp_path / "link.png") as temporary:
        assert temporary.suffix == ".png"  # by which a format is known
        temporary.touch()


def test_a_file_is_on_the_disk_before_it_takes_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    monkeypatch.setattr("harmonyray.files.os.fsync", lambda fd: seen.append((tmp_path / "a.txt").exists()))
    write_text(tmp_path / "a.txt", "new")
    assert seen == [False]


def test_an_interruption_leaves_nothing_either(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), whole_file(tmp_path / "a.txt") as temporary:
        temporary.write_text("half of")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_the_count_of_what_mlflow_has_can_find_the_disk_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outbox = Outbox(tmp_path, Place("sqlite:///mlflow.db", None, "e"), "run")
    outbox.keep()
    before = (tmp_path / SENT).read_text()
    full_for(tmp_path / SENT, monkeypatch)
    outbox.sent()
    assert "No space left" in outbox.broken
    assert (tmp_path / SENT).read_text() == before
    assert list(tmp_path.glob(".*")) == []
