"""Files that appear whole or not at all: on a full disk (the hidden name they are written under leads to /dev/full) the old file
stays, and nothing beside it."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path

import pytest
from test_ledger import MARKS, STEP
from test_tracking import step

from harmonyray.eval_report import SAMPLES, SUMMARY, SampleFile, write_summary
from harmonyray.files import whole_file, write_text
from harmonyray.ledger import take_ledger, write_ledger
from harmonyray.outbox import SENT, Outbox, Place
from harmonyray.records.writing import RecordWriter
from harmonyray.tracking import METRICS, rewind, write_rollouts
from harmonyray.vote_report import plot_vote

OLD = '{"step": 1}\n{"step": 2}\n'


def rollouts(path: Path) -> None:
    collected, judgements = step()
    write_rollouts(path, 7, ["a", "b"], collected.rollouts, judgements)


def ledger(path: Path) -> None:
    write_ledger(path, ["solver", "reframer"], take_ledger(1, STEP, MARKS))


def samples(path: Path) -> None:
    with SampleFile(path.parent, ["a"], {}):
        pass


def records(path: Path, num: int = 1) -> None:
    with RecordWriter(str(path)) as writer:
        writer.write([{"text": "x" * 1000}] * num)


def picture(path: Path) -> None:
    plot_vote({"num_problems": 2, "num_gold": 0, "selector": "majority", "coverage": 0.5, "disagreement": 0.5}, path)


WRITERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "text": ("config.yaml", lambda path: write_text(path, "new")),
    "metrics": (METRICS, lambda path: rewind(path.parent, 1)),
    "rollouts": ("step-000007.parquet", rollouts),
    "ledger": ("step-000001.parquet", ledger),
    "samples of an evaluation": (SAMPLES, samples),
    "summary of an evaluation": (SUMMARY, lambda path: write_summary(path.parent, {}, {})),
    "a record": ("out.jsonl", records),
    "more records than a buffer holds": ("out.jsonl", lambda path: records(path, 100)),
    "records in Parquet": ("out.parquet", records),
    "picture": ("out.png", picture),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, name: str) -> None:
    file, write = WRITERS[name]
    path = tmp_path / file
    path.write_text(OLD)
    (tmp_path / f".{file}").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        write(path)
    assert path.read_text() == OLD
    assert list(tmp_path.iterdir()) == [path]
    write(path)
    assert path.read_bytes() != OLD.encode()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["rollouts", "ledger", "samples of an evaluation", "records in Parquet"])
def test_nor_does_one_that_fills_up_in_mid_file(tmp_path: Path, name: str) -> None:
    file, write = WRITERS[name]
    path = tmp_path / file
    path.write_text(OLD)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_text() == OLD
    assert list(tmp_path.iterdir()) == [path]


def test_an_interruption_leaves_nothing_either(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), whole_file(tmp_path / "a.txt") as temporary:
        temporary.write_text("half of")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_the_count_of_what_mlflow_has_can_find_the_disk_full(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path, Place("sqlite:///mlflow.db", None, "e"), "run")
    outbox.keep()
    before = (tmp_path / SENT).read_text()
    (tmp_path / f".{SENT}").symlink_to("/dev/full")
    outbox.sent()
    assert "No space left" in outbox.broken
    assert (tmp_path / SENT).read_text() == before
    assert list(tmp_path.glob(".*")) == []
