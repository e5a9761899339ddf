"""The life of a run: its directory, start or resume, the loop, the end. What `train` and `eval` of the command line do."""

from __future__ import annotations

import json
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harmonyray import build
from harmonyray.checkpoint import CheckpointStore, replace_directory
from harmonyray.config import Config, load_config
from harmonyray.console import Reporter
from harmonyray.errors import ConfigError
from harmonyray.loop import Parts, train
from harmonyray.problems.schedule import ProblemSchedule
from harmonyray.protocols import Stateful
from harmonyray.registry import BUILT_IN
from harmonyray.tracking import MlflowRun, RunTracker, read_metrics, rewind
from harmonyray.types import Sampling

MAY_CHANGE_ON_RESUME = {"steps", "placement", "runtime", "sync", "checkpoint", "tracking"}
LABEL_WINDOW = 8  # steps over which the pseudo-label accuracy of a run's end is averaged


@dataclass(frozen=True, slots=True)
class Start:
    """Where a run begins: its directory and, when resumed, the checkpoint and its state."""

    run_dir: Path
    checkpoint: Path | None
    state: Mapping[str, Any]

    @property
    def first_step(self) -> int:
        return int(self.state.get("step", 0)) + 1


def run_training(config: Config, run_dir: Path | None, resume: bool, reporter: Reporter) -> dict[str, Any]:
    """Trains as configured and returns the JSON summary of section "train" of the contracts.

    Raises UserError before anything is started, RunError for a failure; the run directory stays usable either way.
    """
    begun = time.perf_counter()
    problems, gold = build.load_problems(config)
    build.check_gold(config, problems, gold)
    views = build.make_views(config)
    _check_model(config)
    store = CheckpointStore((run_dir or Path()) / "checkpoints", config.checkpoint.keep)
    start = _prepare(config, run_dir, resume, store)
    store = CheckpointStore(start.run_dir / "checkpoints", config.checkpoint.keep)
    reporter.start(config, start.run_dir, start.first_step, len(problems))
    uri, artifacts = _tracking_place(config, start.run_dir)
    mlflow = MlflowRun(uri, artifacts, config.tracking.experiment, start.run_dir.name, start.state.get("mlflow_run_id"))
    status = "FAILED"
    try:
        mlflow.log_params(_flat(config.to_container()))
        with ExitStack() as stack:
            runtime, grader = stack.enter_context(build.open_runtime(config, views))
            if start.checkpoint is not None:
                runtime.load(start.checkpoint)
                runtime.sync()
            problems, skipped = build.skip_long_prompts(config, problems, views, runtime)
            reporter.skipped(skipped, config.rollout.max_prompt_tokens)
            run_id = mlflow.run_id
            # Only now: what the user has to repair before a first step leaves the directory free for the next try.
            (start.run_dir / "config.yaml").write_text(config.to_yaml())
            evaluator = build.make_evaluator(config, problems, gold, views, runtime, grader)
            before = start.state.get("eval_before")
            if before is None:
                before = evaluator.evaluate(runtime.policy_version)
                mlflow.log_metrics(before, 0)
            reporter.evaluated(before)

            method = build.make_method(config, grader, gold)
            if isinstance(method, Stateful) and "method" in start.state:
                method.load_state_dict(start.state["method"])

            def save(step: int) -> None:
                learned = {"method": method.state_dict()} if isinstance(method, Stateful) else {}
                store.save(step, runtime.save, {"mlflow_run_id": run_id, "eval_before": before, **learned})

            parts = Parts(
                schedule=ProblemSchedule(problems, config.rollout.problems_per_step, config.seed),
                views=views,
                num_samples=[v.num_samples for v in config.views.values()],
                sampling=Sampling(config.rollout.max_response_tokens, config.rollout.temperature),
                runtime=runtime,
                grader=grader,
                method=method,
                advantage=build.make("advantages", config.advantage),
                evaluator=evaluator,
                tracker=RunTracker(start.run_dir, list(config.views), mlflow, [reporter.step]),
                save=save,
                seed=config.seed,
                steps=config.steps,
                eval_every=config.eval.every,
                checkpoint_every=config.checkpoint.every,
            )
            with _graceful_interrupt(reporter) as stop_asked:
                last = train(parts, start.first_step, stop_asked)
            if last < config.steps:
                status = "KILLED"
                raise KeyboardInterrupt
            replace_directory(start.run_dir / "model", runtime.save_model)
        summary = _summary(start.run_dir, run_id, last, before, time.perf_counter() - begun)
        (start.run_dir / "summary.json").write_text(json.dumps(summary))
        table = reporter.finish(config, summary, read_metrics(start.run_dir), uri)
        (start.run_dir / "summary.txt").write_text(table)
        for artifact in ("config.yaml", "metrics.jsonl", "summary.json", "summary.txt", "rollouts", "ledger"):
            path = start.run_dir / artifact
            mlflow.log_artifacts(path, artifact if path.is_dir() else None)
        status = "FINISHED"
        return summary
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        reporter.close()
        reporter.tracking_errors(mlflow.finish(status))


def run_evaluation(config: Config, view: str | None) -> dict[str, Any]:
    """Evaluates `config.model` on `config.problems` and returns the JSON object of `harmonyray eval`.

    `view` is whose `avg_at_k`, `pass_at_k` and `greedy` stand at the top level (the first view without it).
    """
    begun = time.perf_counter()
    problems, gold = build.load_problems(config)
    if not gold:
        raise ConfigError(
            "evaluation needs gold answers, and this problem source has none: name its answer column (problems.answer_column)"
        )
    views = build.make_views(config)
    _check_model(config)
    with build.open_runtime(config, views, learn=False) as (runtime, grader):
        problems, skipped = build.skip_long_prompts(config, problems, views, runtime)
        evaluator = build.make_evaluator(config, problems, gold, views, runtime, grader)
        metrics = evaluator.evaluate(runtime.policy_version)
    chosen = view or next(iter(config.views))
    out: dict[str, Any] = {key: metrics[f"eval/{chosen}/{key}"] for key in ("avg_at_k", "pass_at_k", "greedy")}
    out |= {key: metrics[f"eval/{key}"] for key in ("majority_at_k", "harmonic_at_k")}
    out |= {"num_problems": len(evaluator.problems), "num_skipped": len(skipped), "view": chosen}
    return out | {"metrics": metrics, "wall_seconds": time.perf_counter() - begun}


def _prepare(config: Config, run_dir: Path | None, resume: bool, store: CheckpointStore) -> Start:
    """Makes the run directory, or takes one up. Raises ConfigError if it is in use, missing, or of another experiment."""
    if resume:
        if run_dir is None:
            raise ConfigError("--resume needs the run to go on with: give --run-dir DIR")
        if not (run_dir / "config.yaml").is_file():
            raise ConfigError(f"--resume: '{run_dir}' is not a run directory (it has no config.yaml); start one without --resume")
        _check_same_experiment(config, run_dir)
        found = store.latest()
        last = found[1]["step"] if found else 0
        if last > config.steps:
            raise ConfigError(f"--resume: '{run_dir}' has reached step {last} already, and 'steps' is {config.steps}: raise it")
        rewind(run_dir, last)
        return Start(run_dir, *found) if found else Start(run_dir, None, {})
    if run_dir is None:
        run_dir = _new_directory(Path("runs"), f"{config.name}-{time.strftime('%Y%m%d-%H%M%S')}")
    elif run_dir.exists() and (not run_dir.is_dir() or any(run_dir.iterdir())):
        raise ConfigError(f"'{run_dir}' already exists and is not empty: give another --run-dir, or --resume to go on with it")
    _make_directory(run_dir)
    return Start(run_dir, None, {})


def _make_directory(path: Path) -> None:
    """Raises ConfigError where there can be none."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as e:
        raise ConfigError(f"the run directory '{path}' cannot be made or written to ({e}): give another --run-dir") from e


def _new_directory(root: Path, name: str) -> Path:
    """A directory that no other run has: `name`, else `name-2`, `name-3`, ..."""
    _make_directory(root)
    for suffix in ("", *(f"-{i}" for i in range(2, 1000))):
        path = root / f"{name}{suffix}"
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise ConfigError(f"'{root}' already has a thousand runs named {name!r}: give --run-dir")


def _check_same_experiment(config: Config, run_dir: Path) -> None:
    saved = _flat(load_config(str(run_dir / "config.yaml")).to_container())
    now = _flat(config.to_container())
    changed = [
        k for k in sorted(saved.keys() | now.keys()) if saved.get(k) != now.get(k) and k.split(".")[0] not in MAY_CHANGE_ON_RESUME
    ]
    if changed:
        shown = "; ".join(f"{k}: {saved.get(k)!r} -> {now.get(k)!r}" for k in changed[:5])
        raise ConfigError(
            f"--resume: this configuration is not the one '{run_dir}' was started with ({shown}); "
            "use the same, or a new --run-dir"
        )


def _check_model(config: Config) -> None:
    from harmonyray.engines.paths import model_path

    model_path(config.model.path)


def _tracking_place(config: Config, run_dir: Path) -> tuple[str, Path | None]:
    uri = config.tracking.uri
    if uri is not None:  # a server keeps artifacts itself; beside a database file they stay with it
        return uri, Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts" if uri.startswith("sqlite:///") else None
    root = run_dir.resolve().parent
    return f"sqlite:///{root / 'mlflow.db'}", root / "mlartifacts"


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys."""
    out: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        out |= _flat(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value}
    return out


def _summary(run_dir: Path, run_id: str, steps: int, before: Mapping[str, float], seconds: float) -> dict[str, Any]:
    rows = read_metrics(run_dir)
    after = {k: v for k, v in rows[-1].items() if k.startswith("eval/")} if rows else {}
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


def find_eval_config(model: str, config: str | None) -> str:
    """The config an evaluation takes views and sampling from: the one given, the model's own run's, else base."""
    if config is not None:
        return config
    beside = Path(model).parent / "config.yaml"
    return str(beside) if Path(model).is_dir() and beside.is_file() else "base"


def evaluation_overrides(model: str, problems: str, samples: int | None) -> list[str]:
    """The command line's model, problems and samples as config overrides.

    A file is taken whole and with its own answers: `limit` and `gold_path` of the config belong to the config's own file.
    """
    is_source = problems in BUILT_IN["problems"] or (":" in problems and not Path(problems).exists())
    out = ["name=eval", "steps=1", f"model.path={json.dumps(model)}"]
    if is_source:
        out.append(f"problems.type={json.dumps(problems)}")
    else:
        out += ["problems.type=file", f"problems.path={json.dumps(problems)}", "problems.limit=null", "problems.gold_path=null"]
    return out + ([] if samples is None else [f"eval.num_samples={samples}"])
