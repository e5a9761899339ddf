"""A real `ray start --head` of a test's own: own ports, own directory, own token; its jobs by the command line and by REST."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from pathlib import Path
from typing import Any

MARK = "HARMONYRAY_TEST_HEAD"  # in the environment of everything that the head starts
RAY = Path(sys.executable).with_name("ray")


def free_port() -> int:
    """One that the system gives to nobody by itself, and neither does Ray."""
    while True:
        port = random.SystemRandom().randrange(20000, 32000)
        with socket.socket() as s, contextlib.suppress(OSError):
            s.bind(("127.0.0.1", port))
            return port


class Head:
    """Up when it is made. Call `end` in any case."""

    def __init__(self, *arguments: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="hr"))  # short: Ray's sockets lie in it
        (self.folder / "token").write_text(uuid.uuid4().hex)
        self.mark, self.port = uuid.uuid4().hex, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        without = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
        self.env = {k: v for k, v in os.environ.items() if k not in without} | {
            MARK: self.mark,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        ports = ("--dashboard-agent-listen-port", "--dashboard-agent-grpc-port", "--ray-client-server-port", "--port")
        command = [str(RAY), "start", "--head", "--block", f"--temp-dir={self.folder / 'ray'}", "--node-ip-address=127.0.0.1"]
        command += ["--include-dashboard=true", f"--dashboard-port={self.port}", *(f"{name}={free_port()}" for name in ports)]
        with (self.folder / "out").open("w") as out:
            self.process = subprocess.Popen(
                [*command, *arguments], env=self.env, stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True
            )
        try:
            self._await_api()
        except BaseException:
            self.end()
            raise

    def _await_api(self) -> None:
        deadline = time.monotonic() + 120
        while True:
            assert self.process.poll() is None, (self.folder / "out").read_text()
            assert time.monotonic() < deadline, "the head does not come up"
            with contextlib.suppress(OSError):
                self.ask("/api/jobs/")
                return
            time.sleep(0.3)

    def ask(self, path: str, post: Any = None) -> Any:
        """A request to the jobs API."""
        token = (self.folder / "token").read_text()
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        data = None if post is None else json.dumps(post).encode()
        with urllib.request.urlopen(urllib.request.Request(self.url + path, data, headers), timeout=60) as reply:
            return json.load(reply)

    def submit(self, entrypoint: str, **options: Any) -> str:
        """A job that nobody waits for; its id."""
        return str(self.ask("/api/jobs/", {"entrypoint": entrypoint, **options})["submission_id"])

    def job(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.ask(f"/api/jobs/{name}")
        return found

    def log(self, name: str) -> str:
        return str(self.ask(f"/api/jobs/{name}/logs")["logs"])

    def cli(self, *arguments: str, cwd: Path) -> subprocess.Popen[str]:
        """`ray job ...` against this head."""
        env = self.env | {"RAY_API_SERVER_ADDRESS": self.url, "PYTHONUNBUFFERED": "1"}
        command = [str(RAY), "job", *arguments]
        return subprocess.Popen(command, env=env, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def processes(self) -> list[int]:
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if f"{MARK}={self.mark}".encode() in path.read_bytes():
                    found.append(int(path.parent.name))
        return found

    def end(self) -> None:
        """Ends what this head has started, by its mark, and nothing else."""
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(15)
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
