"""What there is to name in a configuration: plug-ins of each kind with their options, and the shipped configs."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python

from harmonyray.config import common_fields
from harmonyray.config_files import config_layers, config_names, sweep_names
from harmonyray.errors import ConfigError
from harmonyray.registry import BUILT_IN, nearest, resolve

MISSING = "???"  # OmegaConf's sign for a value that somebody else must give

KINDS = (*BUILT_IN, "configs", "sweeps")

HEADINGS = {  # of the roles, in the order in which they are shown; plug-ins have none
    None: "",
    "experiment": "Experiments, for `harmonyray train NAME`:",
    "piece": "\nPieces, for the `extends: [...]` of an experiment:",
    "broken": "\nFiles that cannot be used:",
}


def describe(kind: str) -> dict[str, Any]:
    """`{name: {"summary": ..., "options": {option: default}, "shown": {option: text}}}` of one of KINDS.

    A default is a plain value, MISSING where one must be given; `shown` is how people see it. A config has `"role"` too:
    "experiment" can be run as it stands, "piece" is for the `extends` of others, and "broken" says in its summary what is
    wrong. Raises ConfigError for an unknown kind.
    """
    if kind == "configs":
        return {name: _config_entry(path) for name, path in sorted(config_names().items())}
    if kind == "sweeps":
        return {name: {"summary": _first_comment(path), "options": {}} for name, path in sorted(sweep_names().items())}
    if kind not in BUILT_IN:
        raise ConfigError(f"nothing called {kind!r} can be listed: {nearest(kind, list(KINDS))}")
    out = {}
    for name in sorted(BUILT_IN[kind]):
        cls = resolve(kind, name)
        fields = {**cls.Options.model_fields, **common_fields(kind)}
        options, shown = ({key: of(field) for key, field in fields.items()} for of in (_value, _shown))
        out[name] = {"summary": _summary(cls), "options": options, "shown": shown}
    return out


def format_listing(listing: dict[str, Any]) -> str:
    """A few lines for each name: what it is, then its options with their defaults; configs by their role."""
    lines = []
    for role, heading in HEADINGS.items():
        entries = {name: entry for name, entry in listing.items() if entry.get("role") == role}
        lines += [heading] if heading and entries else []
        for name, entry in entries.items():
            lines.append(f"{name}: {entry['summary']}")
            lines += [f"    {key}: {default}" for key, default in entry.get("shown", {}).items()]
    return "\n".join(lines)


def _value(field: Any) -> Any:
    return MISSING if field.is_required() else to_jsonable_python(field.get_default(call_default_factory=True))


def _shown(field: Any) -> str:
    """The default and the description; a default of several lines stands below, indented."""
    comment = f"   # {field.description}" if field.description else ""
    if field.is_required():
        return f"(required){comment}"
    value = field.get_default(call_default_factory=True)
    text = str(value.type if hasattr(value, "type") else value)
    if "\n" in text.strip():
        return f"|{comment}\n" + textwrap.indent(text.strip(), " " * 8)
    return (text if text and text == text.strip() else repr(text)) + comment


def _summary(cls: type[Any]) -> str:
    import inspect

    doc = inspect.getdoc(cls) or inspect.getdoc(inspect.getmodule(cls)) or ""
    return " ".join(doc.split("\n\n")[0].split())


def _config_entry(path: Path) -> dict[str, Any]:
    """What a config file is; an experiment is one whose layers give it a name."""
    try:
        named = any(layer.get("name", MISSING) != MISSING for layer in config_layers(path))
    except ConfigError as e:
        return {"summary": str(e), "options": {}, "role": "broken"}
    return {"summary": _first_comment(path), "options": {}, "role": "experiment" if named else "piece"}


def _first_comment(path: Path) -> str:
    """What the first line of a YAML file says of it; empty if it is no comment."""
    first = path.read_text().partition("\n")[0]
    return first.lstrip("# ").strip() if first.startswith("#") else ""
