"""The life of a run: its directory, start or resume, the loop, the end. What `train` of the command line does."""

from __future__ import annotations

import copy
import json
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from harmonyray import build
from harmonyray.checkpoint import STATE_FILE, CheckpointStore, evaluation, replace_directory
from harmonyray.config import Config
from harmonyray.console import LABEL_WINDOW, Reporter
from harmonyray.errors import CheckpointError, LearnerLostError
from harmonyray.evaluate import Evaluator
from harmonyray.guarding import Event, TurnBack, described
from harmonyray.loop import train
from harmonyray.parts import Parts
from harmonyray.problems.schedule import ProblemSchedule
from harmonyray.protocols import Stateful
from harmonyray.rundir import Start, flat, keep_batch, open_run, write_text
from harmonyray.tracking import MlflowRun, RunTracker, read_metrics
from harmonyray.types import GoldAnswer, Problem
from harmonyray.views.same import same_prompts

Gold = Mapping[str, GoldAnswer]

ARTIFACTS = ("metrics.jsonl", "failed.jsonl", "summary.json", "summary.txt", "rollouts", "ledger")


def run_training(config: Config, run_dir: Path | None, resume: bool, reporter: Reporter) -> dict[str, Any]:
    """Trains as configured and returns the JSON summary of section "train" of the contracts.

    Raises UserError before anything is started, RunError for a failure; the run directory stays usable either way.
    """
    begun = time.perf_counter()
    problems, gold = build.load_problems(config)
    build.check_gold(config, problems, gold)
    build.check_best(config, problems, gold)
    build.check_models(config)
    build.check_drafts(build.make_asks(config, build.make_views(config)))
    with open_run(config, run_dir, resume) as start:
        reporter.start(config, start.run_dir, start.first_step, len(problems))
        reporter.refused(start.refused, start.first_step - 1)
        uri, artifacts = tracking_place(config, start.run_dir)
        mlflow = MlflowRun(uri, artifacts, config.tracking.experiment, start.run_dir.name, start.state.get("mlflow_run_id"))
        status = "FAILED"
        try:
            mlflow.log_params(flat(config.to_container()))
            last, before, events = _train(config, start, problems, gold, mlflow, reporter)
            if last < config.steps:
                raise KeyboardInterrupt
            summary = _summary(start.run_dir, mlflow.run_id, last, before, time.perf_counter() - begun)
            summary["guard"] = events
            write_text(start.run_dir / "summary.json", json.dumps(summary))
            closing = (config, summary, read_metrics(start.run_dir), uri)
            write_text(start.run_dir / "summary.txt", Reporter(quiet=True).finish(*closing))
            status = "FINISHED"  # whatever becomes of the printing: nobody may be reading
            reporter.finish(*closing)
            return summary
        except KeyboardInterrupt:
            status = "KILLED"
            if (start.run_dir / "config.yaml").exists():
                reporter.stopped(start.run_dir)
            raise
        finally:
            reporter.close()
            for path in (start.run_dir / name for name in ARTIFACTS):
                if path.exists():
                    mlflow.log_artifacts(path, path.name if path.is_dir() else None)
            reporter.tracking_errors(mlflow.finish(status))


def _train(
    config: Config, start: Start, problems: Sequence[Problem], gold: Gold, mlflow: MlflowRun, reporter: Reporter
) -> tuple[int, Mapping[str, float], list[Event]]:
    """Opens the runtime, runs the loop and saves the model: the last step, the evaluation before the first, and what the guard
    did."""
    views = build.make_views(config)
    with build.open_runtime(config, views) as (runtime, grader):
        if start.checkpoint is not None:
            runtime.load(start.checkpoint)
        runtime.sync()  # from the first token on, every engine holds the learner's weights and has acknowledged them
        parts, skipped = build.fitting_parts(config, problems, views, runtime)
        reporter.skipped(skipped, config.rollout.max_prompt_tokens)
        asks = build.make_asks(config, views)
        models = [view.model for view in config.views.values()]
        reporter.same_prompts(same_prompts(views, problems, [(a.sampling, m) for a, m in zip(asks, models, strict=True)]))
        run_id = mlflow.run_id
        # Only now: what the user has to repair before a first step leaves the directory free for the next try.
        write_text(start.run_dir / "config.yaml", config.to_yaml())
        start.record(mlflow_run_id=run_id)
        mlflow.log_artifacts(start.run_dir / "config.yaml")
        evaluator = build.make_evaluator(config, parts, gold, views, runtime, grader)
        before = _evaluated_before(start, evaluator, runtime.policy_version, mlflow)
        reporter.evaluated(before)
        method = build.make_method(config, grader, gold)
        if isinstance(method, Stateful) and "method" in start.state:
            method.load_state_dict(start.state["method"])

        def tell(event: Event) -> None:
            reporter.alarm(event)
            mlflow.log_tag("guard", "\n".join(described(e) for e in watch.events))

        watch = build.make_watch(config, start.store, tell)
        if "guard" in start.state:
            watch.load_state_dict(start.state["guard"])
        tracker = RunTracker(start.run_dir, list(config.views), mlflow, [reporter.step])
        known = {"mlflow_run_id": run_id, "eval_before": before}
        save = _saver(config, start.store, runtime, {"method": method, "guard": watch}, tracker, known)
        turned = Parts(
            schedule=ProblemSchedule(parts["eval"], config.rollout.problems_per_step, config.seed),
            asks=asks,
            runtime=runtime,
            grader=grader,
            audit=build.make_audit(config, method, reporter.degenerate),
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
        with tracker, _graceful_interrupt(reporter) as stop_asked:
            if config.guard.action == "rollback" and start.checkpoint is None:
                save(0)  # a run that goes astray before its first checkpoint has somewhere to go back to
            last = _train_on(turned, start, runtime, tracker, reporter, stop_asked)
        if last == config.steps:
            replace_directory(start.run_dir / "model", runtime.save_model)
        return last, before, watch.events


def _train_on(
    p: Parts, start: Start, runtime: Any, tracker: RunTracker, reporter: Reporter, stop_asked: Callable[[], bool]
) -> int:
    """The loop, again from a checkpoint each time that the guard says to go back or the learner is lost; the last step
    finished. Raises RunError once the run's restarts are used up."""
    first_step, lost = start.first_step, False
    parts = {"method": p.method, "guard": p.guard}
    beginning = copy.deepcopy({name: part.state_dict() for name, part in parts.items() if isinstance(part, Stateful)})
    while True:
        try:
            if lost:
                step = _start_learner_again(p, start, runtime, tracker, beginning)
                reporter.started_again(step)
                first_step, lost = step + 1, False
            return train(p, first_step, stop_asked)
        except TurnBack as back:
            _go_back(back, p, start, runtime, tracker)
            first_step = back.step + 1
        except LearnerLostError as e:
            reporter.learner_lost(str(e))
            lost = True


def _start_learner_again(p: Parts, start: Start, runtime: Any, tracker: RunTracker, beginning: Mapping[str, Any]) -> int:
    """A new learner with everything else at the newest checkpoint, whose step is returned, or at the `beginning`."""
    runtime.restart_learner()
    found, refused = start.store.newest()
    start.store.set_aside(refused)
    if found is not None:
        runtime.load(found[0])
    state = beginning if found is None else found[1]
    step = 0 if found is None else int(found[1]["step"])
    if isinstance(p.method, Stateful):
        p.method.load_state_dict(state["method"])
    p.guard.load_state_dict(state["guard"])
    tracker.go_back(step)
    runtime.sync()
    return step


def _go_back(back: TurnBack, p: Parts, start: Start, runtime: Any, tracker: RunTracker) -> None:
    """Brings learner, engines, method and records to where the checkpoint was made. It is saved again, with the lower learning
    rate and what the guard did, so that a resumed run does not go astray another time. Until it is loaded nothing is given up."""
    path = start.store.path(back.step)
    runtime.load(path)
    runtime.scale_rate(back.lr_scale)
    if isinstance(p.method, Stateful):
        p.method.load_state_dict(json.loads((path / STATE_FILE).read_text())["method"])
    start.store.drop_after(back.step)
    tracker.go_back(back.step)
    p.save(back.step)
    runtime.sync()


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


def tracking_place(config: Config, run_dir: Path) -> tuple[str, Path | None]:
    """The MLflow store of what a directory holds: URI, and where artifacts go if that is ours to say."""
    uri = config.tracking.uri
    if uri is not None:  # a server keeps artifacts itself; beside a database file they stay with it
        return uri, Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts" if uri.startswith("sqlite:///") else None
    root = run_dir.resolve().parent
    return f"sqlite:///{root / 'mlflow.db'}", root / "mlartifacts"


def _summary(run_dir: Path, run_id: str, steps: int, before: Mapping[str, float], seconds: float) -> dict[str, Any]:
    rows = read_metrics(run_dir)
    after = evaluation(rows[-1]) if rows else {}
    labels = [r["consensus/label_accuracy"] for r in rows[-LABEL_WINDOW:] if "consensus/label_accuracy" in r]
    return {
        "run_dir": str(run_dir.resolve()),
        "mlflow_run_id": run_id,
        "steps": steps,
        "eval_before": dict(before),
        "eval_after": after,
        "pseudo_label_accuracy": sum(labels) / len(labels) if labels else None,
        "coverage": sum(r["consensus/coverage"] for r in rows) / len(rows) if rows else None,
        "wall_seconds": seconds,
    }


@contextmanager
def _graceful_interrupt(reporter: Reporter) -> Iterator[Any]:
    """The first Ctrl-C asks the loop to end after its step with a checkpoint; the second ends it at once. (Before the loop
    there is no step to save, and the first one ends the run.)"""
    asked: list[int] = []

    def handle(signum: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(signum)
        reporter.interrupted()

    try:
        previous = signal.signal(signal.SIGINT, handle)
    except ValueError:  # not the main thread: Ctrl-C cannot reach us there
        yield lambda: False
        return
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, previous)
