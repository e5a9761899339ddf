"""What a report knows of a run: its directory read back as plain data. A configuration is read as it was written, without the
plug-ins that it names, so that a report can be made where they are not installed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from harmonyray.errors import ReportError
from harmonyray.guarding import Event
from harmonyray.registry import BUILT_IN, resolve
from harmonyray.rundir import RECORD
from harmonyray.tracking import METRICS, read_metrics


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run: its resolved configuration and that file's text, `rows` [steps] of its metrics, the evaluation `before` the first
    step (empty without), what is in its summary (empty for a run that has not ended well), versions, and whether its
    method was shown the gold answers (None: it is no built-in method)."""

    path: Path
    config: Mapping[str, Any]
    config_text: str
    rows: Sequence[Mapping[str, Any]]
    before: Mapping[str, float]
    summary: Mapping[str, Any]
    versions: Mapping[str, str]
    uses_gold: bool | None

    @property
    def views(self) -> list[str]:
        return list(self.config["views"])

    @property
    def guard_events(self) -> Sequence[Event]:
        events: Sequence[Event] = self.summary.get("guard", [])
        return events


def is_run(path: Path) -> bool:
    """Whether this is the directory of a run that has begun."""
    return (path / "config.yaml").is_file() and (path / METRICS).is_file()


def read_run(path: Path) -> RunRecord:
    """Raises ReportError for a run that has not finished a step, or whose files cannot be read."""
    try:
        text = (path / "config.yaml").read_text()
        config, rows = yaml.safe_load(text), read_metrics(path)
        record, summary = _read_json(path / RECORD), _read_json(path / "summary.json")
    except (OSError, ValueError, yaml.YAMLError) as e:
        raise ReportError(f"the run '{path}' cannot be read ({type(e).__name__}: {e}): are its files whole?") from e
    if not isinstance(config, dict) or not {"name", "views", "method"} <= config.keys():
        raise ReportError(f"'{path / 'config.yaml'}' is not the configuration of a run (it has no name, views and method)")
    if not rows:
        raise ReportError(f"the run '{path}' has not finished a step yet: expected at least one line in {METRICS}")
    before = summary.get("eval_before") or record.get("eval_before") or {}
    return RunRecord(path, config, text, rows, before, summary, record.get("versions", {}), _uses_gold(config["method"]["type"]))


def _read_json(path: Path) -> dict[str, Any]:
    out: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return out


def _uses_gold(method: str) -> bool | None:
    """Somebody's plug-in is not imported for this: that would run code which the run directory names."""
    return bool(resolve("methods", method).needs_gold) if method in BUILT_IN["methods"] else None
