"""What there is to name in a configuration: plug-ins of each kind with their options, and the shipped configs."""

from __future__ import annotations

from typing import Any

from harmonyray.config import config_dirs
from harmonyray.errors import ConfigError
from harmonyray.registry import BUILT_IN, nearest, resolve


def describe(kind: str) -> dict[str, Any]:
    """`{name: {"summary": ..., "options": {option: default}}}` of a kind of plug-in, or of "configs".

    Raises ConfigError for an unknown kind.
    """
    if kind == "configs":
        paths = {p.stem: p for d in reversed(config_dirs()) for p in sorted(d.glob("*.yaml"))}
        return {name: {"summary": _comment(paths[name].read_text()), "options": {}} for name in sorted(paths)}
    if kind not in BUILT_IN:
        raise ConfigError(f"nothing called {kind!r} can be listed: {nearest(kind, [*BUILT_IN, 'configs'])}")
    out = {}
    for name in sorted(BUILT_IN[kind]):
        cls = resolve(kind, name)
        options = {key: _default(field) for key, field in cls.Options.model_fields.items()}
        out[name] = {"summary": _summary(cls), "options": options}
    return out


def format_listing(listing: dict[str, Any]) -> str:
    """A few lines for each name: what it is, then its options with their defaults."""
    lines = []
    for name, entry in listing.items():
        lines.append(f"{name}: {entry['summary']}")
        lines += [f"    {key}: {default}" for key, default in entry["options"].items()]
    return "\n".join(lines)


def _default(field: Any) -> str:
    if field.is_required():
        return "(required)"
    value = field.get_default(call_default_factory=True)
    return str(value.type if hasattr(value, "type") else value) + (f"   # {field.description}" if field.description else "")


def _summary(cls: type[Any]) -> str:
    import inspect

    doc = inspect.getdoc(cls) or inspect.getdoc(inspect.getmodule(cls)) or ""
    return " ".join(doc.split("\n\n")[0].split())


def _comment(text: str) -> str:
    first = text.splitlines()[0] if text else ""
    return first.lstrip("# ").strip()
