"""The configuration: a pydantic schema, and the loading of OmegaConf files with dotted overrides.

A file states what differs from the file it `extends` (in the end `base.yaml`). Where a later layer changes a plug-in's
`type`, options of the old type that the new one does not have are left behind; common ones stay. No torch here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SkipValidation,
    ValidationError,
)

from harmonyray.errors import ConfigError
from harmonyray.registry import PluginOptions, explain, make_options, nearest, resolve

PLUGIN_PLACES = {
    ("problems",): "problems",
    ("views", "*"): "views",
    ("method",): "methods",
    ("method", "selector"): "selectors",
    ("method", "reward"): "rewards",
    ("advantage",): "advantages",
    ("loss",): "losses",
    ("rollout", "engine"): "engines",
    ("grader",): "graders",
    ("learner",): "learners",
}
INSIDE_METHOD = {"selectors", "rewards"}
SUFFIXES = (".yaml", ".yml")
COMMON_KEYS = {"views": {"num_samples"}}  # keys beside `type` that belong to the schema and not to the plug-in


class Section(BaseModel):
    """A frozen part of the configuration that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Plugin(Section):
    """A plug-in by name with its validated options (flat beside `type` in YAML)."""

    type: str
    options: SkipValidation[PluginOptions]  # `make_options` has validated them


class ViewConfig(Plugin):
    num_samples: PositiveInt = Field(16, description="samples per problem and step in this view (N)")


class ModelConfig(Section):
    path: str = Field(description="a model directory, a hub id, or 'quickstart' for the tiny model that ships with the package")
    dtype: Literal["float32", "bfloat16"] = "float32"


class RolloutConfig(Section):
    engine: Plugin
    problems_per_step: PositiveInt = Field(description="problems drawn for one step (P)")
    temperature: PositiveFloat = 1.0
    max_prompt_tokens: PositiveInt = Field(description="problems with a longer prompt in any view are skipped, counted and named")
    max_response_tokens: PositiveInt


class EvalConfig(Section):
    every: NonNegativeInt = Field(description="steps between evaluations; 0 evaluates before and after the run only")
    num_samples: PositiveInt = Field(16, description="samples per problem and view (k)")
    temperature: PositiveFloat = 0.8
    top_p: float = Field(0.95, gt=0, le=1)


class Resources(Section):
    replicas: PositiveInt = 1
    num_cpus: NonNegativeFloat = 0.5
    num_gpus: NonNegativeFloat = 0.0


class SingleResources(Section):
    num_cpus: NonNegativeFloat = 0.5
    num_gpus: NonNegativeFloat = 0.0


class ResourcesException(Section):
    replicas: PositiveInt | None = None
    num_cpus: NonNegativeFloat | None = None
    num_gpus: NonNegativeFloat | None = None


class PlacementConfig(Section):
    view: Resources = Field(description="what each view group gets")
    views: dict[str, ResourcesException] = Field(default_factory=dict, description="exceptions by view name, what they set")
    learner: SingleResources
    grader: SingleResources

    def for_view(self, name: str) -> Resources:
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
    backend: Literal["auto", "gloo", "nccl"] = Field("auto", description="auto: NCCL where every member has a GPU, else gloo")
    bucket_mb: PositiveFloat = Field(64.0, description="weights are packed into buckets of this size")
    timeout_s: PositiveFloat = Field(60.0, description="longest wait for one broadcast")


class CheckpointConfig(Section):
    every: PositiveInt = Field(description="steps between checkpoints; the last step always gets one")
    keep: PositiveInt = Field(2, description="newest checkpoints kept")


class TrackingConfig(Section):
    experiment: str = "harmonyray"
    uri: str | None = Field(None, description="MLflow tracking URI; null: SQLite file mlflow.db beside the run directories")


class Config(Section):
    """A whole experiment. `load_config` makes one."""

    name: str = Field(pattern=r"^[^/]+$", description="names the run directory")
    seed: NonNegativeInt = 0
    steps: PositiveInt
    model: ModelConfig
    problems: Plugin
    views: dict[str, ViewConfig]
    method: Plugin
    advantage: Plugin
    loss: Plugin
    rollout: RolloutConfig
    learner: Plugin
    grader: Plugin
    eval: EvalConfig
    placement: PlacementConfig
    runtime: RuntimeConfig
    sync: SyncConfig
    checkpoint: CheckpointConfig
    tracking: TrackingConfig

    def to_container(self) -> dict[str, Any]:
        """Plain YAML-ready values, plug-in options flat beside their `type`, defaults included."""
        raw = self.model_dump(mode="json", serialize_as_any=True)
        for path, _ in plugin_places(raw):
            node = _at(raw, path)
            node.update(node.pop("options", {}))
        return raw

    def to_yaml(self) -> str:
        """The text of a file that `load_config` reads back as this very config: it extends nothing, all values are literal."""
        return yaml.safe_dump({"extends": None, **_escape(self.to_container())}, sort_keys=False)


def config_dirs() -> list[Path]:
    """Where a config may be named without a path: ./configs, the installed package's, the source tree's."""
    package = Path(__file__).parent
    return [d for d in (Path("configs"), package / "configs", package.parent / "configs") if d.is_dir()]


def load_config(name: str, overrides: Sequence[str] = ()) -> Config:
    """The validated config of a YAML path or a name in `configs/`, with `key=value` overrides on top.

    Raises ConfigError naming the file or dotted key, what was got and the nearest valid choice.
    """
    layers = _layers(_find(name))
    layers.append(_override_layer(overrides))
    merged: dict[str, Any] = {}
    try:
        for layer in layers:
            merged = _merge(merged, layer)
        resolved = OmegaConf.to_container(OmegaConf.create(merged), resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as e:
        raise ConfigError(f"config {name!r}: missing option {e.full_key!r}: it has no default and must be given") from e
    except TypeError as e:  # OmegaConf's for a list on a mapping
        raise ConfigError(f"config {name!r}: {e}: a list stands where a mapping of keys is expected, or the reverse") from e
    except OmegaConfBaseException as e:
        raise ConfigError(f"config {name!r}: {e.full_key or ''}: {str(e).splitlines()[0]}") from e
    assert isinstance(resolved, dict)
    return validate({str(k): v for k, v in resolved.items()})


def validate(raw: dict[str, Any]) -> Config:
    """The Config of resolved plain values: plug-in options first, then the schema, then what only makes sense together."""
    views = raw.get("views") or {}
    if not isinstance(views, Mapping):
        raise ConfigError(f"'views' must be a mapping of view names, e.g. views.solver.type=solver, got {views!r}")
    raw["views"] = {k: v for k, v in views.items() if v is not None}
    for path, kind in plugin_places(raw):
        if kind in INSIDE_METHOD:
            continue  # a method's own options validate its selector and its reward
        node, where = _at(raw, path), ".".join(path)
        if not isinstance(node, dict) or not isinstance(node.get("type"), str):
            raise ConfigError(f"{where!r} must be a mapping with a 'type', got {node!r}")
        common = COMMON_KEYS.get(kind, set())
        options = {k: v for k, v in node.items() if k != "type" and k not in common}
        kept = {k: v for k, v in node.items() if k in common}
        made = make_options(kind, node["type"], where, options, beside={"type", *common})
        _put(raw, path, {"type": node["type"], "options": made, **kept})
    try:
        config = Config(**raw)
    except ValidationError as e:
        raise ConfigError(explain(e, "", Config)) from e
    _check_together(config)
    return config


def _check_together(c: Config) -> None:
    if not c.views:
        raise ConfigError("'views' is empty: name at least one view, e.g. views.solver.type=solver")
    for name in c.views:
        if not re.fullmatch(r"[\w-]+", name):
            raise ConfigError(f"'views.{name}': a view's name goes into metric names: use letters, digits, '_' and '-' only")
    for name in c.placement.views:
        if name not in c.views:
            raise ConfigError(f"'placement.views.{name}' places a view that does not exist: {nearest(name, list(c.views))}")
    gpus = [c.placement.for_view(v).num_gpus for v in c.views] + [c.placement.learner.num_gpus]
    if c.sync.backend == "nccl" and min(gpus) == 0:
        raise ConfigError(
            "'sync.backend' is nccl, but a view or the learner has num_gpus 0: give each a GPU, or use auto or gloo"
        )
    if c.runtime.type == "in_process" and any(c.placement.for_view(v).replicas > 1 for v in c.views):
        raise ConfigError("'runtime.type' is in_process, which has one engine per view: set placement replicas to 1, or use ray")
    check = getattr(resolve("methods", c.method.type), "check", None)
    if check is not None:  # a method of the user's own need not derive from MethodBase
        check(c.method.options, tuple(c.views))


def plugin_places(raw: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]:
    """The paths in `raw` that hold a plug-in, each with its kind; outer ones first."""
    for pattern, kind in PLUGIN_PLACES.items():
        outer = _at(raw, pattern[:-1])
        if not isinstance(outer, Mapping):
            continue
        for name in list(outer) if pattern[-1] == "*" else [pattern[-1]]:
            path = (*pattern[:-1], name)
            if _at(raw, path) is not None:
                yield path, kind


def _escape(value: Any) -> Any:
    """`value` with every "${" in its texts written so that OmegaConf does not take it for an interpolation."""
    if isinstance(value, dict):
        return {k: _escape(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_escape(v) for v in value]
    if isinstance(value, str) and "${" in value:
        return re.sub(r"(\\*)\$\{", lambda m: 2 * m[1] + r"\${", value)
    return value


def _at(raw: Any, path: Sequence[str]) -> Any:
    for part in path:
        if not isinstance(raw, Mapping):
            return None
        raw = raw.get(part)
    return raw


def _put(raw: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for part in path[:-1]:
        raw = raw[part]
    raw[path[-1]] = value


def _find(name: str) -> Path:
    path = Path(name)
    if path.suffix in SUFFIXES:
        if not path.is_file():
            raise ConfigError(f"config file {name!r} does not exist (from {os.getcwd()!r})")
        return path
    known: list[str] = []
    for directory in config_dirs():
        candidate = directory / f"{name}.yaml"
        if candidate.is_file():
            return candidate
        known += [p.stem for p in directory.glob("*.yaml")]
    raise ConfigError(
        f"no config named {name!r}: {nearest(name, sorted(set(known) - {'base'}))} (or give the path of a .yaml file)"
    )


def _layers(path: Path) -> list[dict[str, Any]]:
    """The file's chain of `extends`, base first."""
    layers: list[dict[str, Any]] = []
    seen: list[Path] = []
    while True:
        if path.resolve() in seen:
            raise ConfigError(f"config files extend each other in a circle: {' -> '.join(str(p) for p in [*seen, path])}")
        seen.append(path.resolve())
        layer = _read(path)
        parent = layer.pop("extends", None if path.stem == "base" else "base")
        layers.insert(0, layer)
        if parent is None:
            return layers
        sibling = path.parent / (str(parent) if Path(str(parent)).suffix in SUFFIXES else f"{parent}.yaml")
        path = sibling if sibling.is_file() else _find(str(parent))


def _read(path: Path) -> dict[str, Any]:
    try:
        loaded = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except (yaml.YAMLError, OSError, UnicodeDecodeError, OmegaConfBaseException) as e:
        raise ConfigError(f"config file '{path}' cannot be read: {e}") from e
    if not isinstance(loaded, dict):
        raise ConfigError(f"config file '{path}' must hold a mapping of keys, got {type(loaded).__name__}")
    return {str(k): v for k, v in loaded.items()}


def _override_layer(overrides: Sequence[str]) -> dict[str, Any]:
    for item in overrides:
        if "=" not in item or item.startswith("="):
            raise ConfigError(f"override {item!r} is not of the form key=value, e.g. steps=2 or learner.lr=1e-4")
    try:
        loaded = OmegaConf.to_container(OmegaConf.from_dotlist(list(overrides)), resolve=False)
    except (yaml.YAMLError, OmegaConfBaseException) as e:
        raise ConfigError(f"overrides {list(overrides)} cannot be read: {e}") from e
    assert isinstance(loaded, dict)
    return {str(k): v for k, v in loaded.items()}


def _merge(base: dict[str, Any], layer: dict[str, Any]) -> dict[str, Any]:
    """`layer` over `base`; where it changes a plug-in's type, only options that the new type has are inherited."""
    base = OmegaConf.to_container(OmegaConf.create(base), resolve=False)  # type: ignore[assignment]
    for path, kind in plugin_places(layer):
        old, new = _at(base, path), _at(layer, path)
        if not (isinstance(old, dict) and isinstance(new, dict)) or new.get("type") in (None, old.get("type")):
            continue
        if "${" in str(new["type"]):
            continue  # known only once everything is merged
        fields = set(resolve(kind, str(new["type"])).Options.model_fields) | COMMON_KEYS.get(kind, set()) | {"type"}
        _put(base, path, {k: v for k, v in old.items() if k in fields})
    merged = OmegaConf.to_container(OmegaConf.merge(base, layer), resolve=False)
    assert isinstance(merged, dict)
    return {str(k): v for k, v in merged.items()}
