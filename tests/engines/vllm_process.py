"""A process that holds vLLM engines for the tests, and stand-ins for them in the tests' own process."""

from __future__ import annotations

import importlib.util
import os
import pickle
import subprocess
import sys
from multiprocessing.connection import Client, Connection, Listener
from typing import Any

import pytest

needs_vllm = [
    pytest.mark.slow,
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="no vLLM build is installed (`make test` installs one)"),
]


KV_CACHE_GIB = 0.05  # vLLM takes this memory at once, and a session has twenty engines


class VllmProcess:
    """Runs Python in a process of its own, which starts with the first call and keeps its names from call to call."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.engines: dict[tuple[Any, ...], RemoteEngine] = {}

    def run(self, code: str, **names: Any) -> Any:
        """What `result` is after `code`, in which `names` are known; what it raises is raised here."""
        if self.process is None:
            self._start()
        self.connection.send_bytes(pickle.dumps((code, names)))
        answer, error = pickle.loads(self.connection.recv_bytes())
        if error is not None:
            raise error
        return answer

    def engine(self, model: str, dtype: str = "float32", **options: Any) -> RemoteEngine:
        """A VllmEngine; equal arguments give the same one. Do not close it: vLLM's engines in one process share some state."""
        options = {"kv_cache_gib": KV_CACHE_GIB} | options
        key = (model, dtype, repr(options))
        if key not in self.engines:
            name = f"engine_{len(self.engines)}"
            code = f"{name} = VllmEngine(VllmEngine.Options(**options), model, dtype)\nresult = None"
            self.run(f"from harmonyray.engines.vllm import VllmEngine\n{code}", options=options, model=model, dtype=dtype)
            self.engines[key] = RemoteEngine(self, name)
        return self.engines[key]

    def close(self) -> None:
        if self.process is not None:
            self.connection.close()
            code = self.process.wait(timeout=60)
            assert code == 0, code
            self.process = None

    def _start(self) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        with Listener(family="AF_UNIX") as listener:
            self.process = subprocess.Popen([sys.executable, __file__, str(listener.address)], env=environment)
            self.connection: Connection[Any, Any] = listener.accept()


class RemoteEngine:
    """Looks like the engine."""

    def __init__(self, process: VllmProcess, name: str) -> None:
        self._process, self._name = process, name

    def __getattr__(self, method: str) -> Any:
        return lambda *args: self._process.run(f"result = {self._name}.{method}(*args)", args=args)

    def get(self, path: str) -> Any:
        """The value of an attribute of the engine."""
        return self._process.run(f"result = {self._name}.{path}")


def serve(address: str) -> None:
    """The process's side: runs what it is sent until the other side hangs up."""
    known: dict[str, Any] = {}
    with Client(address) as connection:
        while True:
            try:
                code, names = pickle.loads(connection.recv_bytes())
            except EOFError:
                os._exit(0)  # vLLM's own ending takes seconds for each engine that was not closed
            known.update(names)
            try:
                exec(code, known)
                answer = (known.get("result"), None)
            except Exception as e:  # noqa: BLE001 (it is raised where it was asked for)
                answer = (None, e)
            connection.send_bytes(pickle.dumps(answer))


if __name__ == "__main__":
    serve(sys.argv[1])
