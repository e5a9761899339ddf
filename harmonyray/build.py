"""Configuration to objects: the only importer of actors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from harmonyray.algos.base import MethodContext
from harmonyray.config import Config, Plugin
from harmonyray.errors import ConfigError, ProblemError
from harmonyray.evaluate import EvalSettings, Evaluator
from harmonyray.problems.holdout import split_holdout
from harmonyray.protocols import Grader, View
from harmonyray.registry import resolve
from harmonyray.types import AnswerGroup, GoldAnswer, Problem, ProblemRollouts, Sampling
from harmonyray.views.audit import audit_views


def make(kind: str, plugin: Plugin, **arguments: Any) -> Any:
    """The plug-in of a config entry."""
    return resolve(kind, plugin.type)(options=plugin.options, **arguments)


def make_views(config: Config) -> list[View]:
    return [resolve("views", v.type)(name, v.options) for name, v in config.views.items()]


def load_problems(config: Config) -> tuple[list[Problem], Mapping[str, GoldAnswer]]:
    """The problems, and apart from them the gold answers by problem id. Raises ProblemError."""
    source = make("problems", config.problems)
    return source.problems(), source.gold()


def split_parts(config: Config, problems: Sequence[Problem]) -> dict[str, list[Problem]]:
    """The problems that are adapted to, "eval", and if there is a held-out share the others, "holdout"."""
    if config.problems.holdout == 0:
        return {"eval": list(problems)}
    adapted, held_out = split_holdout(problems, config.problems.holdout, config.seed)
    return {"eval": adapted, "holdout": held_out}


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
    from harmonyray.actors.placement import engine_groups, seats
    from harmonyray.actors.runtime import RayRuntime, RunSpec
    from harmonyray.actors.specs import PartSpec

    wanted = [seat for seat in seats(config) if learn or seat.group != "learner"]
    kind = config.rollout.engine
    engines = {
        group.name: PartSpec("engines", kind.type, kind.options, _model_arguments(config, group.model))
        for group in engine_groups(config)
    }
    learner_arguments = {**_model_arguments(config), "steps": config.steps}
    learner = PartSpec("learners", config.learner.type, config.learner.options, learner_arguments) if learn else None
    loss = PartSpec("losses", config.loss.type, config.loss.options, {})
    grader = PartSpec("graders", config.grader.type, config.grader.options, {"views": list(views)})
    with cluster(config.runtime):
        group = reserve(wanted, config.runtime.start_timeout_s)
        runtime = RayRuntime(wanted, group, RunSpec(engines, learner, loss, grader), config.runtime, config.sync)
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
    own = {name: view.model for name, view in config.views.items() if view.model is not None}
    trained = make("engines", config.rollout.engine, **arguments)
    others = {m: make("engines", config.rollout.engine, **_model_arguments(config, m)) for m in dict.fromkeys(own.values())}
    try:
        yield InProcessRuntime(trained, learner, {view: others[m] for view, m in own.items()}), grader
    finally:
        grader.close()
        torch.set_num_threads(threads)


def make_method(config: Config, grader: Grader, gold: Mapping[str, GoldAnswer]) -> Any:
    """The method; gold answers reach it only if it declares `needs_gold`."""
    needs_gold = resolve("methods", config.method.type).needs_gold
    context = MethodContext(tuple(config.views), grader, gold if needs_gold else {})
    return make("methods", config.method, context=context)


def make_sampling(config: Config) -> list[Sampling]:
    """How each view is sampled in training, [V]."""
    rollout = config.rollout
    return [
        Sampling(
            view.max_response_tokens or rollout.max_response_tokens,
            view.temperature or rollout.temperature,
            view.top_p,
            view.stop,
        )
        for view in config.views.values()
    ]


def make_audit(
    config: Config, method: Any, tell: Callable[[str, str], None]
) -> Callable[[Sequence[ProblemRollouts], Sequence[AnswerGroup]], Mapping[str, float]]:
    """The loop's `audit`: looks at a step's views, tells of degenerate ones (name, reason), and lowers their weights in the
    method's vote if the configuration says so. Raises ConfigError if the method's selector has no weights to lower."""
    names = list(config.views)
    lowers = config.audit.action == "down_weight"
    if lowers:
        method.weigh_views(np.ones(len(names)))

    def audit(rollouts: Sequence[ProblemRollouts], groups: Sequence[AnswerGroup]) -> Mapping[str, float]:
        found = audit_views(rollouts, groups, names, config.audit)
        if lowers:
            method.weigh_views(found.weights)
        for name, reason in zip(names, found.reasons, strict=True):
            if reason:
                tell(name, reason)
        return found.metrics

    return audit


def make_evaluator(
    config: Config,
    parts: Mapping[str, Sequence[Problem]],
    gold: Mapping[str, GoldAnswer],
    views: Sequence[View],
    runtime: Any,
    grader: Grader,
) -> Evaluator:
    """The evaluator of the named parts: `eval` for the problems that are adapted to, `holdout` for the others."""
    longest = config.rollout.max_response_tokens
    sampling = [
        Sampling(v.max_response_tokens or longest, config.eval.temperature, config.eval.top_p, v.stop)
        for v in config.views.values()
    ]
    settings = EvalSettings(config.eval.num_samples, sampling, config.seed, config.eval.chunk_problems)
    return Evaluator(parts, gold, views, runtime, grader, settings)


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


def _model_arguments(config: Config, model: str | None = None) -> dict[str, Any]:
    """Constructor arguments of an engine or learner for `model`, by default the trained one."""
    name = model or config.model.path
    directory = Path(name)  # actors may have another working directory
    return {"model": str(directory.resolve()) if directory.is_dir() else name, "dtype": config.model.dtype}


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
