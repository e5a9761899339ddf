"""What is right on its own in a configuration and impossible together: views without a place, models nobody trains."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pydantic import BaseModel

from harmonyray.config_sections import num_ranks
from harmonyray.errors import ConfigError
from harmonyray.protocols import TOKEN_STATISTICS, ScalesRate, Scores, token_statistics
from harmonyray.registry import nearest, resolve

if TYPE_CHECKING:
    from harmonyray.config import Config


def check_together(c: Config) -> None:
    """Raises ConfigError for the first combination that cannot work, naming its keys and the way out."""
    if not c.views:
        raise ConfigError("'views' is empty: name at least one view, e.g. views.solver.type=solver")
    for name in c.views:
        if not re.fullmatch(r"[\w-]+", name):
            raise ConfigError(f"'views.{name}': a view's name goes into metric names: use letters, digits, '_' and '-' only")
    _check_models(c)
    _check_objective(c)
    _check_statistics(c)
    _check_lag(c)
    _check_best(c)
    _check_guard(c)
    groups = _check_groups(c)
    _check_gpus(c, groups)
    if c.audit.action == "down_weight":
        weighs = getattr(resolve("methods", c.method.type), "check_weighing", None)
        if weighs is None:
            raise ConfigError(f"'audit.action' is down_weight, but method {c.method.type} does not weigh views: use report")
        weighs(c.method.options, tuple(c.views))
    if c.runtime.type == "in_process" and any(c.placement.for_group(g).replicas > 1 for g in groups):
        raise ConfigError("'runtime.type' is in_process, which has one engine per view: set placement replicas to 1, or use ray")
    _check_ranks(c)
    check = getattr(resolve("methods", c.method.type), "check", None)
    if check is not None:  # a method of the user's own need not derive from MethodBase
        check(c.method.options, {name: view.num_samples for name, view in c.views.items()})


def _check_ranks(c: Config) -> None:
    """Several ranks are several processes, and one that hangs is found by the others before the call to all of them is."""
    ranks = num_ranks(c.learner)
    if ranks == 1:
        return
    if c.runtime.type == "in_process":
        raise ConfigError(
            f"'learner.num_ranks' is {ranks}, and 'runtime.type' in_process has one process for everything: set "
            "learner.num_ranks=1 or runtime.type=ray"
        )
    patience, limit = getattr(c.learner.options, "collective_timeout_s", 0.0), c.runtime.call_timeout_s
    if patience >= limit:
        raise ConfigError(
            f"'learner.collective_timeout_s' is {patience:g}, and 'runtime.call_timeout_s' {limit:g}: the ranks have to notice "
            "one that hangs before the whole call is given up: lower the first or raise the second"
        )


def _check_statistics(c: Config) -> None:
    """What a method asks the learner for has to be there, for every view."""
    wanted = token_statistics(resolve("methods", c.method.type))
    for name in wanted:
        if name not in TOKEN_STATISTICS:
            raise ConfigError(f"method {c.method.type} asks for statistic {name!r}: {nearest(name, list(TOKEN_STATISTICS))}")
    if not wanted:
        return
    frozen = [name for name, view in c.views.items() if view.model is not None]
    if frozen:
        raise ConfigError(
            f"method {c.method.type} asks the trained model about every response, but view {frozen[0]!r} has a model of its own: "
            "leave that model out, or use another method"
        )
    if not issubclass(resolve("learners", c.learner.type), Scores):
        raise ConfigError(
            f"method {c.method.type} asks the learner about every response, and learner {c.learner.type} has no `score`: use "
            "learner.type=torch, or another method"
        )


def _check_first_view_mask(c: Config) -> None:
    """A response is cut like the one of the same number in the first view."""
    numbers = {name: view.num_samples for name, view in c.views.items()}
    if len(numbers) < 2 or len(set(numbers.values())) > 1:
        raise ConfigError(
            "'objective.first_view_mask' cuts the responses of further views like those of the first, so it needs two views or "
            f"more with the same num_samples, got {numbers}: leave it out, or make them equal"
        )


def _check_objective(c: Config) -> None:
    """View weights need views that are trained, and clips a ratio that is not 1."""
    if c.objective.first_view_mask:
        _check_first_view_mask(c)
    trained = [name for name, view in c.views.items() if view.model is None]
    for name in c.objective.view_weights:
        if name not in c.views:
            raise ConfigError(f"'objective.view_weights' names {name!r}, which is no view: {nearest(name, list(c.views))}")
        if name not in trained:
            raise ConfigError(
                f"'objective.view_weights' names {name!r}, which has a model of its own: it is not trained, leave it out"
            )
    if trained and all(c.objective.view_weights.get(name) == 0 for name in trained):
        raise ConfigError("'objective.view_weights' are all 0, so nothing would be learned: give one view more")
    if c.objective.kl_in == "reward" and c.objective.kl_coef == 0:
        raise ConfigError(
            "'objective.kl_in' is reward, but with objective.kl_coef 0 there is no KL: leave it out or raise kl_coef"
        )
    weighs, loss = c.objective.importance.type, resolve("losses", c.loss.type)
    if weighs == "none":
        return
    if getattr(loss, "corrects_lag", False):
        if weighs == "mask":
            raise ConfigError(
                f"'objective.importance.type' is mask, but loss {c.loss.type} weighs the engine's samples itself: leave it out"
            )
    elif getattr(loss, "clips", False) and (c.loss.type != "ppo_clip" or c.loss.options != loss.Options()):
        raise ConfigError(
            f"'loss' is {c.loss.type} with clips of its own, but with objective.importance.type={weighs} the loss compares with "
            "the learner's own log-probs, where nothing is clipped and every such loss is the same: set "
            "objective.importance.type=none, or leave 'loss' as it is"
        )
    if weighs == "truncate" and _changed(c.objective.importance, "low"):
        raise ConfigError("'objective.importance.low' belongs to type mask, and the type is truncate: leave it out")


def _check_guard(c: Config) -> None:
    """Going back needs a learner whose rate can be lowered, and a limit of the KL that there is one."""
    if _changed(c.guard, "max_kl") and c.objective.kl_coef == 0:
        raise ConfigError("'guard.max_kl' is set, but with objective.kl_coef 0 no KL is computed: leave it out, or raise kl_coef")
    if c.guard.action == "rollback" and not issubclass(resolve("learners", c.learner.type), ScalesRate):
        raise ConfigError(
            f"'guard.action' is rollback, and learner {c.learner.type} has no scale_rate that lowers its rate: use pause"
        )


def _changed(section: BaseModel, name: str) -> bool:
    return bool(getattr(section, name) != type(section).model_fields[name].default)


def _check_lag(c: Config) -> None:
    """Rollouts of an older policy need a loss that says so, and weights under way an engine that takes them."""
    loss = resolve("losses", c.loss.type)  # a clipped one has the ratio to the policy that drew the tokens in it
    weighed = c.objective.importance.type != "none" or any(getattr(loss, what, False) for what in ("corrects_lag", "clips"))
    if c.rollout.lag and not weighed:
        raise ConfigError(
            f"'rollout.lag' is 1, 'objective.importance.type' is none, and loss {c.loss.type} neither clips nor weighs by the "
            "ratio to the policy that drew the tokens (clips, corrects_lag), so an older policy's would count like the present "
            "one's: set objective.importance.type=truncate, or rollout.lag=0"
        )
    if c.rollout.lag and c.placement.colocate:
        raise ConfigError(
            "'rollout.lag' is 1, but engines that sit with the learner (placement.colocate) sleep while it updates and cannot "
            "sample meanwhile: give them a place of their own, or set rollout.lag=0"
        )
    if c.sync.in_flight == "drain":
        return
    if not c.rollout.lag:
        raise ConfigError("'sync.in_flight' is pause, but with rollout.lag 0 nothing is under way at a broadcast: leave it out")
    if not getattr(resolve("engines", c.rollout.engine.type), "updates_in_flight", False):
        raise ConfigError(
            f"'sync.in_flight' is pause, and engine {c.rollout.engine.type} cannot change weights while it generates: "
            "use rollout.engine.type=vllm, or drain"
        )


def known_measures(c: Config) -> list[str]:
    """The names of the evaluation's measures, by which runs and checkpoints can be compared; higher is better."""
    parts, measures = ("eval", "holdout") if c.problems.holdout else ("eval",), ["majority_at_k", "harmonic_at_k"]
    measures += [f"{view}/{name}" for view in c.views for name in ("avg_at_k", "pass_at_k", "majority_at_k", "greedy")]
    return [f"{part}/{measure}" for part in parts for measure in measures]


def _check_best(c: Config) -> None:
    """What the best checkpoint is chosen by has to be a measure that an evaluation takes, and higher where better."""
    best, known = c.checkpoint.best, known_measures(c)
    if best is not None and best not in known:
        raise ConfigError(f"'checkpoint.best': {best!r} is no measure of this run's evaluations: {nearest(best, known)}")
    if best is not None and not c.eval.every:
        raise ConfigError("'checkpoint.best' is set, but with eval.every 0 only the last step is evaluated: set eval.every")


def _check_models(c: Config) -> None:
    """Which views are trained, and what may be sampled how."""
    if all(view.model is not None for view in c.views.values()):
        raise ConfigError(
            "every view has a 'model' of its own, so there is nothing to train: leave 'model' out where model.path shall answer"
        )
    for name, view in c.views.items():
        if view.model is None and view.top_p < 1:
            raise ConfigError(
                f"'views.{name}.top_p' is {view.top_p:g}, but the view is trained, and tokens from a cut distribution would bias "
                "the update: leave it at 1 (evaluation has its own, eval.top_p)"
            )


def _check_groups(c: Config) -> list[str]:
    """The names of the engine groups. Raises ConfigError for views that cannot share one."""
    owner: dict[str, str] = {}
    for group, views in c.placement.share.items():
        where = f"'placement.share.{group}'"
        if group in c.views:
            raise ConfigError(f"{where} has the name of a view: call the group something else")
        if len(views) < 2:
            raise ConfigError(f"{where} names {len(views)} view(s): expected at least two that share a group")
        for view in views:
            if view not in c.views:
                raise ConfigError(f"{where} names a view that does not exist: {nearest(view, list(c.views))}")
            if view in owner:
                raise ConfigError(f"{where} names view {view!r}, which {owner[view]!r} has already: a view sits in one group")
            owner[view] = group
        models = [c.views[view].model for view in views]
        if len(set(models)) > 1:
            shown = ", ".join(f"{view} ({model or 'trained'})" for view, model in zip(views, models, strict=True))
            raise ConfigError(f"{where} holds views of different models, {shown}: a group runs one model")
    groups = [view for view in c.views if view not in owner] + list(c.placement.share)
    for name in c.placement.views:
        if name in owner:
            raise ConfigError(f"'placement.views.{name}': the view shares group {owner[name]!r}: place that instead")
        if name not in groups:
            raise ConfigError(f"'placement.views.{name}' places a view or group that does not exist: {nearest(name, groups)}")
    return groups


def _check_gpus(c: Config, groups: list[str]) -> None:
    """What groups, learner and broadcast ask of GPUs. Raises ConfigError for what no machine could give."""
    place = c.placement
    given = {name: place.for_group(name).num_gpus for name in groups}
    check = getattr(resolve("engines", c.rollout.engine.type), "check_gpus", None)  # optional; see docs/plugins.md
    for name, num_gpus in given.items():
        if check is not None:
            check(c.rollout.engine.options, f"placement.views.{name}", num_gpus, name in place.colocate)
    _check_colocated(c, given)
    ranks, num_gpus = num_ranks(c.learner), place.learner.num_gpus
    if ranks > 1 and num_gpus % ranks:
        raise ConfigError(
            f"'placement.learner.num_gpus' is {num_gpus:g}, and 'learner.num_ranks' {ranks}: ranks need whole GPUs, the same "
            f"number each: set num_gpus to {ranks}, or to 0 for none"
        )
    if c.sync.backend not in ("nccl", "ipc"):
        return
    frozen = {view for view in c.views if c.views[view].model is not None}
    frozen |= {name for name, views in place.share.items() if frozen & set(views)}
    smallest = min([num_gpus for name, num_gpus in given.items() if name not in frozen] + [place.learner.num_gpus])
    if c.sync.backend == "ipc":
        apart = [name for name in given if name not in frozen and name not in place.colocate]
        if smallest == 0 or apart or c.rollout.engine.type != "vllm":
            raise ConfigError(
                "'sync.backend' is ipc, which hands GPU memory to an engine of type vllm on the learner's GPU: set "
                "rollout.engine.type=vllm, and name every trained view in placement.colocate with a share of that GPU; or use "
                "auto or gloo"
            )
        return
    if smallest == 0:
        raise ConfigError(
            "'sync.backend' is nccl, but a trained view or the learner has num_gpus 0: give each a GPU, or use auto or gloo"
        )
    if smallest < 1:
        raise ConfigError(
            f"'sync.backend' is nccl, but a trained view or the learner has num_gpus {smallest:g}: NCCL refuses two members on "
            "one GPU; give each a whole one, or use auto or gloo"
        )


def _check_colocated(c: Config, given: dict[str, float]) -> None:
    """`given`: GPUs of a replica by group. Raises ConfigError for groups that cannot sit with the learner."""
    place, seen = c.placement, set()
    for name in place.colocate:
        if name not in given:
            owner = next((group for group, views in place.share.items() if name in views), None)
            hint = f"the view shares group {owner!r}: name that instead" if owner else nearest(name, list(given))
            raise ConfigError(f"'placement.colocate' names a view or group that does not exist, {name!r}: {hint}")
        if name in seen:
            raise ConfigError(f"'placement.colocate' names {name!r} twice")
        seen.add(name)
    asked = {"learner": place.learner.num_gpus, **{name: given[name] for name in place.colocate}}
    if not seen or max(asked.values()) == 0:
        return
    shown = ", ".join(f"{name} {num_gpus:g}" for name, num_gpus in asked.items())
    total = place.learner.num_gpus + sum(given[name] * place.for_group(name).replicas for name in place.colocate)
    if min(asked.values()) == 0 or total > 1:
        raise ConfigError(
            f"'placement.colocate' seats learner and engines on one GPU, but they ask for {total:g} GPUs (a replica of each: "
            f"{shown}): give each a share, all together at most 1, e.g. placement.learner.num_gpus=0.5 "
            f"placement.views.{place.colocate[0]}.num_gpus=0.5"
        )
    if not hasattr(resolve("engines", c.rollout.engine.type), "sleep"):
        raise ConfigError(
            f"'placement.colocate' seats engines on the learner's GPU, but engine {c.rollout.engine.type} cannot sleep, and "
            "would keep its memory while the learner updates: use rollout.engine.type=vllm, or give the engines their own GPU"
        )
