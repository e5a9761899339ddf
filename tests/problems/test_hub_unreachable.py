"""What a user is told when the hub cannot be reached or says no: the real client, against a server that answers like it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest


def prepare(tmp_path: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    left_out = ("HF_HUB_OFFLINE", "HF_TOKEN", "HF_ENDPOINT")
    env = {k: v for k, v in os.environ.items() if k not in left_out} | {"HF_HOME": str(tmp_path / "home")} | environment
    command = [sys.executable, "-m", "harmonyray", "data", "prepare", *arguments, "--out", str(tmp_path / "out.jsonl")]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=env, cwd=tmp_path)


@pytest.fixture(params=[(401, "GatedRepo"), (404, "RepoNotFound"), (404, "RevisionNotFound")], ids=lambda p: p[1])
def refusal(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """The address of a server that answers everything with one of the hub's errors, and the error's code."""
    status, code = request.param

    class Refuses(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_HEAD = answer

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Refuses)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", code
    server.shutdown()
    server.server_close()


EXPECTED = {
    "GatedRepo": ["Idavidrein/gpqa is gated", "datasets/Idavidrein/gpqa", "HF_TOKEN", "-o dataset"],
    "RepoNotFound": ["no data set 'Idavidrein/gpqa' can be seen on the hub", "-o dataset", "HF_TOKEN"],
    "RevisionNotFound": ["Idavidrein/gpqa has no revision 'v9'", "-o revision"],
}


def test_the_hub_says_no(tmp_path: Path, refusal: tuple[str, str]) -> None:
    endpoint, code = refusal
    done = prepare(tmp_path, "gpqa_diamond", "-o", "revision=v9", HF_ENDPOINT=endpoint)
    assert (done.returncode, done.stdout) == (2, "")
    assert [part for part in EXPECTED[code] if part not in done.stderr] == [], done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out.jsonl").exists()


def test_offline_and_not_downloaded(tmp_path: Path) -> None:
    done = prepare(tmp_path, "math500", HF_HUB_OFFLINE="1")
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    for part in ("HuggingFaceH4/MATH-500 cannot be fetched", "HF_HUB_OFFLINE is set", "HF_ENDPOINT", "-o dataset"):
        assert part in done.stderr


def test_offline_does_not_matter_to_a_local_folder(tmp_path: Path) -> None:
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k" / "test.jsonl").write_text('{"question": "1+1?", "answer": "so\\n#### 2"}\n')
    done = prepare(tmp_path, "gsm8k", "-o", "dataset=./gsm8k", HF_HUB_OFFLINE="1")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "out.gold.jsonl").read_text() == '{"id": "gsm8k/test/0", "answer": "2"}\n'
