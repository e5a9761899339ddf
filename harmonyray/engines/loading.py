"""Loading models and tokenizers, with errors a user can act on. The one place that calls `from_pretrained`."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from harmonyray.errors import ModelError

logging.disable_progress_bar()

BUILT_IN_MODELS = {"quickstart": "assets/quickstart/model"}


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


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model. Raises ModelError if it cannot be loaded or has no end-of-sequence token."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(model_path(name))
    except (OSError, ValueError) as e:
        raise ModelError(f"the tokenizer of model {name!r} cannot be loaded: {_first_line(e)}") from e
    if tokenizer.eos_token_id is None:
        raise ModelError(f"the tokenizer of model {name!r} has no eos_token: generation could never stop; set one")
    return tokenizer


def load_model(name: str, dtype: str) -> PreTrainedModel:
    """A causal language model in `dtype` ("float32" or "bfloat16") on the GPU if there is one.

    Raises ModelError if it cannot be loaded.
    """
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(model_path(name), dtype=getattr(torch, dtype))
    except (OSError, ValueError) as e:
        raise ModelError(f"model {name!r} cannot be loaded: {_first_line(e)}") from e
    placed: PreTrainedModel = model.to(device()).eval()
    return placed


def device() -> torch.device:
    """The process's GPU, else its CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
