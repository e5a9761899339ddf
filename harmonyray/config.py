"""The configuration: a pydantic schema, and the merging of OmegaConf files (`config_files.py` finds them) with dotted overrides.

A file states what differs from the files it `extends` (in the end `base.yaml`). Where a later layer changes a plug-in's
`type`, options of the old type that the new one does not have are left behind; common ones stay. No torch here.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import BaseModel, Field, NonNegativeInt, PositiveInt, ValidationError
from pydantic.fields import FieldInfo

from harmonyray.config_checks import check_together
from harmonyray.config_files import config_layers, find_config, without_removed_views
from harmonyray.config_objective import ObjectiveOptions
from harmonyray.config_sections import (
    AuditConfig,
    CheckpointConfig,
    EvalConfig,
    GuardConfig,
    ModelConfig,
    PlacementConfig,
    Plugin,
    ProblemsConfig,
    RolloutConfig,
    RuntimeConfig,
    Section,
    SyncConfig,
    TrackingConfig,
    ViewConfig,
)
from harmonyray.errors import ConfigError
from harmonyray.overrides import read_items
from harmonyray.registry import NEAR, explain, make_options, resolve

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
# Like a view, an entry that a later layer sets to null is gone.
REMOVABLE = (
    ("placement", "views"),
    ("placement", "share"),
    ("objective", "view_weights"),
)
INSIDE_METHOD = {"selectors", "rewards"}
COMMON_KEYS = {  # keys beside `type` that belong to the schema and not to the plug-in
    "views": {"num_samples", "model", "temperature", "top_p", "max_response_tokens", "stop"},
    "problems": {"holdout"},
}


class Config(Section):
    """A whole experiment. `load_config` makes one."""

    name: str = Field(pattern=r"^[^/]+$", description="names the run directory")
    seed: NonNegativeInt = 0
    steps: PositiveInt
    model: ModelConfig
    problems: ProblemsConfig
    views: dict[str, ViewConfig]
    method: Plugin
    advantage: Plugin
    loss: Plugin
    objective: ObjectiveOptions = ObjectiveOptions()
    rollout: RolloutConfig
    learner: Plugin
    grader: Plugin
    eval: EvalConfig
    placement: PlacementConfig
    runtime: RuntimeConfig
    sync: SyncConfig
    audit: AuditConfig
    guard: GuardConfig = Field(default_factory=lambda: GuardConfig.model_validate({}))
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


def common_fields(kind: str) -> dict[str, FieldInfo]:
    """The options that every plug-in of a kind has beside its own, because the schema reads them."""
    sections: dict[str, type[Plugin]] = {"views": ViewConfig, "problems": ProblemsConfig}
    section = sections.get(kind)
    return {} if section is None else {name: section.model_fields[name] for name in sorted(COMMON_KEYS[kind])}


def load_config(name: str, overrides: Sequence[str] = ()) -> Config:
    """The validated config of a YAML path or a name in `configs/`, with `key=value` overrides on top.

    Raises ConfigError naming the file or dotted key, what was got and the nearest valid choice.
    """
    *extended, own = config_layers(find_config(name))
    merged: dict[str, Any] = {}
    try:
        for layer in extended:
            merged = _merge(merged, without_removed_views(merged, layer))
        for layer in (own, read_items(overrides, "override", "steps=2 or learner.lr=1e-4")):
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
    for place in REMOVABLE:
        if isinstance(entries := _at(raw, place), Mapping):
            _put(raw, place, {k: v for k, v in entries.items() if v is not None})
    for path, kind in plugin_places(raw):
        if kind in INSIDE_METHOD:
            continue  # a method's own options validate its selector and its reward
        node, where = _typed(raw, path, kind), ".".join(path)
        common = COMMON_KEYS.get(kind, set())
        options = {k: v for k, v in node.items() if k != "type" and k not in common}
        kept = {k: v for k, v in node.items() if k in common}
        made = make_options(kind, node["type"], where, options, {"type", *common}, lambda: known_keys(raw))
        _put(raw, path, {"type": node["type"], "options": made, **kept})
    try:
        config = Config(**raw)
    except ValidationError as e:
        raise ConfigError(explain(e, "", Config, elsewhere=lambda: known_keys(raw))) from e
    check_together(config)
    return config


def _typed(raw: Mapping[str, Any], path: tuple[str, ...], kind: str) -> dict[str, Any]:
    """The node at `path`, which names a plug-in. Raises ConfigError, with the name that was meant, if it does not."""
    node = _at(raw, path)
    if isinstance(node, dict) and isinstance(node.get("type"), str):
        return node
    others = [p[-1] for p, k in plugin_places(raw) if k == kind and p != path]
    meant = get_close_matches(path[-1], others, n=1, cutoff=NEAR)
    hint = f"; did you mean '{'.'.join((*path[:-1], *meant))}'?" if meant else ""
    raise ConfigError(f"'{'.'.join(path)}' must be a mapping with a 'type', got {node!r}{hint}")


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


def known_keys(raw: Mapping[str, Any]) -> list[str]:
    """The dotted options of a configuration with the views and plug-ins of `raw`, which may be wrong in other ways. Without those
    inside a method's options."""
    return [".".join(path) for path in _keys(Config, (), raw)]


def _keys(section: type[BaseModel], path: tuple[str, ...], raw: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for name, field in section.model_fields.items():
        here, kind, places = (*path, name), field.annotation, [(*path, name)]
        if typing.get_origin(kind) is dict:
            kind, entries = typing.get_args(kind)[1], _at(raw, here)
            places = [(*here, str(key)) for key in entries] if isinstance(entries, Mapping) else []
        if issubclass(section, Plugin) and name == "options":
            yield from ((*path, option) for option in _plugin_options(path, raw))
        elif isinstance(kind, type) and issubclass(kind, BaseModel):
            for place in places:
                yield from _keys(kind, place, raw)
        else:
            yield here


def _plugin_options(path: tuple[str, ...], raw: Mapping[str, Any]) -> Collection[str]:
    """The names of the options of the plug-in at `path`; none if there is no such plug-in."""
    kind = dict(plugin_places(raw)).get(path)
    try:
        return () if kind is None else tuple(resolve(kind, str(_at(raw, (*path, "type")))).Options.model_fields)
    except ConfigError:
        return ()


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
