"""Where a model is. Apart from `loading` because the driver checks this before anything starts, and needs no torch for it."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from harmonyray.errors import ModelError

# The quickstart's model, and pupils that were taught other mistakes (docs/sweeps.md).
QUICKSTARTS = ("quickstart", "quickstart-mild", "quickstart-both_views", "quickstart-reframed_wrong")
BUILT_IN_MODELS = {name: f"assets/{name}/model" for name in QUICKSTARTS}


def model_path(name: str) -> str:
    """The directory of a built-in model, else `name` itself (a directory or a hub id).

    Raises ModelError for a directory that is not a model: no config.json, no tokenizer.
    """
    if name in BUILT_IN_MODELS and not Path(name).exists():
        return str(files("harmonyray") / BUILT_IN_MODELS[name])
    directory = Path(name)
    if not directory.exists():
        if directory.is_absolute() or name.startswith(".") or name.count("/") != 1:
            raise ModelError(f"model directory {name!r} does not exist: give a directory, a hub id (owner/name) or 'quickstart'")
        return name
    if not (directory / "config.json").is_file():
        raise ModelError(f"model directory {name!r} has no config.json: save a model there with save_pretrained")
    if not any((directory / f).is_file() for f in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")):
        raise ModelError(f"model directory {name!r} has no tokenizer files: save the tokenizer there with save_pretrained")
    return name
