"""The sections of the configuration's schema: what each may hold, its defaults and its units. No torch here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SkipValidation,
)

from harmonyray.registry import PluginOptions


class Section(BaseModel):
    """A frozen part of the configuration that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Plugin(Section):
    """A plug-in by name with its validated options (flat beside `type` in YAML)."""

    type: str
    options: SkipValidation[PluginOptions]  # `make_options` has validated them


def num_ranks(learner: Plugin) -> int:
    """The processes that an update is shared by: one where the learner has no such option."""
    ranks: int = getattr(learner.options, "num_ranks", 1)
    return ranks


class ViewConfig(Plugin):
    num_samples: PositiveInt = Field(16, description="samples per problem and step in this view (N)")
    model: str | None = Field(
        None,
        min_length=1,
        description="another model for this view, a directory or hub id: it votes, and is never trained; null: model.path",
    )
    temperature: PositiveFloat | None = Field(None, description="instead of rollout.temperature")
    top_p: float = Field(1.0, gt=0, le=1, description="below 1 only in a view with a model of its own")
    max_response_tokens: PositiveInt | None = Field(None, description="instead of rollout.max_response_tokens")
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (), description="texts that end a response; they are not part of it"
    )


class ProblemsConfig(Plugin):
    holdout: float = Field(
        0.0, ge=0, lt=1, description="share of the problems that is never trained on, and evaluated apart (drawn by the seed)"
    )


class ModelConfig(Section):
    path: str = Field(description="a model directory, a hub id, or 'quickstart' for the tiny model that ships with the package")
    dtype: Literal["float32", "bfloat16"] = "float32"


class RolloutConfig(Section):
    engine: Plugin
    problems_per_step: PositiveInt = Field(description="problems drawn for one step (P)")
    temperature: PositiveFloat = 1.0
    max_prompt_tokens: PositiveInt = Field(
        description="problems with a longer prompt in any view are skipped, counted and named; a draft whose second prompt would "
        "be longer counts as one without a rewording"
    )
    max_response_tokens: PositiveInt
    request_timeout_s: PositiveFloat = Field(
        1800.0, description="longest that an engine may take for a problem's samples in a view, from when it began with them"
    )
    max_attempts: PositiveInt = Field(3, description="how often a problem's samples in a view are tried before it is left out")
    min_complete_share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="a step of which fewer problems could be sampled in all views ends the run, with a checkpoint",
    )
    lag: Literal[0, 1] = Field(
        0, description="1: a step's rollouts are sampled while the step before it is learned from, with the weights before that"
    )
    dynamic_sampling: NonNegativeInt = Field(
        0,
        description="how often a step draws further problems in place of those that teach nothing (DAPO's dynamic sampling); "
        "above 0 the groups that teach nothing are left out of the update; 0: neither",
    )


class EvalConfig(Section):
    every: NonNegativeInt = Field(description="steps between evaluations; 0 evaluates before and after the run only")
    num_samples: PositiveInt = Field(16, description="samples per problem and view (k)")
    temperature: PositiveFloat = 0.8
    top_p: float = Field(0.95, gt=0, le=1)
    chunk_problems: PositiveInt = Field(256, description="problems generated and graded at once; fewer need less memory")


def _gpus(amount: float) -> float:
    """Ray gives a share of one GPU or whole ones."""
    if amount > 1 and amount != int(amount):
        raise ValueError("above 1 a number of GPUs has to be whole: a share comes from one GPU")
    return amount


def _custom(resources: dict[str, float]) -> dict[str, float]:
    for name in resources:
        if name.upper() in ("CPU", "GPU") or name in ("memory", "object_store_memory"):
            raise ValueError(f"{name!r} is no custom resource: use num_cpus or num_gpus")
    return resources


Gpus = Annotated[NonNegativeFloat, AfterValidator(_gpus)]
CustomResources = Annotated[dict[str, PositiveFloat], AfterValidator(_custom)]


class SingleResources(Section):
    num_cpus: NonNegativeFloat = 0.5
    num_gpus: Gpus = 0.0
    resources: CustomResources = Field(
        default_factory=dict, description="custom Ray resources besides, e.g. {rack_a: 0.01}: only nodes that have them are taken"
    )


class Resources(SingleResources):
    replicas: PositiveInt = 1


class ResourcesException(Section):
    replicas: PositiveInt | None = None
    num_cpus: NonNegativeFloat | None = None
    num_gpus: Gpus | None = None
    resources: CustomResources | None = None


class PlacementConfig(Section):
    view: Resources = Field(description="what each view group gets")
    views: dict[str, ResourcesException] = Field(
        default_factory=dict, description="exceptions by the name of a view or of a shared group, what they set"
    )
    learner: SingleResources = Field(description="what the learner gets, dealt equally to its ranks")
    grader: SingleResources
    share: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="views that share one engine group, by the group's name; it is placed by that name"
    )
    colocate: tuple[str, ...] = Field(
        (), description="views or shared groups whose engines sit with the learner, on its GPU, and sleep while it updates"
    )
    strategy: Literal["pack", "spread"] = Field(
        "pack", description="pack: the first node with room; spread: the node with the fewest actors"
    )

    def for_group(self, name: str) -> Resources:
        """What an engine group gets: a view's own is named like the view, one that is shared by `share`."""
        if name not in self.views:
            return self.view
        return self.view.model_copy(update=self.views[name].model_dump(exclude_none=True))


class RuntimeConfig(Section):
    type: Literal["ray", "in_process"] = "ray"
    threads_per_actor: PositiveInt = Field(1, description="OMP threads of each actor process")
    start_timeout_s: PositiveFloat = Field(30.0, description="longest wait for the cluster to place the actors")
    call_timeout_s: PositiveFloat = Field(3600.0, description="longest wait for one call to an actor")
    max_restarts: NonNegativeInt = Field(3, description="restarts of killed actors before a run gives up")
    object_store_mb: PositiveInt = Field(256, ge=80, description="object store of a local Ray (a cluster keeps its own)")


class SyncConfig(Section):
    backend: Literal["auto", "gloo", "nccl", "ipc"] = Field(
        "auto",
        description="auto: CUDA IPC to an engine on the learner's GPU, NCCL to one with its own GPUs, else gloo",
    )
    bucket_mb: PositiveFloat = Field(16.0, description="size of the buckets that tensors travel in; a larger one goes alone")
    timeout_s: PositiveFloat = Field(60.0, description="longest wait for one broadcast to arrive, and for it to be loaded")
    in_flight: Literal["drain", "pause"] = Field(
        "drain",
        description="with rollout.lag 1: whether new weights wait until the rollouts under way are done, or are taken in between "
        "two tokens, so that a response ends under other weights than it began with",
    )


class CheckpointConfig(Section):
    every: PositiveInt = Field(description="steps between checkpoints; the last step always gets one")
    keep: PositiveInt = Field(2, description="newest checkpoints kept")
    best: str | None = Field(
        None,
        description="a measure of the evaluation, e.g. eval/solver/avg_at_k: the checkpoint of the step that scored highest in "
        "it is kept beside the newest, and made even if none is due; null: the newest only",
    )


class AuditConfig(Section):
    """When a rewording view counts as degenerate in a step (its figures are those of `harmonyray.views.audit`), and what
    then happens. The limits hold for views that reword; `min_answered` for every view."""

    min_format_compliance: float = Field(0.5, ge=0, le=1)
    max_copied: float = Field(0.9, ge=0, le=1)
    min_numbers_kept: float = Field(0.0, ge=0, le=1, description="0: not looked at (many rewordings change numbers)")
    min_answered: float = Field(0.25, ge=0, le=1)
    action: Literal["report", "down_weight"] = "report"
    weight: float = Field(
        0.25, ge=0, lt=1, description="down_weight: what a degenerate view's weight in the vote is multiplied by"
    )


class GuardConfig(Section):
    """What the collapse guard looks for and does (docs/guard.md). The run's first three steps are "the start". The limits of
    entropy and divergence hold where the answers vote for the labels."""

    action: Literal["warn", "pause", "rollback", "none"] = Field(
        "warn",
        description="at a sign: say so; or save and end the run; or go back to the last checkpoint from before it, with a lower "
        "learning rate",
    )
    window: PositiveInt = Field(3, le=100, description="steps in a row that have to show a sign")
    min_entropy_left: float = Field(
        0.7, ge=0, le=1, description="with one view: the answers' entropy, as a share of that at the start"
    )
    max_divergence: float = Field(
        0.05,
        ge=0,
        le=1,
        description="with several views: how far the share of the answers' entropy that lies between views may go from its value "
        "at the start towards 1",
    )
    max_length_change: float = Field(3.0, gt=1, description="times longer or shorter than at the start, in any view")
    min_answered_left: float = Field(
        0.5, ge=0, le=1, description="share of responses with an answer, as a share of that at the start, in any view"
    )
    max_kl: PositiveFloat = Field(
        1.0,
        description="per token, from the model that the run began with, in what objective.kl estimates (k1 and k3: nats); needs "
        "objective.kl_coef above 0",
    )
    lr_factor: float = Field(0.5, gt=0, lt=1, description="rollback: the learning rate is multiplied by it each time")
    max_rollbacks: PositiveInt = Field(2, description="rollback: how often in a run; after that the run is paused")


class TrackingConfig(Section):
    experiment: str = "harmonyray"
    uri: str | None = Field(None, description="MLflow tracking URI; null: SQLite file mlflow.db beside the run directories")
