"""Recording a run: `metrics.jsonl`, Parquet rollouts, the vote ledger, and what goes to MLflow (`mlflow_run`)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from harmonyray.errors import RolloutsLostError, brief
from harmonyray.files import whole_file, write_text
from harmonyray.ledger import FOLDER, StepLedger, write_ledger
from harmonyray.lines import append_text, json_line, read_lines
from harmonyray.mlflow_run import MlflowRun
from harmonyray.types import Collected, FailedAttempt, Judgement, Kept, ProblemRollouts, T

METRICS = "metrics.jsonl"
RUN_DIR_TAG = "harmonyray.run_dir"  # of an MLflow run: where it was written
TAGS_VARIABLE = "HARMONYRAY_MLFLOW_TAGS"  # a JSON object of further tags, from the process that has started this one
FAILED = "failed.jsonl"  # the attempts at sampling that failed
ROWS_AT_ONCE = 1024


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
            error.add_note(f"and the last step could not be recorded: {brief(e)}")
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
            append_text(self.run_dir / FAILED, "".join(json_line({"step": step, **asdict(attempt)}) for attempt in failed))

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
        append_text(self.run_dir / METRICS, json_line(row))
        self.mlflow.log_metrics(row, step)


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The rows of a run's `metrics.jsonl`, nan for null; a last line that a crash cut short is left out."""
    rows = read_lines(run_dir / METRICS)
    return [{key: math.nan if value is None else value for key, value in row.items()} for row in rows]


def rewind(run_dir: Path, step: int) -> None:
    """Forgets what was recorded after `step`, so that a resumed run records every step once."""
    for name in (METRICS, FAILED):
        path = run_dir / name
        if path.exists():
            write_text(path, "".join(json_line(row) for row in read_lines(path) if row["step"] <= step))
    for folder in ("rollouts", FOLDER):
        for path in (run_dir / folder).glob("step-*.parquet"):
            if int(path.stem.removeprefix("step-")) > step:
                path.unlink()
    for pattern in (".metrics.*", ".failed.*", "rollouts/.step-*", f"{FOLDER}/.step-*"):
        for path in run_dir.glob(pattern):  # what was being written when the run was killed
            path.unlink()


def write_rollouts(
    path: Path, step: int, views: Sequence[str], rollouts: Sequence[ProblemRollouts], judgements: Sequence[Judgement]
) -> None:
    """One row per sample: what was asked, answered, extracted, its cluster, the label and the reward. A few problems' texts are
    held at a time; texts that are gone with a node are null."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _rollouts_schema()
    with whole_file(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        rows: list[dict[str, Any]] = []
        for problem, judged in zip(rollouts, judgements, strict=True):
            rows += _rollout_rows(step, views, problem, judged)
            if len(rows) >= ROWS_AT_ONCE or problem is rollouts[-1]:
                writer.write_table(pa.Table.from_pylist(rows, schema))
                rows = []


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
