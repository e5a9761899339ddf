"""Recording a run: `metrics.jsonl`, Parquet rollouts, the vote ledger, MLflow. mlflow is imported by the first record."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from harmonyray.errors import RolloutsLostError, TrackingError
from harmonyray.ledger import FOLDER, StepLedger, write_ledger
from harmonyray.types import Collected, FailedAttempt, Judgement, Kept, ProblemRollouts, T

METRICS = "metrics.jsonl"
FAILED = "failed.jsonl"  # the attempts at sampling that failed
ROWS_AT_ONCE = 1024
MLFLOW_PARAM_CHARS = 500
MLFLOW_BATCH = 100  # parameters one request may hold
MLFLOW_METRICS = 1000  # the most that one call may bring


class RunTracker:
    """Writes a step's record to the run directory and to MLflow, both in the background while the run goes on. A context
    manager: on leaving, everything is written."""

    def __init__(self, run_dir: Path, views: Sequence[str], mlflow: MlflowRun, listeners: Iterable[Any] = ()) -> None:
        self.run_dir, self.views, self.mlflow, self.listeners = run_dir, list(views), mlflow, list(listeners)
        self.last_row: Mapping[str, float] = {}  # of the step that was logged last
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="record")
        self._writing: Future[None] | None = None
        for folder in ("rollouts", FOLDER):
            (run_dir / folder).mkdir(exist_ok=True)

    def __enter__(self) -> RunTracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.flush()
        except Exception as e:
            if error is None:
                raise
            error.add_note(f"and the last step could not be recorded: {_brief(e)}")
        finally:
            self._pool.shutdown()

    def log_step(
        self,
        step: int,
        row: Mapping[str, float],
        collected: Collected,
        judgements: Sequence[Judgement],
        ledger: StepLedger | None = None,
    ) -> None:
        """Waits for the step before, if it is still being written, and raises what writing it raised."""
        self.flush()
        self.last_row = row
        self._writing = self._pool.submit(self._write, step, dict(row), collected, judgements, ledger)
        for listener in self.listeners:
            listener(row)

    def log_failed(self, step: int, failed: Sequence[FailedAttempt]) -> None:
        """A line in `failed.jsonl` for each."""
        if failed:
            lines = (json.dumps({"step": step, **asdict(attempt)}) + "\n" for attempt in failed)
            _append(self.run_dir / FAILED, "".join(lines))

    def flush(self) -> None:
        """Waits until the last step is recorded. Raises OSError where it cannot be."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def go_back(self, step: int) -> None:
        """Forgets the steps after `step`: they will be run, and recorded, again."""
        self.flush()
        rewind(self.run_dir, step)
        rows = read_metrics(self.run_dir)
        self.last_row = rows[-1] if rows else {}
        self.mlflow.go_back(step)

    def _write(
        self,
        step: int,
        row: Mapping[str, float],
        collected: Collected,
        judgements: Sequence[Judgement],
        ledger: StepLedger | None,
    ) -> None:
        """Rollouts and ledger first and the metrics line last: a line in `metrics.jsonl` means that the step is whole."""
        name = f"step-{step:06d}.parquet"
        write_rollouts(self.run_dir / "rollouts" / name, step, self.views, collected.rollouts, judgements)
        if ledger is not None:
            write_ledger(self.run_dir / FOLDER / name, self.views, ledger)
        self.log_failed(step, collected.failed)
        _append(self.run_dir / METRICS, json.dumps(row) + "\n")
        self.mlflow.log_metrics(row, step)


def _append(path: Path, text: str) -> None:
    with path.open("a") as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The rows of a run's `metrics.jsonl`; a last line that a crash cut short is left out."""
    return _read_lines(run_dir / METRICS)


def _read_lines(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def rewind(run_dir: Path, step: int) -> None:
    """Forgets what was recorded after `step`, so that a resumed run records every step once."""
    for name in (METRICS, FAILED):
        path, temporary = run_dir / name, run_dir / f".{name}"
        rows = [row for row in _read_lines(path) if row["step"] <= step]
        if rows or path.exists():
            temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))
            temporary.replace(path)
    for folder in ("rollouts", FOLDER):
        for path in (run_dir / folder).glob("step-*.parquet"):
            if int(path.stem.removeprefix("step-")) > step:
                path.unlink()


def write_rollouts(
    path: Path, step: int, views: Sequence[str], rollouts: Sequence[ProblemRollouts], judgements: Sequence[Judgement]
) -> None:
    """One row per sample: what was asked, answered, extracted, its cluster, the label and the reward. A few problems' texts are
    held at a time; texts that are gone with a node are null."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    temporary = path.with_name(f".{path.name}")
    schema = _rollouts_schema()
    with pq.ParquetWriter(temporary, schema) as writer:
        rows: list[dict[str, Any]] = []
        for problem, judged in zip(rollouts, judgements, strict=True):
            rows += _rollout_rows(step, views, problem, judged)
            if len(rows) >= ROWS_AT_ONCE or problem is rollouts[-1]:
                writer.write_table(pa.Table.from_pylist(rows, schema))
                rows = []
    temporary.replace(path)


def _rollout_rows(step: int, views: Sequence[str], problem: ProblemRollouts, judged: Judgement) -> Iterator[dict[str, Any]]:
    group, texts = judged.group, _or_none(judged.group.texts)
    for v, held in enumerate(problem.groups):
        label = judged.consensus.label[v]
        samples = _or_none(held.kept)
        rewards = judged.rewards[v].tolist()
        for n, num_tokens in enumerate(held.figures.lengths.tolist()):
            read, rollout = group.read[v][n], None if samples is None else samples[n]
            yield {
                "step": step,
                "problem_id": problem.problem.id,
                "view": views[v],
                "sample": n,
                "question": problem.problem.text,
                "response": None if rollout is None else rollout.text,
                "answer": read.answer,
                "cluster": int(group.cluster_ids[v, n]),
                "label": None if label is None else group.representatives[label],
                "reward": None if math.isnan(rewards[n]) else rewards[n],  # nan: it only voted
                "missing": read.missing,
                "draft": None if rollout is None or rollout.draft is None else rollout.draft.text,
                "rewritten": None if texts is None else texts.rewritten[v][n],
                "strategy": None if texts is None else texts.strategy[v][n],
                "num_tokens": num_tokens,
                "finish_reason": "length" if held.figures.truncated[n] else "stop",
                "policy_version": None if rollout is None else rollout.policy_version,
            }


def _or_none(kept: Kept[T]) -> T | None:
    try:
        return kept.get()
    except RolloutsLostError:
        return None


def _rollouts_schema() -> Any:
    import pyarrow as pa

    integers = ("step", "sample", "cluster", "num_tokens", "policy_version")
    types = {**dict.fromkeys(integers, pa.int64()), "reward": pa.float64(), "missing": pa.float64()}
    names = ("step", "problem_id", "view", "sample", "question", "response", "answer", "cluster", "label", "reward", "missing")
    more = ("draft", "rewritten", "strategy", "num_tokens", "finish_reason", "policy_version")
    return pa.schema([(name, types.get(name, pa.string())) for name in (*names, *more)])


class MlflowRun:
    """One MLflow run, written by a background thread in order. Errors surface at `finish`, the run goes on meanwhile.

    mlflow is imported by that thread alone: two threads importing it at once meet half-made modules.
    """

    def __init__(self, uri: str, artifact_root: Path | None, experiment: str, name: str, run_id: str | None = None) -> None:
        """Starts the run, or takes up `run_id`, in the background. `artifact_root` is used for a local SQLite store only."""
        self.uri = uri
        self._taken_up = False
        self._last_step = -1  # the last step that the store has of a run that was taken up
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="mlflow")
        self._pending: list[Future[None]] = []
        self._started: Future[str] = self._pool.submit(self._start, artifact_root, experiment, name, run_id)

    @property
    def run_id(self) -> str:
        """Waits for the run's start. Raises TrackingError if the store cannot be used."""
        return self._started.result()

    def log_params(self, params: Mapping[str, Any]) -> None:
        """The parameters of a new run; one that was taken up keeps its first (MLflow refuses to change any)."""

        def write() -> None:
            if self._taken_up:
                return
            from mlflow.entities import Param

            batch = [Param(key, str(value)[:MLFLOW_PARAM_CHARS]) for key, value in params.items()]
            for i in range(0, len(batch), MLFLOW_BATCH):
                self._client.log_batch(self.run_id, params=batch[i : i + MLFLOW_BATCH])

        self._queue(write)

    def log_metrics(self, row: Mapping[str, float], step: int) -> None:
        """A step's metrics; a run that was taken up at an earlier step has the points up to where it broke off already."""
        now = int(time.time() * 1000)

        def write() -> None:
            if step <= self._last_step:
                return
            from mlflow.entities import Metric

            batch = [Metric(key, float(value), now, step) for key, value in row.items() if key != "step"]
            for i in range(0, len(batch), MLFLOW_METRICS):
                self._client.log_batch(self.run_id, metrics=batch[i : i + MLFLOW_METRICS])

        self._queue(write)

    def log_tag(self, key: str, value: str) -> None:
        self._queue(lambda: self._client.set_tag(self.run_id, key, value))

    def go_back(self, step: int) -> None:
        """The steps after `step` are run again, and their points logged beside the first ones."""

        def write() -> None:
            self._last_step = min(self._last_step, step)

        self._queue(write)

    def log_artifacts(self, path: Path, folder: str | None = None) -> None:
        """A file, or a directory's files, as artifacts."""
        log = (lambda: self._client.log_artifacts(self.run_id, str(path), folder)) if path.is_dir() else None
        self._queue(log or (lambda: self._client.log_artifact(self.run_id, str(path), folder)))

    def finish(self, status: str) -> list[str]:
        """Waits for everything queued and ends the run as FINISHED, FAILED or KILLED. Returns the distinct errors met."""
        self._queue(lambda: self._client.set_terminated(self.run_id, status))
        self._pool.shutdown(wait=True)
        if self._started.exception() is not None:
            return []  # one error, that `run_id` raises
        errors = [e for e in (f.exception() for f in self._pending) if e is not None]
        return sorted({_brief(e) for e in errors})

    def _queue(self, work: Any) -> None:
        self._pending.append(self._pool.submit(work))

    def _start(self, artifact_root: Path | None, experiment: str, name: str, run_id: str | None) -> str:
        from mlflow.tracking import MlflowClient

        for noisy in ("alembic", "mlflow"):  # after the import, which sets levels of its own; errors surface at `finish`
            logging.getLogger(noisy).setLevel(logging.CRITICAL)
        try:
            self._client = MlflowClient(self.uri)
            if run_id is not None and self._take_up(run_id):
                return run_id
            return self._create(artifact_root, experiment, name)
        except Exception as e:  # what a store raises depends on its kind: MLflow's own, SQLAlchemy's, sockets'
            raise TrackingError(
                f"the MLflow store {self.uri!r} cannot be used: {_brief(e)}; correct 'tracking.uri', or null for a local file"
            ) from e

    def _take_up(self, run_id: str) -> bool:
        """Whether the store has the run; it has not where a run directory was moved away from its store."""
        from mlflow.exceptions import MlflowException

        try:
            self._client.update_run(run_id, status="RUNNING")
            steps = [point.step for point in self._client.get_metric_history(run_id, "policy_version")]
        except MlflowException as e:
            if e.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
        self._taken_up, self._last_step = True, max(steps, default=-1)
        return True

    def _create(self, artifact_root: Path | None, experiment: str, name: str) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(experiment)
        if found is None:
            location = artifact_root.resolve().as_uri() if artifact_root else None
            try:
                experiment_id = self._client.create_experiment(experiment, artifact_location=location)
            except MlflowException:  # another run of this folder made it between the two calls
                found = self._client.get_experiment_by_name(experiment)
                if found is None:
                    raise
                experiment_id = found.experiment_id
        else:
            experiment_id = found.experiment_id
        started: str = self._client.create_run(experiment_id, run_name=name).info.run_id
        return started


def _brief(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
