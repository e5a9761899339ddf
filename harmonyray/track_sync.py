"""`harmonyray track sync`: sends what a run still has for MLflow. Safe to repeat, and to break off."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harmonyray.errors import ConfigError, RunError, ServerAwayError
from harmonyray.files import write_text
from harmonyray.mlflow_store import MlflowStore, deliver, offer_again
from harmonyray.outbox import Outbox
from harmonyray.rundir import held

KNOW_THE_RUN = ("summary.json", "run.json", "eval.json")  # they were written before the server had given the run's id


def run_sync(directory: Path) -> dict[str, Any]:
    """Sends the rest to the store that the run was told of: `run_dir`, `uri`, `mlflow_run_id`, and how many records were `sent`
    now and `refused` for which reasons.

    Raises ConfigError for a directory without records or of a run that is still going, TrackingError for a store that cannot be
    used, RunError if the server does not answer; what it has taken by then is not sent again.
    """
    if not directory.is_dir():
        raise ConfigError(f"'{directory}' is not a directory: expected that of a run, or of `eval --out`")
    with held(directory):
        outbox = Outbox.of_directory(directory)
        num_sent = _send(outbox) if outbox.num_left else 0
    return {
        "run_dir": str(directory.resolve()),
        "uri": outbox.place.uri,
        "mlflow_run_id": outbox.run_id,
        "sent": num_sent,
        "refused": sorted(set(outbox.refused.values())),
    }


def _send(outbox: Outbox) -> int:
    """How many records the store took."""
    store = MlflowStore(outbox)
    try:
        store.open()
        before = outbox.num_left
        for name in KNOW_THE_RUN:
            _name_the_run(outbox.directory / name, outbox.run_id)
        offer_again(outbox, store)
        deliver(outbox, store)
        return before - outbox.num_left
    except ServerAwayError as e:
        raise RunError(
            f"MLflow at {outbox.place.uri} does not answer ({e}): {outbox.num_left} record(s) of "
            f"'{outbox.directory}' wait to be sent; repeat this command when the server is back"
        ) from e


def _name_the_run(path: Path, run_id: str | None) -> None:
    """Fills in the id where it is still null: what is sent is what would have been written with the server there."""
    facts = json.loads(path.read_text()) if path.exists() else {}
    if "mlflow_run_id" in facts and facts["mlflow_run_id"] is None:
        write_text(path, json.dumps({**facts, "mlflow_run_id": run_id}))


def describe_sync(summary: dict[str, Any]) -> str:
    """For people."""
    where = f"{summary['uri']}, run {summary['mlflow_run_id']}"
    refused: Sequence[str] = summary["refused"]
    if refused:
        return "\n".join([f"sent {summary['sent']} record(s) to {where}; it does not take the others:", *refused])
    if not summary["sent"]:
        return f"nothing to send: {where} has everything of {summary['run_dir']}"
    return f"sent {summary['sent']} record(s): {where} has everything of {summary['run_dir']}"
