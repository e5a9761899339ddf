"""The life of a run: its directory, start or resume, the loop, the end. What `train` of the command line does."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from harmonyray import build
from harmonyray.checkpoint import CheckpointStore, evaluation
from harmonyray.config import Config
from harmonyray.console import SUMMARY_TEXT, Reporter
from harmonyray.errors import CheckpointError, CollapseError
from harmonyray.eval_report import versions
from harmonyray.evaluate import Evaluator
from harmonyray.files import write_text
from harmonyray.guarding import Event, Watch, described
from harmonyray.interrupts import graceful_interrupt
from harmonyray.mlflow_run import MlflowRun
from harmonyray.outbox import Place
from harmonyray.parts import Parts
from harmonyray.preflight import load_checked
from harmonyray.problems.schedule import ProblemSchedule
from harmonyray.protocols import Stateful
from harmonyray.recovery import through_losses, train_through
from harmonyray.result_table import LABEL_WINDOW
from harmonyray.rundir import RECORD, SUMMARY, Start, flat, in_rays_copy, keep_batch, open_run
from harmonyray.tracking import RUN_DIR_TAG, TAGS_VARIABLE, RunTracker, read_metrics
from harmonyray.types import GoldAnswer, Problem
from harmonyray.views.same import same_prompts

Gold = Mapping[str, GoldAnswer]

ARTIFACTS = ("metrics.jsonl", "failed.jsonl", RECORD, SUMMARY, SUMMARY_TEXT, "rollouts", "ledger")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the loop ended: the last step, the evaluation before the first, what the guard did, and its pause if it made one."""

    last_step: int
    before: Mapping[str, float]
    events: Sequence[Event]
    pause: CollapseError | None


def run_training(config: Config, run_dir: Path | None, resume: bool, reporter: Reporter) -> dict[str, Any]:
    """Trains as configured and returns the JSON summary of section "train" of the contracts.

    Raises UserError before anything is started, RunError for a failure; the run directory stays usable either way.
    """
    begun = time.perf_counter()
    problems, gold = load_checked(config)
    build.check_placement(config)
    with open_run(config, run_dir, resume) as start:
        if start.summary is not None:
            reporter.nothing_left(start.run_dir, start.summary)
            return {**start.summary, "run_dir": str(start.run_dir.resolve())}
        reporter.start(config, start.run_dir, start.first_step, len(problems))
        reporter.changed(start.changed)
        reporter.refused(start.refused, start.first_step - 1)
        if in_rays_copy(start.run_dir):
            reporter.will_be_gone(start.run_dir)
        known_id = start.state.get("mlflow_run_id")
        mlflow = MlflowRun(tracking_place(config, start.run_dir), start.run_dir, start.run_dir.name, reporter.tell, known_id)
        status = "FAILED"
        try:
            if resume:
                mlflow.resume_after(start.first_step - 1)
            mlflow.log_params(flat(config.to_container()))
            tags = {"uses_gold": str(build.uses_gold(config)).lower(), **json.loads(os.environ.get(TAGS_VARIABLE, "{}"))}
            for key, value in tags.items():
                mlflow.log_tag(key, value)
            outcome = _train(config, start, problems, gold, mlflow, reporter)
            run_id = mlflow.run_id
            start.record(mlflow_run_id=run_id)  # the server may have been away when the run began
            if outcome.last_step < config.steps and outcome.pause is None:
                raise KeyboardInterrupt
            summary = _summary(start, run_id, outcome, time.perf_counter() - begun)
            closing = (config, summary, read_metrics(start.run_dir), mlflow.uri)
            write_text(start.run_dir / SUMMARY_TEXT, Reporter(quiet=True).finish(*closing))
            write_text(start.run_dir / SUMMARY, json.dumps(summary))  # last: it says that the run has ended
            status = "FINISHED" if outcome.pause is None else "FAILED"  # whatever becomes of the printing: nobody may be reading
            reporter.finish(*closing)
            if outcome.pause is not None:
                raise outcome.pause
            return summary
        except KeyboardInterrupt:
            status = "KILLED"
            if (start.run_dir / "config.yaml").exists():
                reporter.stopped(start.run_dir)
            raise
        finally:
            reporter.close()
            for path in (start.run_dir / name for name in ARTIFACTS):
                if path.is_file() or path.is_dir():
                    mlflow.log_artifacts(path, path.name if path.is_dir() else None)
            reporter.tracking_errors(mlflow.finish(status))


def _train(
    config: Config, start: Start, problems: Sequence[Problem], gold: Gold, mlflow: MlflowRun, reporter: Reporter
) -> Outcome:
    """Opens the runtime and runs the loop, to the saved model."""
    views = build.make_views(config)
    with build.open_runtime(config, views) as (runtime, grader):

        def begin() -> None:
            if start.checkpoint is not None:
                runtime.load(start.checkpoint)
            runtime.sync()  # from the first token on, every engine holds the learner's weights and has acknowledged them

        surely = partial(through_losses, runtime, begin, reporter, start.first_step - 1)
        surely(begin)
        parts, skipped = build.fitting_parts(config, problems, views, runtime)
        reporter.skipped(skipped, config.rollout.max_prompt_tokens)
        asks = build.make_asks(config, views)
        models = [view.model for view in config.views.values()]
        reporter.same_prompts(same_prompts(views, problems, [(a.sampling, m) for a, m in zip(asks, models, strict=True)]))
        run_id = mlflow.run_id
        # Only now: what the user has to repair before a first step leaves the directory free for the next try.
        write_text(start.run_dir / "config.yaml", config.to_yaml())
        mlflow.keep()
        start.record(mlflow_run_id=run_id, versions=versions())
        mlflow.log_tag(RUN_DIR_TAG, str(start.run_dir.resolve()))
        mlflow.log_artifacts(start.run_dir / "config.yaml")
        evaluator = build.make_evaluator(config, parts, gold, views, runtime, grader)
        before = surely(lambda: _evaluated_before(start, evaluator, runtime.policy_version, mlflow))
        reporter.evaluated(_newest_evaluation(read_metrics(start.run_dir)) or before, start.first_step - 1)
        method = build.make_method(config, grader, gold)
        if isinstance(method, Stateful) and "method" in start.state:
            method.load_state_dict(start.state["method"])
        watch = _watch(config, start, mlflow, reporter)
        tracker = RunTracker(start.run_dir, list(config.views), mlflow, [reporter.step])
        known = {"mlflow_run_id": run_id, "eval_before": before}
        save = _saver(config, start.store, runtime, {"method": method, "guard": watch}, tracker, known)
        turned = Parts(
            schedule=ProblemSchedule(parts["eval"], config.rollout.problems_per_step, config.seed),
            asks=asks,
            runtime=runtime,
            grader=grader,
            audit=build.make_audit(config, method, reporter.degenerate),
            score=build.make_score(method, runtime, asks),
            method=method,
            advantage=build.make("advantages", config.advantage),
            evaluator=evaluator,
            tracker=tracker,
            save=save,
            keep_batch=partial(keep_batch, start.run_dir),
            is_best=start.store.is_best,
            guard=watch,
            seed=config.seed,
            steps=config.steps,
            eval_every=config.eval.every,
            checkpoint_every=config.checkpoint.every,
            lag=config.rollout.lag,
            syncs_in_flight=config.sync.in_flight == "pause",
            min_complete_share=config.rollout.min_complete_share,
            dynamic_sampling=config.rollout.dynamic_sampling,
        )
        pause: CollapseError | None = None
        with tracker, graceful_interrupt(reporter.interrupted) as stop_asked:
            if config.guard.action == "rollback" and start.checkpoint is None:
                surely(lambda: save(0))  # a run that goes astray before its first checkpoint has somewhere to go back to
            try:
                last = train_through(turned, start, runtime, tracker, reporter, stop_asked)
            except CollapseError as e:  # told to the end, with a summary of what there is
                last, pause = int(tracker.last_row["step"]), e
        return Outcome(last, before, watch.events, pause)


def _watch(config: Config, start: Start, mlflow: MlflowRun, reporter: Reporter) -> Watch:
    """The guard, as the checkpoint left it, with MLflow and the reporter to tell."""

    def tell(event: Event) -> None:
        reporter.alarm(event)
        mlflow.log_tag("guard", "\n".join(described(e) for e in watch.events))

    watch = build.make_watch(config, start.store, tell)
    if "guard" in start.state:
        watch.load_state_dict(start.state["guard"])
    return watch


def _saver(
    config: Config,
    store: CheckpointStore,
    runtime: Any,
    parts: Mapping[str, Any],
    tracker: RunTracker,
    known: Mapping[str, Any],
) -> Callable[[int], None]:
    """What saves the step that was logged last, with what is `known` of the run and the state of those `parts` that have one."""

    def write(directory: Path) -> None:
        runtime.save(directory)
        if not any(directory.iterdir()):
            raise CheckpointError(
                f"the learner wrote its checkpoint to '{directory}', and nothing is there on this node: the run directory has to "
                "be on a file system that all nodes share (--run-dir)"
            )
        (directory / "config.yaml").write_text(config.to_yaml())

    def save(step: int) -> None:
        tracker.flush()  # what a checkpoint goes on from is recorded
        learned = {name: part.state_dict() for name, part in parts.items() if isinstance(part, Stateful)}
        state = {**known, "eval": evaluation(tracker.last_row), **learned}
        store.save(step, runtime.policy_version, write, state)

    return save


def _evaluated_before(start: Start, evaluator: Evaluator, policy_version: int, mlflow: MlflowRun) -> Mapping[str, float]:
    """The evaluation before the first step; a resumed run has it already."""
    recorded: Mapping[str, float] | None = start.state.get("eval_before")
    if recorded is not None:
        return recorded
    before = evaluator.evaluate(policy_version)
    mlflow.log_metrics(before, 0)
    start.record(eval_before=before)
    return before


def tracking_place(config: Config, run_dir: Path) -> Place:
    """The MLflow store of what a directory holds."""
    uri, beside = config.tracking.uri, run_dir.resolve().parent
    if uri is None:
        uri = f"sqlite:///{beside / 'mlflow.db'}"
    elif not uri.startswith("sqlite:///"):
        return Place(uri, None, config.tracking.experiment)  # a server keeps artifacts itself
    else:
        beside = Path(uri.removeprefix("sqlite:///")).resolve().parent
    return Place(uri, (beside / "mlartifacts").as_uri(), config.tracking.experiment)


def _newest_evaluation(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return next((found for row in reversed(rows) if (found := evaluation(row))), {})


def _summary(start: Start, run_id: str | None, outcome: Outcome, seconds: float) -> dict[str, Any]:
    """`wall_seconds` are those since step `first_step`, where the run began or was resumed; `paused` is there if the guard ended
    it, and says why."""
    rows = read_metrics(start.run_dir)
    labels = [r["consensus/label_accuracy"] for r in rows[-LABEL_WINDOW:] if "consensus/label_accuracy" in r]
    return {
        "run_dir": str(start.run_dir.resolve()),
        "mlflow_run_id": run_id,
        "steps": outcome.last_step,
        "first_step": start.first_step,
        "eval_before": dict(outcome.before),
        "eval_after": _newest_evaluation(rows),
        "pseudo_label_accuracy": sum(labels) / len(labels) if labels else None,
        "coverage": sum(r["consensus/coverage"] for r in rows) / len(rows) if rows else None,
        "wall_seconds": seconds,
        "guard": list(outcome.events),
        **({} if outcome.pause is None else {"paused": str(outcome.pause)}),
    }
