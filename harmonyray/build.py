"""Configuration to objects: the only importer of actors."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from harmonyray.algos.base import MethodContext
from harmonyray.checkpoint import CheckpointStore
from harmonyray.config import Config
from harmonyray.config_objective import ObjectiveSettings
from harmonyray.config_sections import Plugin
from harmonyray.engines.paths import model_path
from harmonyray.errors import ProblemError
from harmonyray.evaluate import EvalSettings, Evaluator
from harmonyray.guard import Guard
from harmonyray.guarding import Event, Watch
from harmonyray.problems.holdout import split_holdout
from harmonyray.protocols import Ask, Grader, View, token_statistics
from harmonyray.registry import resolve
from harmonyray.scoring import scored
from harmonyray.types import AnswerGroup, Collected, GoldAnswer, Problem, Sampling
from harmonyray.views.audit import audit_views

NOT_PLANNED = (
    "the plan loads nothing, so it has not looked at the problems and their prompts' lengths, nor at whether the models load and "
    "fit into memory"
)


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


def uses_gold(config: Config) -> bool:
    """Whether gold answers reach the method."""
    uses: bool = resolve("methods", config.method.type).needs_gold
    return uses


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
    from harmonyray.actors.cluster import cluster
    from harmonyray.actors.placement import engine_groups, seats
    from harmonyray.actors.reservation import reserve
    from harmonyray.actors.runtime import RayRuntime
    from harmonyray.actors.specs import PartSpec, RunSpec

    wanted = [seat for seat in seats(config) if learn or seat.group != "learner"]
    kind = config.rollout.engine
    engines = {
        group.name: PartSpec("engines", kind.type, kind.options, _engine_arguments(config, group.model))
        for group in engine_groups(config)
    }
    learner = PartSpec("learners", config.learner.type, config.learner.options, _learner_arguments(config)) if learn else None
    loss = PartSpec("losses", config.loss.type, config.loss.options, {})
    grader = PartSpec("graders", config.grader.type, config.grader.options, {"views": list(views)})
    with cluster(config.runtime):
        placement = reserve(wanted, config.runtime.start_timeout_s, config.placement.strategy)
        runtime = RayRuntime(wanted, placement, RunSpec(engines, learner, loss, grader), config)
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
    loss = make("losses", config.loss)
    learner = make("learners", config.learner, loss=loss, **_learner_arguments(config)) if learn else None
    grader = make("graders", config.grader, views=views)
    own = {name: view.model for name, view in config.views.items() if view.model is not None}
    trained = make("engines", config.rollout.engine, **_engine_arguments(config))
    others = {m: make("engines", config.rollout.engine, **_engine_arguments(config, m)) for m in dict.fromkeys(own.values())}
    runtime = InProcessRuntime(trained, learner, config.rollout, {view: others[m] for view, m in own.items()})
    try:
        yield runtime, grader
    finally:
        runtime.close()
        grader.close()
        torch.set_num_threads(threads)


def make_method(config: Config, grader: Grader, gold: Mapping[str, GoldAnswer]) -> Any:
    """The method; gold answers reach it only if it declares `needs_gold`."""
    context = MethodContext(tuple(config.views), grader, gold if uses_gold(config) else {})
    return make("methods", config.method, context=context)


def make_asks(config: Config, views: Sequence[View]) -> list[Ask]:
    """How each view is asked in training, [V]."""
    longest, temperature = config.rollout.max_response_tokens, config.rollout.temperature
    asks = []
    for i, (view, v) in enumerate(zip(views, config.views.values(), strict=True)):
        sampling = Sampling(v.max_response_tokens or longest, v.temperature or temperature, v.top_p, v.stop)
        cut = i > 0 and config.objective.first_view_mask
        asks.append(Ask(view, v.num_samples, sampling, v.model is None, cut, config.rollout.max_prompt_tokens))
    return asks


def check_models(config: Config) -> None:
    """Raises ModelError for a model directory that is none, the trained one or a view's own, before anything is started."""
    own = [view.model for view in config.views.values() if view.model is not None]
    for name in dict.fromkeys([config.model.path, *own]):
        model_path(name)


def check_installed(config: Config, learn: bool = True) -> None:
    """Raises ConfigError for an engine or a learner whose package is not installed, before anything is started on this machine.
    (On a cluster they look for it where they are.)"""
    if config.runtime.type == "ray" and os.environ.get("RAY_ADDRESS"):
        return
    learners = [resolve("learners", config.learner.type)] if learn else []
    for part in (resolve("engines", config.rollout.engine.type), *learners):
        require = getattr(part, "require_installed", None)
        if require is not None:
            require()


def check_placement(config: Config, learn: bool = True) -> None:
    """Raises PlacementError, before Ray is started, for a run that a local Ray could never hold."""
    if config.runtime.type == "ray":
        from harmonyray.actors.planning import check_room_here

        check_room_here(config, learn)


def make_audit(
    config: Config, method: Any, tell: Callable[[str, str], None]
) -> Callable[[Sequence[AnswerGroup]], dict[str, float]]:
    """The loop's `audit`: looks at a step's views, tells of degenerate ones (name, reason), and lowers their weights in the
    method's vote if the configuration says so. Raises ConfigError if the method's selector has no weights to lower."""
    names = list(config.views)
    lowers = config.audit.action == "down_weight"
    if lowers:
        method.weigh_views(np.ones(len(names)))

    def audit(groups: Sequence[AnswerGroup]) -> dict[str, float]:
        found = audit_views(groups, names, config.audit)
        if lowers:
            method.weigh_views(found.weights)
        for name, reason in zip(names, found.reasons, strict=True):
            if reason:
                tell(name, reason)
        lowered = zip(names, found.weights.tolist(), strict=True) if lowers else ()
        return {**found.metrics, **{f"audit/{name}/weight": weight for name, weight in lowered}}

    return audit


def make_score(method: Any, runtime: Any, asks: Sequence[Ask]) -> Callable[[Collected], Collected] | None:
    """The loop's `score`: what the method asks the learner for, None for one that asks nothing."""
    statistics = token_statistics(method)
    return partial(scored, runtime, asks, statistics) if statistics else None


def make_watch(config: Config, store: CheckpointStore, tell: Callable[[Event], None]) -> Watch:
    """The loop's `guard`."""
    return Watch(Guard(config.guard, list(config.views), voted=not uses_gold(config)), config.guard, store, tell)


def make_evaluator(
    config: Config,
    parts: Mapping[str, Sequence[Problem]],
    gold: Mapping[str, GoldAnswer],
    views: Sequence[View],
    runtime: Any,
    grader: Grader,
) -> Evaluator:
    """The evaluator of the named parts: `eval` for the problems that are adapted to, `holdout` for the others."""
    temperature, top_p = config.eval.temperature, config.eval.top_p
    sampling = [replace(ask.sampling, temperature=temperature, top_p=top_p) for ask in make_asks(config, views)]
    settings = EvalSettings(
        config.eval.num_samples, sampling, config.seed, config.eval.chunk_problems, config.rollout.max_prompt_tokens
    )
    return Evaluator(parts, gold, views, runtime, grader, settings)


def fitting_parts(
    config: Config, problems: Sequence[Problem], views: Sequence[View], runtime: Any
) -> tuple[dict[str, list[Problem]], list[str]]:
    """The `split_parts` of the problems without those whose prompt is too long in some view, and the ids of these.

    The split comes first, so that a problem's part does not depend on what else fits. Raises ProblemError for a part of which
    nothing is left.
    """
    parts = split_parts(config, problems)
    lengths = runtime.count_tokens(views, problems)
    longest = {p.id: max(column) for p, column in zip(problems, zip(*lengths.values(), strict=True), strict=True)}
    limit = config.rollout.max_prompt_tokens
    for name, part in parts.items():
        if min(longest[p.id] for p in part) > limit:
            raise ProblemError(
                f"every one of the {len(part)} problems{' held out' if name == 'holdout' else ''} has a prompt longer than "
                f"rollout.max_prompt_tokens = {limit} (the shortest needs {min(longest[p.id] for p in part)}): raise the limit"
            )
    kept = {name: [p for p in part if longest[p.id] <= limit] for name, part in parts.items()}
    return kept, [p.id for p in problems if longest[p.id] > limit]


def _model_arguments(config: Config, model: str | None = None) -> dict[str, Any]:
    """Constructor arguments of an engine or learner for `model`, by default the trained one."""
    name = model or config.model.path
    directory = Path(name)  # actors may have another working directory
    return {"model": str(directory.resolve()) if directory.is_dir() else name, "dtype": config.model.dtype}


def _learner_arguments(config: Config) -> dict[str, Any]:
    """Constructor arguments of a learner beside its loss, as plain data."""
    weights = tuple(config.objective.view_weights.get(name, 1.0) for name in config.views)
    objective = ObjectiveSettings(config.objective, weights, config.rollout.max_response_tokens)
    return {**_model_arguments(config), "objective": objective, "steps": config.steps, "seed": config.seed}


def _engine_arguments(config: Config, model: str | None = None) -> dict[str, Any]:
    """Constructor arguments of an engine: the model, and how many tokens a prompt and a response may need together."""
    longest = max(ask.sampling.max_tokens for ask in make_asks(config, make_views(config)))
    return {**_model_arguments(config, model), "max_tokens": config.rollout.max_prompt_tokens + longest}


@contextmanager
def open_room(config: Config) -> Iterator[Any]:
    """Where runs of this kind find room: the cluster of RAY_ADDRESS or a local Ray that they share, or this machine's cores.

    Raises PlacementError if there is no Ray to be had.
    """
    from harmonyray.actors.admission import ClusterRoom, MachineRoom
    from harmonyray.actors.cluster import cluster

    if config.runtime.type == "in_process":
        yield MachineRoom()
        return
    with cluster(config.runtime):
        yield ClusterRoom()


def plan(config: Config) -> tuple[str, bool]:
    """The table of who would sit where, node by node, with what to do if somebody has no room, and whether everybody has.
    Starts nothing."""
    from harmonyray.actors.planning import plan_run

    return plan_run(config)
