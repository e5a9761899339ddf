"""`key=value` items of a command line as nested values, read as OmegaConf reads them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from harmonyray.errors import ConfigError


def read_items(items: Sequence[str], flag: str, example: str) -> dict[str, Any]:
    """`["lam=2", "of.type=harmonic"]` as `{"lam": 2, "of": {"type": "harmonic"}}`, interpolations unresolved.

    A value that begins with `#`, which YAML would drop as a comment, is that text. Raises ConfigError for an item that cannot be
    read; `flag` and `example` are for its message.
    """
    for item in items:
        if "=" not in item or item.startswith("="):
            raise ConfigError(f"{flag} {item!r} is not of the form key=value, e.g. {example}")
    parts = [item.partition("=") for item in items]
    quoted = [f"{key}={json.dumps(value)}" if value.startswith("#") else f"{key}={value}" for key, _, value in parts]
    try:
        loaded = OmegaConf.to_container(OmegaConf.from_dotlist(quoted), resolve=False)
    except (YAMLError, OmegaConfBaseException, ValueError) as e:
        raise ConfigError(
            f"{flag} {', '.join(map(repr, items))} cannot be read: {e}; a text with signs that mean something in YAML goes into "
            "double quotes inside single ones, e.g. 'key=\"{question}: \"'"
        ) from e
    assert isinstance(loaded, dict)
    return {str(key): value for key, value in loaded.items()}
