"""The hostile set: bombs, injections, encodings. Every case ends in time, nothing escapes, nothing is executed."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from harmonyray.answers.equivalence import Equivalence
from harmonyray.answers.extract import extract_answer
from harmonyray.answers.workers import MathVerifyWorker, Task

LIMIT_S = 1.5


def text_of(row: dict[str, Any]) -> str:
    text = row["text"] if "text" in row else "".join(part * count for part, count in row["parts"])
    return text if row["form"] == "answer" else extract_answer(text) or ""


def test_recorded_hostile_answers(shared_rows) -> None:
    rows = shared_rows("hostile/hostile.jsonl")
    assert len(rows) == 196
    slow, wrong, written = [], [], []
    with Equivalence(limit_s=LIMIT_S) as equivalence:
        equivalence.check([("a+b", "b+a")])
        for row in rows:
            text, expect = text_of(row), row["expect"]
            for other in expect["not_equal_to"] + expect.get("equal_to", []):
                start = time.monotonic()
                verdict = equivalence.check([(text, other)])[0]
                elapsed = time.monotonic() - start
                if elapsed * 1000 > expect["no_hang_max_ms"] + 60_000:  # a restart on a busy machine; a hang is for ever
                    slow.append((row["id"], elapsed))
                if verdict.equal != (other in expect.get("equal_to", [])):
                    wrong.append((row["id"], other, verdict))
            marker = expect.get("must_not_exist")
            if marker and os.path.exists(marker):
                written.append(marker)
        assert equivalence.statistics.num_timeouts <= 4
    assert (slow, wrong, written) == ([], [], [])


@pytest.mark.parametrize("mode", ["latex", "prose"])
def test_the_child_executes_nothing(tmp_path: Path, mode: str) -> None:
    """Straight to the solver, past every check in front of it."""
    marker = tmp_path / "marker"
    attempts = [
        f"__import__('os').system('touch {marker}')",
        f"eval(\"__import__('os').system('touch {marker}')\")",
        f"open('{marker}','w')",
        f"[open('{marker}','w') for _ in [1]]",
        f"S(\"open('{marker}','w')\")",
        f"1/2 + open('{marker}','w')",
        f"\\text{{open('{marker}','w')}} = 3",
        "exit()",
        "breakpoint()",
        "input()",
        "__import__('time').sleep(3600)",
    ]
    with MathVerifyWorker(limit_s=20) as worker:
        texts = [(mode, f"${a}$" if mode == "latex" else f"The answer is {a}") for a in attempts]
        replies = worker.compare([Task(text, ("latex", "$x+5$")) for text in texts])
        assert not any(reply.equal for reply in replies)
        assert all(reply.status in ("ok", "unparsable") for reply in replies)
        assert worker.num_restarts == 0
    assert list(tmp_path.iterdir()) == []


def test_the_child_could_not_write_or_start_programs_if_it_tried(tmp_path: Path) -> None:
    """The audit hook itself, in a process of its own: it cannot be removed again."""
    import subprocess
    import sys

    code = f"""
import os, socket, subprocess, sys, sympy
from harmonyray.answers.mathverify_child import _forbid
sys.addaudithook(_forbid)
attempts = [
    lambda: open({str(tmp_path / "a")!r}, "w"),
    lambda: os.open({str(tmp_path / "b")!r}, os.O_CREAT | os.O_WRONLY),
    lambda: os.mkdir({str(tmp_path / "c")!r}),
    lambda: os.system("touch " + {str(tmp_path / "d")!r}),
    lambda: subprocess.run(["touch", {str(tmp_path / "e")!r}]),
    lambda: socket.socket(),
    lambda: os.remove({__file__!r}),
    lambda: os.fork(),
    lambda: sympy.sympify("1 + x"),
]
refused = 0
for attempt in attempts:
    try:
        attempt()
    except PermissionError:
        refused += 1
open({__file__!r}).close()
print(refused, len(attempts))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["9", "9"], done.stderr
    assert list(tmp_path.iterdir()) == []
