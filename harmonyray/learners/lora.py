"""Low-rank adapters (LoRA, arXiv 2106.09685) by way of PEFT, for any learner: what is trained beside frozen weights, and the
whole weights that engines and readers of checkpoints see. No optimizer, no batches.

PEFT is imported when an adapter is made.
"""

from __future__ import annotations

import copy
import importlib.util
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from harmonyray.errors import ConfigError, first_line
from harmonyray.learners.packing import packs
from harmonyray.learners.token_logprobs import plain_head
from harmonyray.registry import PluginOptions
from harmonyray.seeding import derive_seed

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "default"  # PEFT's for an adapter that is the only one
BASE = ".base_layer"  # what PEFT puts between the name of a layer with an adapter and that of its weight


class LoraOptions(PluginOptions):
    """An adapter's size, and the layers that get one. A layer computes W x + alpha / rank · B A x, W frozen, B 0 at first."""

    rank: PositiveInt = 16
    alpha: PositiveInt = Field(32, description="the adapter's output is multiplied by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of the adapters' inputs that an update sets to zero")
    target_modules: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (), description="ends of the layers' names, e.g. [q_proj, v_proj]; empty: every linear layer but the output head"
    )


class NoAdapter:
    """What `Adapter` does, for a model that is trained as a whole.

    `apart`: whether what is trained is no part of the model as it is saved.
    """

    apart = False

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model

    def reference(self) -> PreTrainedModel:
        """The model that the run begins with; to be asked for before it is trained, and run inside `off`."""
        return copy.deepcopy(self.model).requires_grad_(False)

    def off(self) -> AbstractContextManager[None]:
        """Meanwhile `reference` is the model that the run began with."""
        return nullcontext()

    def dropping(self, step: int) -> AbstractContextManager[None]:
        """Meanwhile dropout is on, if there is any; what it drops depends on the run's seed, on the step, and on how the
        update is cut into micro-batches."""
        return nullcontext()

    def merged(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """From all weights of the trained model those of a plain one that computes the same, by its names and in its order."""
        return dict(weights)

    def plain_state(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state dict of a plain model with these `merged` weights: with the buffers that are saved beside them."""
        buffers = dict(self.model.named_buffers())
        return {**weights, **{name: t for name, t in self.model.state_dict().items() if name in buffers}}


class Adapter(NoAdapter):
    """A model's adapter. Making one puts it into the model's layers, where only it is left to be trained. `layers`: those that
    have one, by name."""

    apart = True

    def __init__(self, model: PreTrainedModel, options: LoraOptions, seed: int) -> None:
        """How it begins, and what dropout drops, hangs on the run's `seed`. Raises ConfigError without PEFT, and for layers that
        cannot have an adapter."""
        require_peft()
        from peft import LoraConfig, inject_adapter_in_model
        from peft.tuners.lora import LoraLayer

        targets = list(options.target_modules) or "all-linear"
        config = LoraConfig(r=options.rank, lora_alpha=options.alpha, lora_dropout=options.dropout, target_modules=targets)
        try:
            with _seeded(seed, "lora"):
                inject_adapter_in_model(config, model, NAME)
        except ValueError as e:
            raise ConfigError(f"'learner.lora.target_modules' does not fit the model: {first_line(e)}") from e
        super().__init__(model)
        self.seed = seed
        self.layers: dict[str, Any] = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
        self._check_layers()
        model.eval()  # the adapters' dropout too
        if options.dropout:  # what is found out once for a model is not found out while dropout is on
            plain_head(model)
            packs(model)

    def reference(self) -> PreTrainedModel:
        return self.model

    @contextmanager
    def off(self) -> Iterator[None]:
        for layer in self.layers.values():
            layer.enable_adapters(False)
        try:
            yield
        finally:
            for layer in self.layers.values():
                layer.enable_adapters(True)

    @contextmanager
    def dropping(self, step: int) -> Iterator[None]:
        dropouts = [dropout for layer in self.layers.values() for dropout in layer.lora_dropout.values()]
        with _seeded(self.seed, "lora dropout", step):
            for dropout in dropouts:
                dropout.train()
            try:
                yield
            finally:
                for dropout in dropouts:
                    dropout.eval()

    @torch.no_grad()
    def merged(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """New tensors where a layer has an adapter, else those given."""
        out = {}
        for name, weight in weights.items():
            owner, _, leaf = name.rpartition(".")
            layer = owner.removesuffix(BASE)
            if layer != owner and leaf == "weight":
                change = weights[f"{layer}.lora_B.{NAME}.weight"] @ weights[f"{layer}.lora_A.{NAME}.weight"]
                put = self.layers[layer]
                change = (change.T if put.fan_in_fan_out else change) * put.scaling[NAME]
                out[f"{layer}.{leaf}"] = weight + change
            elif f".lora_A.{NAME}." not in name and f".lora_B.{NAME}." not in name:
                out[f"{layer}.{leaf}"] = weight
        return out

    def _check_layers(self) -> None:
        """Raises ConfigError for an adapter that `merged` could not take up."""
        uses = Counter(id(p) for _, p in self.model.named_parameters(remove_duplicate=False))
        for name, layer in self.layers.items():
            if layer.lora_embedding_A:
                why = "is no linear layer"
            elif uses[id(layer.base_layer.weight)] > 1:
                why = "has a weight that the model also uses elsewhere (tied embeddings)"
            else:
                continue
            raise ConfigError(f"'learner.lora.target_modules' names {name!r}, which {why}: leave it out")


def make_adapter(model: PreTrainedModel, options: LoraOptions | None, seed: int) -> NoAdapter:
    """See `Adapter`; without options the whole model is trained."""
    return NoAdapter(model) if options is None else Adapter(model, options, seed)


def require_peft() -> None:
    """Raises ConfigError if the package is not installed."""
    if importlib.util.find_spec("peft") is None:
        raise ConfigError("'learner.lora' is set, but PEFT is not installed: pip install 'harmonyray[lora]'")


@contextmanager
def _seeded(*parts: int | str) -> Iterator[None]:
    """torch's own random numbers come from a seed meanwhile; afterwards they go on as if nothing had been."""
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(*parts))
        yield
