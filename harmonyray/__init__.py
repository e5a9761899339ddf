"""harmonyray: label-free reinforcement learning of language models at test time.

Importing this package loads no torch, ray or vllm; names below are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "AnswerGroup": "harmonyray.types",
    "Config": "harmonyray.config",
    "Consensus": "harmonyray.types",
    "GoldAnswer": "harmonyray.types",
    "HarmonyrayError": "harmonyray.errors",
    "Problem": "harmonyray.types",
    "Prompt": "harmonyray.types",
    "Rollout": "harmonyray.types",
    "load_config": "harmonyray.config",
    "select": "harmonyray.selectors",
    "select_many": "harmonyray.selectors",
}

__all__ = [*sorted(_PUBLIC), "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'harmonyray' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
