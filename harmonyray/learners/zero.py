"""DeepSpeed as the learner uses it: how an engine is made, and a model's parameters and AdamW's state by name whatever the ZeRO
stage. Nothing here knows of batches or losses.

With ZeRO a parameter's float32 master and its moments are shared out among the ranks, in stage 3 the parameter itself too. All
that reads or sets one has to be called on all ranks, for the same parameters in the same order.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from subprocess import CalledProcessError
from typing import Any

import torch
from torch import Tensor, nn

from harmonyray.engines.loading import device
from harmonyray.errors import ConfigError, first_line
from harmonyray.learners.state import MASTER, MOMENTS, LearnerState, adam_moments, set_adam_moments

BUCKET_ELEMENTS = 50_000_000  # that are reduced or gathered at once: 200 MB in float32
PERSISTENT_ELEMENTS = 100_000  # smaller parameters are whole on every rank in stage 3 too


class Call(nn.Module):
    """Runs what it is called with as the forward pass of a module that has `parts`. So a pass may be any function of the parts,
    and DeepSpeed's hooks, which hang on modules, still see where it begins and ends."""

    def __init__(self, *parts: nn.Module | None) -> None:
        super().__init__()
        self.parts = nn.ModuleList(part for part in parts if part is not None)

    def forward(self, compute: Callable[[], Any]) -> Any:
        return compute()


def require_deepspeed() -> None:
    """Raises ConfigError if the package is not installed."""
    if importlib.util.find_spec("deepspeed") is None:
        raise ConfigError("learner.type is deepspeed, but DeepSpeed is not installed: pip install 'harmonyray[deepspeed]'")


def make_optimizer(name: str, parameters: Iterable[Tensor], lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """ "adamw", torch's, or "cpu_adam", DeepSpeed's. Raises ConfigError if the latter cannot be compiled here."""
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay)
    _prepare()
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    try:
        optimizer: torch.optim.Optimizer = DeepSpeedCPUAdam(list(parameters), lr=lr, weight_decay=weight_decay)
    except (RuntimeError, OSError, ImportError, CalledProcessError, AssertionError) as e:
        raise ConfigError(
            f"'learner.optimizer' is cpu_adam, which DeepSpeed could not compile here ({type(e).__name__}: {first_line(e)}): "
            "install a C++ compiler and ninja, or use adamw"
        ) from e
    return optimizer


def _prepare() -> None:
    """What DeepSpeed asks for before it is imported where its own launcher has not set it. A rank sees its own GPU only."""
    os.environ.setdefault("DS_ACCELERATOR", device().type)
    os.environ.setdefault("LOCAL_RANK", "0")


def make_engine(module: Call, optimizer: torch.optim.Optimizer, settings: Mapping[str, Any]) -> Any:
    """A DeepSpeed engine around `module`; the ranks must have met."""
    _prepare()
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)  # DeepSpeed's own calls
    # Without this a CPU compiles an all-reduce of its own in the first run, for a minute, that leaves files in shared memory.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if settings["zero_optimization"]["stage"] == 3:
        # Shares the parameters out one by one; the engine itself would first move all of them to the GPU.
        deepspeed.zero.Init(module=module, config_dict_or_path=dict(settings))
        for buffer in module.buffers():
            buffer.data = buffer.data.to(device())
    engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=dict(settings), dist_init_required=False)
    return engine


def settings(stage: int, offload: tuple[str, ...], dtype: str, max_grad_norm: float) -> dict[str, Any]:
    """DeepSpeed's configuration. Without ZeRO gradients are not clipped: DeepSpeed would not say their norm."""
    bucket_sizes = dict.fromkeys(("reduce_bucket_size", "allgather_bucket_size", "stage3_prefetch_bucket_size"), BUCKET_ELEMENTS)
    places = {"optimizer": "offload_optimizer", "parameters": "offload_param"}
    on_host = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    zero = {"stage": stage, "stage3_param_persistence_threshold": PERSISTENT_ELEMENTS, **bucket_sizes}
    out = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": max_grad_norm if stage else 0.0,
        "zero_optimization": zero | {places[what]: on_host for what in offload},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": None,
    }
    if dtype == "bfloat16":
        out |= {"bf16": {"enabled": True, "check_grad_overflow": True}}
        out |= {"data_types": {"grad_accum_dtype": "fp32"}, "communication_data_type": "fp32"}
    return out


def gathered(parameter: Tensor, change: bool = False) -> AbstractContextManager[Any]:
    """Meanwhile the parameter is whole on all ranks; with `change`, what rank 0 made of it is everybody's afterwards."""
    if not hasattr(parameter, "ds_id"):
        return nullcontext()
    import deepspeed

    context: AbstractContextManager[Any] = deepspeed.zero.GatheredParameters([parameter], modifier_rank=0 if change else None)
    return context


def whole_weights(parameters: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Names and whole tensors, one after the other: a tensor may be a part of one again when the next is asked for."""
    for name, parameter in parameters.items():
        with gathered(parameter):
            yield name, parameter.data


def whole_shapes(parameters: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: getattr(p, "ds_shape", p.shape) for name, p in parameters.items()}


def whole_state(engine: Any, parameters: Mapping[str, Tensor], keep: bool, masters: bool) -> dict[str, dict[str, Tensor]]:
    """The moments, and the float32 `masters` if asked for, in the host's memory; with `keep` false it takes part and gives
    nothing back."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    if not engine.zero_optimization():
        return adam_moments(engine.optimizer, parameters)
    out: dict[str, dict[str, Tensor]] = {key: {} for key in (*MOMENTS, *([MASTER] if masters else []))}
    shapes = whole_shapes(parameters)
    for key, kept in out.items():
        for name, p in parameters.items():
            if key == MASTER:
                whole = safe_get_full_fp32_param(p)
            elif engine.basic_optimizer.state:
                whole = safe_get_full_optimizer_state(p, key)
            else:
                whole = torch.zeros(shapes[name])
            if keep:
                kept[name] = whole.to("cpu", copy=True)
    return out


def set_state(engine: Any, parameters: Mapping[str, Tensor], state: LearnerState) -> None:
    """Makes all ranks hold these weights and moments. AdamW's state must be there (after a first step it is)."""
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

    for name, p in parameters.items():
        with gathered(p, change=True):
            p.data.copy_(state.weights[name])
    if not engine.zero_optimization():
        set_adam_moments(engine.optimizer, parameters, state)
        return
    for name, p in parameters.items():
        safe_set_full_fp32_param(p, state.weights[name].to(torch.float32))
        for key in MOMENTS:
            safe_set_full_optimizer_state(p, state.moments[key][name], key)
    version = state.counts.policy_version
    for own in engine.basic_optimizer.state.values():
        own["step"] = torch.full_like(own["step"], version) if isinstance(own["step"], Tensor) else version
