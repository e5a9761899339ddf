"""The evaluation of a model that is not in training: what `eval` of the command line does."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harmonyray import build
from harmonyray.config import Config, load_config, validate
from harmonyray.config_files import config_layers, find_config
from harmonyray.console import Reporter, some_of
from harmonyray.engines.paths import BUILT_IN_MODELS
from harmonyray.errors import ConfigError, ProblemError
from harmonyray.eval_report import SUMMARY, SampleFile, make_directory, progress_bar, write_summary
from harmonyray.evaluate import Evaluator, Record
from harmonyray.files import whole_file
from harmonyray.measures import Scores, category_intervals, intervals
from harmonyray.mlflow_run import MlflowRun
from harmonyray.overrides import read_items
from harmonyray.problems.naming import named_source
from harmonyray.registry import nearest
from harmonyray.run import tracking_place
from harmonyray.rundir import flat
from harmonyray.types import GoldAnswer


def run_evaluation(
    config: Config, view: str | None = None, out: Path | None = None, reporter: Reporter | None = None
) -> dict[str, Any]:
    """Evaluates `config.model` on `config.problems` and returns the JSON object of `harmonyray eval`.

    `view` is whose `avg_at_k`, `pass_at_k` and `greedy` stand at the top level (the first view without it). With `out` the
    results are also left there, as `eval.json` and `eval.parquet`, and in an MLflow run. Raises UserError before anything is
    started, RunError for a failure.
    """
    begun = time.perf_counter()
    reporter = reporter or Reporter(quiet=True)
    chosen = _chosen_view(config, view)
    problems, gold = build.load_problems(config)
    if not gold:
        raise ConfigError(
            "evaluation needs gold answers, and this problem source has none: name its answer column (problems.answer_column)"
        )
    build.check_models(config)
    build.check_installed(config, learn=False)
    build.check_placement(config, learn=False)
    views = build.make_views(config)
    with _open_results(config, out, gold, reporter) as results:
        with build.open_runtime(config, views, learn=False) as (runtime, grader):
            parts, skipped = build.fitting_parts(config, problems, views, runtime)
            reporter.skipped(skipped, config.rollout.max_prompt_tokens)
            fitting = [p for part in parts.values() for p in part]
            without_gold = [p.id for p in fitting if p.id not in gold]
            _say_without_gold(reporter, without_gold, len(fitting))
            evaluator = build.make_evaluator(config, parts, gold, views, runtime, grader)
            record = results.start() if results is not None else None
            with progress_bar(reporter) as progress:
                scored = evaluator.score(runtime.policy_version, progress, record)
        result = _result(config, evaluator, scored, chosen)
        failed = sum(scores.num_failed for scores in scored.values())
        _say_failed(reporter, failed)
        result |= {"num_skipped": len(skipped), "num_without_gold": len(without_gold), "num_failed": failed}
        result |= {"wall_seconds": time.perf_counter() - begun}
        if results is not None:
            result |= results.finish(result)
    return result


class Results:
    """The files and the MLflow run of an evaluation with `--out`; `summary` becomes the directory's `eval.json`."""

    def __init__(self, config: Config, directory: Path, summary: Path, samples: SampleFile, mlflow: MlflowRun) -> None:
        self.config, self.directory, self.summary, self.samples, self.mlflow = config, directory, summary, samples, mlflow

    def start(self) -> Record:
        """Where the samples go. Raises TrackingError if the MLflow store cannot be used: not after an hour's evaluation."""
        self.run_id = self.mlflow.run_id
        return self.samples.add

    def finish(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """Writes the summary and the metrics; what the result has to say of that."""
        where = {"out": str(self.directory.resolve()), "mlflow_run_id": self.run_id}
        write_summary(self.summary, {**result, **where}, self.config.to_container())
        self.mlflow.log_metrics(result["metrics"], 0)
        return where


@contextmanager
def _open_results(
    config: Config, out: Path | None, gold: Mapping[str, GoldAnswer], reporter: Reporter
) -> Iterator[Results | None]:
    """Results of a directory that is empty, None without one. An evaluation that fails leaves it empty.

    Raises ConfigError for a directory that cannot be used, TrackingError for an MLflow store that cannot.
    """
    if out is None:
        yield None
        return
    make_directory(out)
    mlflow = MlflowRun(tracking_place(config, out), out, out.resolve().name, reporter.tell)
    status = "FAILED"
    try:
        mlflow.log_params(flat(config.to_container()))
        with whole_file(out / SUMMARY) as summary, SampleFile(out, list(config.views), gold) as samples:
            yield Results(config, out, summary, samples, mlflow)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        for path in sorted(out.iterdir()):
            mlflow.log_artifacts(path)
        if status == "FINISHED":  # else nothing is left to send later
            mlflow.keep()
        reporter.tracking_errors(mlflow.finish(status))


def _result(config: Config, evaluator: Evaluator, scored: Mapping[str, Scores], view: str) -> dict[str, Any]:
    """Raises ProblemError if nothing was scored."""
    if "eval" not in scored:
        raise ProblemError("no problem that could be asked has a gold answer: add answers, or raise rollout.max_prompt_tokens")
    metrics = evaluator.metrics(scored)
    out: dict[str, Any] = {key: metrics[f"eval/{view}/{key}"] for key in ("avg_at_k", "pass_at_k", "greedy")}
    out |= {key: metrics[f"eval/{key}"] for key in ("majority_at_k", "harmonic_at_k")}
    ranges = {
        f"{part}/{name}": list(interval)
        for part, scores in scored.items()
        for name, interval in (intervals(scores, config.seed) | category_intervals(scores, config.seed)).items()
    }
    out |= {"num_problems": scored["eval"].num_problems, "num_samples": config.eval.num_samples}
    return out | {"view": view, "views": list(config.views), "metrics": metrics, "intervals": ranges}


def _chosen_view(config: Config, view: str | None) -> str:
    if view is None:
        return next(iter(config.views))
    if view not in config.views:
        raise ConfigError(f"--view {view!r} is not a view of this configuration: {nearest(view, list(config.views))}")
    return view


def _say_without_gold(reporter: Reporter, ids: Sequence[str], num_problems: int) -> None:
    if ids:
        reporter.err.print(f"left out {len(ids)} of {num_problems} problem(s) without a gold answer: {some_of(ids)}")


def _say_failed(reporter: Reporter, num_failed: int) -> None:
    if num_failed:
        reporter.err.print(f"left out {num_failed} problem(s) that could not be sampled (rollout.max_attempts tries each)")


def find_eval_config(model: str, config: str | None) -> str:
    """The config an evaluation takes views and sampling from: the one given, that of an exported model, of a model's run, or of
    a model that ships, else base."""
    if config is not None:
        return config
    if model in BUILT_IN_MODELS and not Path(model).exists():
        return model
    if Path(model).is_dir():
        for folder in (Path(model), Path(model).parent):
            if (folder / "config.yaml").is_file():
                return str(folder / "config.yaml")
    return "base"


def load_eval_config(name: str, model: str, problems: str, samples: int | None = None, overrides: Sequence[str] = ()) -> Config:
    """The config `name` for an evaluation of `model` on `problems`, with `samples` per problem and view (None: the config's).

    Problems that are the config's own, its file by any path or its type of source by name, are taken as it says: with `limit`,
    `only`, `holdout`, columns and all, so that a run's evaluation is repeated. Of any others, and of a benchmark, nothing is
    taken over from the config: what is not among the `overrides` is at its default. Raises ConfigError, also for a name that
    stands for no problems.
    """
    always = ["name=eval", "steps=1", f"model.path={json.dumps(model)}"]
    always += [] if samples is None else [f"eval.num_samples={samples}"]
    kind, named = named_source(problems)
    own_kind, own_path = _own_problems(name)
    if kind == own_kind and (not named or _same_file(named.get("path"), own_path)):
        return load_config(name, [*always, *overrides])
    of_problems = [item for item in overrides if re.match(r"problems[.\[=].*=|problems=", item, flags=re.S)]
    others = [item for item in overrides if item not in of_problems]
    # Merging keeps what two layers have in common, so this node is made apart. In its place: a source that needs no option.
    raw = load_config(name, [*always, *others, "problems.type=quickstart"]).to_container()
    stated = read_items(of_problems, "override", "problems.limit=8")
    try:
        node = OmegaConf.to_container(OmegaConf.merge({"problems": {"type": kind, **named}}, stated), resolve=True)
    except (OmegaConfBaseException, TypeError) as e:  # TypeError: OmegaConf's for a list on a mapping
        raise ConfigError(f"overrides {of_problems} cannot be used: {str(e).splitlines()[0]}") from e
    assert isinstance(node, dict)
    return validate({**raw, **{str(key): value for key, value in node.items()}})


def _own_problems(name: str) -> tuple[Any, Any]:
    """The `type` and the `path` of a config's problems, as its files say; None for what they leave open."""
    try:
        merged = OmegaConf.merge(*config_layers(find_config(name)), {"name": "eval"})
        return OmegaConf.select(merged, "problems.type"), OmegaConf.select(merged, "problems.path")
    except (OmegaConfBaseException, TypeError) as e:  # TypeError: OmegaConf's for a list on a mapping
        raise ConfigError(f"config {name!r}: {str(e).splitlines()[0]}") from e


def _same_file(a: str | None, b: Any) -> bool:
    return a is not None and isinstance(b, str) and Path(a).expanduser().resolve() == Path(b).expanduser().resolve()
