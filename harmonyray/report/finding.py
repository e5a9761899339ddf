"""What a report is asked for: a run's directory, a directory with runs below it, or a run that MLflow has tracked."""

from __future__ import annotations

import os
import re
from pathlib import Path

from harmonyray.errors import ReportError, brief
from harmonyray.report.reading import is_run
from harmonyray.tracking import RUN_DIR_TAG

DEFAULT_STORE = Path("runs") / "mlflow.db"
SWEEP_STORES = "sweep-*/mlflow.db"  # beside it; a sweep keeps its own
NOT_ENTERED = {"mlartifacts", "mlruns", "checkpoints", "rollouts", "ledger", "model"}  # artifacts hold copies of whole runs


def find_place(target: str) -> Path:
    """The directory that `target`, a path or an MLflow run's id, stands for. Raises ReportError if there is none."""
    path = Path(target).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise ReportError(f"'{target}' is a file; expected the directory of a run or of a sweep, or an MLflow run id")
    if re.fullmatch(r"[0-9a-f]{32}", target):
        return _tracked_place(target)
    raise ReportError(f"nothing called '{target}' is there: expected the directory of a run or of a sweep, or an MLflow run id")


def find_runs(place: Path) -> list[Path]:
    """The runs at or below a directory, in the order of their names. Raises ReportError without any."""
    found = []
    for folder, below, _ in os.walk(place):
        if is_run(Path(folder)):
            found.append(Path(folder))
            below.clear()
        below[:] = [name for name in below if name not in NOT_ENTERED]
    if not found:
        raise ReportError(
            f"'{place}' holds no run: expected config.yaml and metrics.jsonl in it, or in directories below it; "
            "a run writes them with its first step"
        )
    return sorted(found)


def _tracked_place(run_id: str) -> Path:
    place = _tracked_tags(run_id).get(RUN_DIR_TAG)
    if place is not None and Path(place).is_dir():
        return Path(place)
    where = f"was written to '{place}', which is not on this machine" if place else f"has no tag {RUN_DIR_TAG!r}"
    raise ReportError(
        f"the MLflow run '{run_id}' {where}: fetch it with `mlflow artifacts download --run-id {run_id} --dst-path DIR` "
        "and report that directory"
    )


def _tracked_tags(run_id: str) -> dict[str, str]:
    """The tags of an MLflow run, from the first store that has it."""
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    refused = []
    for uri in _stores(run_id):
        try:
            tags: dict[str, str] = MlflowClient(uri).get_run(run_id).data.tags
        except MlflowException as e:
            refused.append(f"the MLflow store {uri!r} gives no run '{run_id}' ({brief(e)})")
        else:
            return tags
    others = f", nor do {len(refused) - 1} others" if len(refused) > 1 else ""
    raise ReportError(f"{refused[0]}{others}: set MLFLOW_TRACKING_URI to the store that has it, or give the run's directory")


def _stores(run_id: str) -> list[str]:
    """The URIs to look in: MLFLOW_TRACKING_URI, or else where runs and sweeps are tracked if nothing else is said."""
    given = os.environ.get("MLFLOW_TRACKING_URI")
    places = [DEFAULT_STORE, *sorted(DEFAULT_STORE.parent.glob(SWEEP_STORES), reverse=True)]
    uris = [given] if given else [f"sqlite:///{place}" for place in places]
    there = [uri for uri in uris if not uri.startswith("sqlite:///") or Path(uri.removeprefix("sqlite:///")).is_file()]
    if not there:
        raise ReportError(
            f"'{run_id}' looks like an MLflow run id, and there is no store at {uris[0]!r}: set MLFLOW_TRACKING_URI, "
            "or give the run's directory"
        )
    return there
