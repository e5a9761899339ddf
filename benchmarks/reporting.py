"""How the benchmarks give out what they measured: a table and a line of JSON on the screen, both in files where wanted."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
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
