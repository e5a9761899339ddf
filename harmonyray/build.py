"""Configuration to objects: the only importer of actors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harmonyray.algos.base import MethodContext
from harmonyray.config import Config, Plugin
from harmonyray.errors import ConfigError, ProblemError
from harmonyray.evaluate import EvalSettings, Evaluator
from harmonyray.protocols import Grader, View
from harmonyray.registry import resolve
from harmonyray.types import GoldAnswer, Problem, Sampling


def make(kind: str, plugin: Plugin, **arguments: Any) -> Any:
    """The plug-in of a config entry."""
    return resolve(kind, plugin.type)(options=plugin.options, **arguments)


def make_views(config: Config) -> list[View]:
    return [resolve("views", v.type)(name, v.options) for name, v in config.views.items()]


def load_problems(config: Config) -> tuple[list[Problem], Mapping[str, GoldAnswer]]:
    """The problems, and apart from them the gold answers by problem id. Raises ProblemError."""
    source = make("problems", config.problems)
    return source.problems(), source.gold()


def check_gold(config: Config, problems: Sequence[Problem], gold: Mapping[str, GoldAnswer]) -> None:
    """Raises ConfigError if the method needs gold answers that are not there."""
    missing = [p.id for p in problems if p.id not in gold]
    if missing and resolve("methods", config.method.type).needs_gold:
        raise ConfigError(
            f"'method.type' {config.method.type} needs a gold answer for every problem; {len(missing)} of {len(problems)} have "
            f"none, {missing[0]!r} for one: add the answers to the problem source, or use a label-free method"
        )


@contextmanager
def open_runtime(config: Config, views: Sequence[View], learn: bool = True) -> Iterator[tuple[Any, Grader]]:
    """Engines, learner (unless `learn` is false) and grader of a run, as actors or in this process; closed on leaving.

    Raises PlacementError, ModelError.
    """
    opened = _open_ray(config, views, learn) if config.runtime.type == "ray" else _open_in_process(config, views, learn)
    with opened as runtime_and_grader:
        yield runtime_and_grader


@contextmanager
def _open_ray(config: Config, views: Sequence[View], learn: bool) -> Iterator[tuple[Any, Grader]]:
    from harmonyray.actors.cluster import cluster, reserve
    from harmonyray.actors.placement import seats
    from harmonyray.actors.runtime import RayRuntime, RunSpec
    from harmonyray.actors.specs import PartSpec

    wanted = [seat for seat in seats(config) if learn or seat.group != "learner"]
    engine = PartSpec("engines", config.rollout.engine.type, config.rollout.engine.options, _model_arguments(config))
    learner_arguments = {**_model_arguments(config), "steps": config.steps}
    learner = PartSpec("learners", config.learner.type, config.learner.options, learner_arguments) if learn else None
    loss = PartSpec("losses", config.loss.type, config.loss.options, {})
    grader = PartSpec("graders", config.grader.type, config.grader.options, {"views": list(views)})
    with cluster(config.runtime):
        group = reserve(wanted, config.runtime.start_timeout_s)
        runtime = RayRuntime(wanted, group, RunSpec(engine, learner, loss, grader), config.runtime, config.sync)
        try:
            runtime.start()
            yield runtime, runtime.grader
        finally:
            runtime.close()


@contextmanager
def _open_in_process(config: Config, views: Sequence[View], learn: bool) -> Iterator[tuple[Any, Grader]]:
    import torch

    from harmonyray.inprocess import InProcessRuntime

    threads = torch.get_num_threads()
    torch.set_num_threads(config.runtime.threads_per_actor)
    arguments = _model_arguments(config)
    loss = make("losses", config.loss)
    learner = make("learners", config.learner, loss=loss, steps=config.steps, **arguments) if learn else None
    grader = make("graders", config.grader, views=views)
    try:
        yield InProcessRuntime(make("engines", config.rollout.engine, **arguments), learner), grader
    finally:
        grader.close()
        torch.set_num_threads(threads)


def make_method(config: Config, grader: Grader, gold: Mapping[str, GoldAnswer]) -> Any:
    """The method; gold answers reach it only if it declares `needs_gold`."""
    needs_gold = resolve("methods", config.method.type).needs_gold
    context = MethodContext(tuple(config.views), grader, gold if needs_gold else {})
    return make("methods", config.method, context=context)


def make_evaluator(
    config: Config,
    problems: Sequence[Problem],
    gold: Mapping[str, GoldAnswer],
    views: Sequence[View],
    runtime: Any,
    grader: Grader,
) -> Evaluator:
    sampling = Sampling(config.rollout.max_response_tokens, config.eval.temperature, config.eval.top_p)
    return Evaluator(problems, gold, views, runtime, grader, EvalSettings(config.eval.num_samples, sampling, config.seed))


def skip_long_prompts(
    config: Config, problems: Sequence[Problem], views: Sequence[View], runtime: Any
) -> tuple[list[Problem], list[str]]:
    """The problems whose prompt fits in every view, and the ids of the others. Raises ProblemError if none is left."""
    lengths = runtime.count_tokens({view.name: [view.render(p) for p in problems] for view in views})
    longest = [max(column) for column in zip(*lengths.values(), strict=True)]
    limit = config.rollout.max_prompt_tokens
    kept = [p for p, n in zip(problems, longest, strict=True) if n <= limit]
    if not kept:
        raise ProblemError(
            f"every one of the {len(problems)} problems has a prompt longer than rollout.max_prompt_tokens = {limit} "
            f"(the shortest needs {min(longest)}): raise the limit"
        )
    return kept, [p.id for p, n in zip(problems, longest, strict=True) if n > limit]


def _model_arguments(config: Config) -> dict[str, Any]:
    directory = Path(config.model.path)  # actors may have another working directory
    return {"model": str(directory.resolve()) if directory.is_dir() else config.model.path, "dtype": config.model.dtype}


def plan(config: Config) -> tuple[str, bool]:
    """The table of who would sit where, and whether everybody has room. Nothing is started.

    With RAY_ADDRESS the live cluster's nodes are looked at, else this machine.
    """
    import os

    from harmonyray.actors.placement import assign, format_rows, plan_rows, seats, this_machine

    if os.environ.get("RAY_ADDRESS"):
        from harmonyray.actors.cluster import cluster, nodes

        with cluster(config.runtime):
            have = nodes()
    else:
        have = [this_machine()]
    wanted = seats(config)
    return format_rows(plan_rows(wanted, have)), None not in assign(wanted, have)
