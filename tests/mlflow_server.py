"""A real `mlflow server` of a test's own, and a gate before it that can be shut."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path


class Server:
    """Keeps runs in SQLite and artifacts in a folder; both outlive it. Not started until `start`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.held = folder, socket.socket()
        # Bound and never listening: nobody else is given the port, the server may listen on it, and until then it is refused.
        self.held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.held.bind(("127.0.0.1", 0))
        self.port = int(self.held.getsockname()[1])
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        store = [
            "--backend-store-uri",
            f"sqlite:///{self.folder}/server.db",
            "--artifacts-destination",
            str(self.folder / "files"),
        ]
        command = [sys.executable, "-m", "mlflow", "server", *store, "--host", "127.0.0.1", "--port", str(self.port)]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen([*command, "--workers", "1"], stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 120
        while True:
            assert self.process.poll() is None and time.monotonic() < deadline, (self.folder / "server.log").read_text()
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=5) as reply:
                assert reply.status == 200
                return
            time.sleep(0.2)

    def kill(self) -> None:
        """As a crash of its machine would; in the midst of whatever it does."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def close(self) -> None:
        self.kill()
        self.held.close()


class Gate:
    """A TCP relay to a port. While `open` is not set connections are taken, and nothing passes: a server that hangs. `left` is
    how many more pieces of replies pass before every connection is cut off."""

    def __init__(self, port: int) -> None:
        self.target, self.open, self.left = port, threading.Event(), 10**9
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.uri = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        self.open.wait()
        with contextlib.suppress(OSError), client, socket.create_connection(("127.0.0.1", self.target)) as server:
            threading.Thread(target=_pump, args=(client, server), daemon=True).start()
            while self.left > 0 and (data := server.recv(1 << 16)):
                self.left -= 1
                client.sendall(data)
            client.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.open.set()
        self.listener.close()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
