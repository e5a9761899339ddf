"""The killable math-verify child: limits, restarts, orphans, threads."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from harmonyray.answers.workers import MathVerifyWorker, Task
from harmonyray.errors import GraderError

BOMB = ("latex", "$9^{9^{9^9}}$")


def formula(text: str) -> tuple[str, str]:
    return ("latex", f"${text}$")


SAME = Task(formula("x+1"), formula("1+x"))
OTHER = Task(formula("x+1"), formula("x-1"))
STUCK = Task(BOMB, formula("x"))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def cpu_ticks(pid: int) -> int:
    """What the process has computed, in hundredths of a second."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def gone_within(pid: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while alive(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_a_stuck_pair_times_out_and_the_others_are_still_answered() -> None:
    limit_s = 2.0
    with MathVerifyWorker(limit_s=limit_s) as worker:
        worker.compare([SAME])  # so that the clock below does not time the imports
        start = time.monotonic()
        replies = worker.compare([SAME, OTHER, STUCK, SAME, Task(formula("y"), BOMB), STUCK, OTHER])
        wall_s = time.monotonic() - start
        restarts = worker.num_restarts
    assert [reply.status for reply in replies] == ["ok", "ok", "timeout", "ok", "timeout", "timeout", "ok"]
    assert [reply.equal for reply in replies] == [True, False, False, True, False, False, False]
    # 9^9^9^9 has either cost one limit (stuck while it was read) or two (stuck in comparisons), never one per pair
    assert 1 <= restarts <= 2
    assert limit_s <= wall_s < 30


def test_the_child_is_replaced_after_it_is_killed() -> None:
    with MathVerifyWorker(limit_s=20) as worker:
        assert worker.compare([SAME])[0].equal
        first = worker.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        assert [reply.equal for reply in worker.compare([SAME, OTHER])] == [True, False]
        assert worker.pid != first
    assert not alive(first)


def test_the_child_is_replaced_when_it_dies_between_two_pairs() -> None:
    """Nobody's answer is lost: the pairs behind are asked again."""
    with MathVerifyWorker(limit_s=20) as worker:
        worker.compare([SAME])
        pid = worker.pid
        assert pid is not None
        killer = threading.Timer(0.3, os.kill, (pid, signal.SIGKILL))
        killer.start()
        tasks = [Task(formula(f"x+{n}"), formula(f"{n}+x")) for n in range(200)]
        replies = worker.compare(tasks)
        killer.join()
        assert worker.num_restarts <= 1
    # the one pair that was being compared may be given up, no other
    assert sum(not reply.equal for reply in replies) <= 1


def test_a_child_that_hangs_without_computing_is_given_up_too() -> None:
    with MathVerifyWorker(limit_s=0.4) as worker:
        worker.compare([SAME])
        worker._await_ready()  # on a busy machine the first comparison may have cost the child its life
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGSTOP)
        start = time.monotonic()
        replies = worker.compare([OTHER, SAME])
        # three limits by the clock, then a new child
        assert 1.2 <= time.monotonic() - start < 30
    assert replies[0].status == "timeout"


def test_close_ends_the_child_and_later_use_is_an_error() -> None:
    worker = MathVerifyWorker()
    worker.compare([SAME])
    pid = worker.pid
    assert pid is not None and alive(pid)
    worker.close()
    worker.close()
    assert not alive(pid)
    with pytest.raises(GraderError, match="closed"):
        worker.compare([SAME])


def test_no_child_until_it_is_needed() -> None:
    with MathVerifyWorker() as worker:
        assert worker.pid is None
        assert worker.compare([]) == []
        assert worker.pid is None


def test_unparsable_is_neither_wrong_nor_a_timeout() -> None:
    with MathVerifyWorker(limit_s=20) as worker:
        reply = worker.compare([Task(("prose", "no mathematics here"), formula("5"))])[0]
    assert (reply.equal, reply.status) == (False, "unparsable")


def test_memory_is_limited() -> None:
    with MathVerifyWorker(limit_s=20, memory_mb=700) as worker:
        assert worker.compare([SAME])[0].equal
        with open(f"/proc/{worker.pid}/limits") as file:
            line = next(line for line in file if line.startswith("Max address space"))
    assert line.split()[3] == str(700 * 2**20)


def test_a_child_that_cannot_start_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    false = shutil.which("false")
    if false is None:
        pytest.skip("no program named false to stand in for a broken interpreter")
    monkeypatch.setattr(sys, "executable", false)
    with MathVerifyWorker(memory_mb=777) as worker, pytest.raises(GraderError, match=r"does not start .*memory_mb=777"):
        worker.compare([SAME])


def test_several_threads_share_a_worker() -> None:
    results: dict[int, list[bool]] = {}
    with MathVerifyWorker(limit_s=20) as worker:

        def ask(n: int) -> None:
            tasks = [Task(formula(f"x+{n}"), formula(f"{n}+x")), Task(formula(f"x+{n}"), formula(f"x-{n}"))]
            results[n] = [reply.equal for reply in worker.compare(tasks * 3)]

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(1, 5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == {n: [True, False] * 3 for n in range(1, 5)}


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "stuck in a pair"])
def test_the_child_dies_with_its_parent(busy: bool) -> None:
    """The parent is killed outright, with no chance to clean up."""
    code = (
        "import threading, time\n"
        "from harmonyray.answers.workers import MathVerifyWorker, Task\n"
        "w = MathVerifyWorker(limit_s=600)\n"
        "w._alarm_s = 8\n"
        "w.compare([Task(('latex', '$x+1$'), ('latex', '$1+x$'))])\n"
        "print(w.pid, flush=True)\n"
        "if BUSY: w.compare([Task(('latex', '$9^{9^{9^9}}$'), ('latex', '$x$'))])\n"
        "time.sleep(600)\n"
    ).replace("BUSY", str(busy))
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    idle = cpu_ticks(child)
    while busy and cpu_ticks(child) < idle + 10:
        time.sleep(0.05)
    assert alive(child)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert gone_within(child, 20)
