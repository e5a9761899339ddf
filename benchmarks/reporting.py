"""How the benchmarks give out what they measured: a table and a line of JSON on the screen, both in files where wanted."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def give_out(out: Path | None, name: str, table: str, brief: Mapping[str, Any], **report: Any) -> None:
    """Prints the table and the `brief` figures; with a folder `out` also writes `{name}.md`, and the whole report as
    `{name}.json`."""
    if out is not None:
        machine = {"cpu": platform.machine(), "cores": len(os.sched_getaffinity(0)), "python": platform.python_version()}
        out.mkdir(parents=True, exist_ok=True)
        whole = {"machine": machine, "load_average": os.getloadavg(), **report}
        (out / f"{name}.json").write_text(json.dumps(whole, indent=1) + "\n")
        (out / f"{name}.md").write_text(table + "\n")
    print(table)
    print(json.dumps(brief))


def from_child(command: Sequence[str], **env: str) -> dict[str, Any]:
    """The JSON object that a process of its own prints last. Ends with what it said if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **env})
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed with {done.returncode}:\n{done.stderr[-4000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result
