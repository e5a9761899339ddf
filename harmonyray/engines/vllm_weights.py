"""Weights inside a running vLLM worker: replacing them, and checking that inference uses what was sent.

`WeightsExtension` is mixed into vLLM's worker (`worker_extension_cls`); its methods run where the model is, called by name.
vLLM is imported by the methods: only its workers need this module's inside.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from harmonyray.engines.weights import digest
from harmonyray.errors import WeightSyncError

NUM_PROBES = 16  # input columns at which a layer that keeps its weights packed is read back, for every output


@dataclass(frozen=True, slots=True)
class Sent:
    """What is kept of a tensor that was sent, to tell whether a layer holds it: not the tensor, which may be on its way out."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    digest: bytes
    probe: torch.Tensor | None  # its `probe_columns`, [rows, M], if it is a matrix

    @staticmethod
    def of(tensor: torch.Tensor, known: bytes | None = None) -> Sent:
        """`known`: the tensor's digest, where the caller has it."""
        probe = tensor[:, probe_columns(tensor.shape[1]).to(tensor.device)] if tensor.dim() == 2 and tensor.shape[1] else None
        return Sent(tuple(tensor.shape), tensor.dtype, known or digest(tensor), probe)


def probe_columns(width: int) -> torch.Tensor:
    """Column indices int[M] of a matrix with that many columns, evenly spread."""
    return torch.linspace(0, width - 1, min(NUM_PROBES, width)).long()


class CheckedLoad:
    """One change of all weights of a vLLM worker's model: begin, load in any number of parts, finish with the checks.

    Inside vLLM's `set_current_vllm_config`. Between begin and finish the model cannot be used.
    """

    def __init__(self, model: torch.nn.Module, model_config: Any, num_workers: int) -> None:
        self.model, self.model_config, self.num_workers = model, model_config, num_workers
        self.sent: dict[str, Sent] = {}
        self.loaded: set[str] | None = set()
        self.every = set(dict(model.named_parameters()))

    def begin(self) -> None:
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        initialize_layerwise_reload(self.model)

    def load(self, weights: Iterable[tuple[str, torch.Tensor]], digests: Mapping[str, bytes] | None = None) -> None:
        """Loads tensors by the learner's names."""
        weights = list(weights)
        self.sent.update((name, Sent.of(t, (digests or {}).get(name))) for name, t in weights)
        loaded = self.model.load_weights(iter(weights))  # type: ignore[operator]
        self.loaded = None if loaded is None or self.loaded is None else self.loaded | loaded

    def finish(self) -> list[str]:
        """The names that could not be read back (see `unlike_sent`; all of them with several workers).

        Raises WeightSyncError if vLLM left a tensor out, or if inference would not use what was sent.
        """
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        partly = _partly_loaded(self.model)
        finalize_layerwise_reload(self.model, self.model_config)
        _repack_heads(self.model)
        left_out = sorted((self.every - self.loaded if self.loaded is not None else set()) | set(partly))
        if left_out:
            raise WeightSyncError(f"vLLM did not load {len(left_out)} tensors of its model, {left_out[0]!r} for one")
        if self.num_workers > 1:
            return list(self.sent)
        unlike, unread = unlike_sent(self.model, self.sent)
        if unlike:
            raise WeightSyncError(f"vLLM's layers do not hold what was sent in {len(unlike)} tensors, {unlike[0]!r} for one")
        return unread


class WeightsExtension:
    """What vLLM's worker can do beside its own methods. `self` is the worker."""

    model_runner: Any
    model_config: Any
    vllm_config: Any

    def replace_weights(self, weights: Mapping[str, torch.Tensor]) -> list[str]:
        """Loads all weights by the learner's names; returns and raises what `CheckedLoad.finish` does."""
        from vllm.config import set_current_vllm_config

        num_workers = self.vllm_config.parallel_config.world_size
        with set_current_vllm_config(self.vllm_config), torch.no_grad():
            load = CheckedLoad(self.model_runner.get_model(), self.model_config, num_workers)
            load.begin()
            load.load(weights.items())
            return load.finish()

    def release_kv_cache(self) -> None:
        """Gives the memory of the key-value cache back to the system (CPU only, where vLLM itself cannot)."""
        self._kv_bytes = [kv.untyped_storage().nbytes() for kv in self._kv_tensors()]
        for kv in self._kv_tensors():
            kv.untyped_storage().resize_(0)

    def restore_kv_cache(self) -> None:
        """Takes the memory that `release_kv_cache` gave back."""
        for kv, num_bytes in zip(self._kv_tensors(), self._kv_bytes, strict=True):
            if kv.untyped_storage().nbytes() != num_bytes:  # layers may share one
                kv.untyped_storage().resize_(num_bytes)
        for kv in self._kv_tensors():
            kv.zero_()

    def _kv_tensors(self) -> list[torch.Tensor]:
        tensors: list[torch.Tensor] = self.model_runner.kv_caches
        return tensors


def _partly_loaded(model: torch.nn.Module) -> list[str]:
    """The layers of which some but not all elements have come; called between loading and finalising.

    An embedding is exempt: vLLM pads its rows, and those are never loaded.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding
    from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

    waiting = ((name, layer, get_layerwise_info(layer)) for name, layer in model.named_modules())
    return [
        name
        for name, layer, info in waiting
        if info.load_numel_total is not None
        and 0 < info.load_numel < info.load_numel_total
        and not isinstance(layer, VocabParallelEmbedding)
    ]


def _repack_heads(model: torch.nn.Module) -> None:
    """On CPU a head that shares the embedding's tensor computes with a packed copy of its own, which a reload leaves behind."""
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    for layer in model.modules():
        if isinstance(layer, ParallelLMHead) and hasattr(layer, "cpu_linear"):
            dispatch_cpu_unquantized_gemm(layer, remove_weight=False)


@dataclass(frozen=True, slots=True)
class Home:
    """Where one sent tensor lives in vLLM's model: a layer's parameter, from a row on."""

    layer: torch.nn.Module
    leaf: str
    first_row: int


def unlike_sent(model: torch.nn.Module, weights: Mapping[str, Sent]) -> tuple[list[str], list[str]]:
    """The names whose layers do not hold what was sent, and the names that cannot be read back.

    A tensor that vLLM keeps as it is, alone or as rows of a fused one, is compared whole. Of a matrix that it keeps packed
    (oneDNN on CPU) `NUM_PROBES` columns are read back exactly, through the layer itself, for every output. Only models whose q,
    k and v projections vLLM fuses into `qkv_proj` (Llama, Qwen, Mistral, Gemma, Phi, ...) keep transformers' layout in this way.
    """
    packed = getattr(model, "packed_modules_mapping", None) or {}
    if "qkv_proj" not in packed:
        return [], list(weights)
    unlike, unread = [], []
    read = _Reader()
    for name, sent in weights.items():
        home = _home(model, name, weights, packed)
        same = None if home is None else read.same(home, sent)
        if same is None:
            unread.append(name)
        elif not same:
            unlike.append(name)
    return unlike + list(_stale_copies(model, read)), unread


def _home(model: torch.nn.Module, name: str, weights: Mapping[str, Sent], packed: Mapping[str, list[str]]) -> Home | None:
    """Where `name` is, None if vLLM's model has no such layer."""
    owner, _, leaf = name.rpartition(".")
    parent, _, child = owner.rpartition(".")
    first_row = 0
    for fused, parts in packed.items():
        before = [f"{parent}.{part}.{leaf}" for part in parts[: parts.index(child)]] if child in parts else []
        if child in parts and all(other in weights for other in before):
            owner, first_row = f"{parent}.{fused}", sum(weights[other].shape[0] for other in before)
            break
    try:
        layer = model.get_submodule(owner)
    except AttributeError:
        return None
    return Home(layer, leaf, first_row) if getattr(layer, leaf, None) is not None else None


class _Reader:
    """Reads tensors back out of vLLM's layers, each packed layer once."""

    def __init__(self) -> None:
        self._probed: dict[torch.nn.Module, torch.Tensor] = {}

    def same(self, home: Home, sent: Sent) -> bool | None:
        """Whether the rows hold `sent`, None if nothing of it can be read."""
        rows = slice(home.first_row, home.first_row + sent.shape[0])
        held = getattr(home.layer, home.leaf)
        if held.numel():
            if held.dtype != sent.dtype:
                return None
            return held[rows].shape == sent.shape and digest(held[rows]) == sent.digest
        if home.leaf != "weight" or not hasattr(home.layer, "cpu_linear") or sent.probe is None:
            return None
        return torch.equal(self.probe(home.layer, sent.shape[1], sent.dtype)[:, rows], sent.probe.T)

    def probe(self, layer: Any, width: int, dtype: torch.dtype) -> torch.Tensor:
        """What the layer computes with, in its `probe_columns`, float[M, outputs]: a unit vector selects a column exactly."""
        if layer not in self._probed:
            units = torch.nn.functional.one_hot(probe_columns(width), width).to(dtype)
            self._probed[layer] = layer.cpu_linear(units, layer.weight, None)
        return self._probed[layer]


def _stale_copies(model: torch.nn.Module, read: _Reader) -> Iterator[str]:
    """The heads whose packed copy is not their own tensor."""
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    for name, layer in model.named_modules():
        if isinstance(layer, ParallelLMHead) and hasattr(layer, "cpu_linear"):
            weight = layer.get_parameter("weight")
            width = weight.shape[1]
            if not torch.equal(read.probe(layer, width, weight.dtype), weight[:, probe_columns(width)].T):
                yield f"{name} (its packed copy)"
