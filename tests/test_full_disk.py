"""A disk that is really full (a tiny tmpfs in a namespace of its own, and /dev/full): one clear message, exit code 1, and the
earlier checkpoint is good to go on from."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import pytest
from run_helpers import SMALL, rows, small_run, steady, weights

from harmonyray.console import Reporter

STEPS = ("steps=4", "checkpoint.every=2")


class FillingUp(Reporter):
    """Puts /dev/full in the place of metrics.jsonl after step `at`, which is just being recorded; keeps what was there."""

    def __init__(self, run_dir: Path, at: int) -> None:
        super().__init__(quiet=True)
        self.metrics, self.at = run_dir / "metrics.jsonl", at

    def step(self, row: Mapping[str, float]) -> None:
        super().step(row)
        if row["step"] == self.at:
            self.metrics.with_suffix(".kept").hardlink_to(self.metrics)
            full = self.metrics.with_suffix(".full")
            full.symlink_to("/dev/full")
            full.replace(self.metrics)  # in one go: another thread is about to append


def test_metrics_that_do_not_fit_leave_a_run_to_go_on_with(tmp_path: Path) -> None:
    small_run(tmp_path / "whole", *STEPS)
    run_dir = tmp_path / "full"
    with pytest.raises(OSError, match="No space left") as caught:
        small_run(run_dir, *STEPS, reporter=FillingUp(run_dir, at=3))
    assert caught.value.errno == errno.ENOSPC
    (run_dir / "metrics.jsonl").unlink()
    (run_dir / "metrics.kept").rename(run_dir / "metrics.jsonl")
    assert [row["step"] for row in rows(run_dir)] in ([1, 2], [1, 2, 3])
    small_run(run_dir, *STEPS, resume=True)
    assert steady(run_dir) == steady(tmp_path / "whole")
    assert weights(run_dir / "model") == weights(tmp_path / "whole" / "model")


IN_NAMESPACE = """
import contextlib, io, json, shutil, subprocess, sys
from pathlib import Path
from harmonyray.cli import main

disk, reference, arguments = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
report = []
for room in json.loads(sys.argv[4]):  # MiB left
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", disk], check=True)
    run_dir = disk / "run"
    first = main(["train", "quickstart", *arguments, "steps=1", "--run-dir", str(run_dir), "--json"])
    used = shutil.disk_usage(disk).used
    subprocess.run(["mount", "-o", f"remount,size={used + int(room * 2**20)}", disk], check=True)
    with contextlib.redirect_stderr(io.StringIO()) as err:
        full = main(["train", "quickstart", *arguments, "steps=2", "--run-dir", str(run_dir), "--resume", "--json"])
    kept = sorted(p.name for p in (run_dir / "checkpoints").iterdir())
    left_over = [p.name for p in run_dir.rglob(".*")]
    subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
    resumed = main(["train", "quickstart", *arguments, "steps=2", "--run-dir", str(run_dir), "--resume", "--json"])
    same = (run_dir / "model/model.safetensors").read_bytes() == (reference / "model/model.safetensors").read_bytes()
    lines = len((run_dir / "metrics.jsonl").read_text().splitlines())
    report.append({"room": room, "codes": [first, full, resumed], "err": err.getvalue(), "kept": kept,
                   "left_over": left_over, "same": same, "lines": lines})
    subprocess.run(["umount", "-l", disk], check=True)
print("\\n" + json.dumps(report))
"""


def may_mount() -> bool:
    probe = ["unshare", "-rm", "sh", "-c", "mount -t tmpfs -o size=1m tmpfs /mnt"]
    try:
        return subprocess.run(probe, capture_output=True, timeout=20).returncode == 0
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize(
    ("learner", "rooms"),
    [
        ("torch", [0.4, 2.0, 3.6]),  # the second checkpoint's weights do not fit, its optimizer, the final model
        pytest.param("deepspeed", [2.0], marks=pytest.mark.skipif(find_spec("deepspeed") is None, reason="no DeepSpeed")),
    ],
)
def test_a_full_disk_at_a_checkpoint(tmp_path: Path, learner: str, rooms: list[float]) -> None:
    if not may_mount():
        pytest.skip("needs user namespaces with mounts (unshare -rm)")
    (tmp_path / "disk").mkdir()
    small = [*SMALL, f"learner.type={learner}"]
    train = [sys.executable, "-m", "harmonyray", "train", "quickstart", *small, "steps=2", "checkpoint.every=1"]
    subprocess.run([*train, "--run-dir", str(tmp_path / "reference")], check=True, capture_output=True, timeout=300)
    arguments = [*small, "checkpoint.every=1", "checkpoint.keep=3", f"tracking.uri=sqlite:///{tmp_path / 'elsewhere.db'}"]
    command = ["unshare", "-rm", sys.executable, "-c", IN_NAMESPACE, str(tmp_path / "disk"), str(tmp_path / "reference")]
    done = subprocess.run([*command, json.dumps(arguments), json.dumps(rooms)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for case in json.loads(done.stdout.splitlines()[-1]):
        assert case["codes"] == [0, 1, 0], case
        messages = [line for line in case["err"].splitlines() if line.startswith("harmonyray:")]
        assert len(messages) == 1, case
        assert "disk is full" in messages[0], case
        assert "--resume" in messages[0], case
        assert "Traceback" not in case["err"], case
        assert case["kept"][0] == "step-000001", case
        assert len(case["kept"]) == 1 + (case["room"] == 3.6), case
        assert case["left_over"] == [], case
        assert (case["same"], case["lines"]) == (True, 2), case
