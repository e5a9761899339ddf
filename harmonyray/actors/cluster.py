"""The Ray side of a run: connect or start, look at the nodes, and leave nothing behind."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray._private.state import available_resources_per_node  # the public call only has the sum over all nodes
from ray._private.utils import get_num_cpus  # what `ray.init` takes where it is not told

from harmonyray.actors.placement import Node
from harmonyray.config_sections import RuntimeConfig
from harmonyray.errors import PlacementError
from harmonyray.interrupts import termination_kept

CONNECT_TIMEOUT_S = 10.0

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_enable_worker_prestart": "0",
}


@contextmanager
def cluster(runtime: RuntimeConfig) -> Iterator[None]:
    """A connection to the cluster of RAY_ADDRESS, or a local Ray of this process that ends with it.

    A process that is connected already keeps its connection. Raises PlacementError if there is no Ray to be had.
    """
    if ray.is_initialized():
        yield
        return
    for key, value in QUIET.items():
        os.environ.setdefault(key, value)
    address = os.environ.get("RAY_ADDRESS")
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "namespace": "harmonyray"}
    try:
        with termination_kept():
            if address:
                check_address(address)
                ray.init(address=address, **common)
            else:
                store = runtime.object_store_mb * 1024 * 1024
                ray.init(address="local", include_dashboard=False, object_store_memory=store, **common)
    except KeyboardInterrupt:
        ray.shutdown()
        raise
    except Exception as e:
        ray.shutdown()
        where = f"the cluster of RAY_ADDRESS={address}" if address else "a local Ray"
        advice = (
            "check `ray status`, set RAY_AUTH_MODE and RAY_AUTH_TOKEN_PATH as for `ray start`, or unset RAY_ADDRESS to run here"
            if address
            else "see `harmonyray doctor`"
        )
        raise PlacementError(f"cannot connect to {where}: {str(e) or type(e).__name__}; {advice}") from e
    try:
        yield
    finally:
        ray.shutdown()


def is_elsewhere() -> bool:
    """Whether a run would connect to a Ray that is there already, instead of starting one."""
    return ray.is_initialized() or bool(os.environ.get("RAY_ADDRESS"))


def this_machine() -> Node:
    """What a local Ray would find here: its own count of CPUs, the GPUs that torch sees, and what it is told by
    RAY_OVERRIDE_RESOURCES."""
    import torch

    own = {"CPU": get_num_cpus(), "GPU": torch.cuda.device_count()} | json.loads(os.environ.get("RAY_OVERRIDE_RESOURCES") or "{}")
    num_cpus, num_gpus = float(own.pop("CPU")), float(own.pop("GPU"))
    return Node("this machine", num_cpus, num_gpus, {key: float(value) for key, value in own.items() if _for_actors(key)})


def check_address(address: str) -> None:
    """Whether somebody listens at a Ray address; Ray itself would try for minutes, deaf to Ctrl-C. Raises ConnectionError."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return  # "auto", "local": Ray's own words
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except OSError as e:
        raise ConnectionError(f"nobody answers at {host} port {port} ({e})") from e


def nodes() -> list[Node]:
    """The live nodes of the connected cluster and what is in use there, by address; those that share one (several Rays on one
    machine) are told apart by the beginning of their ids."""
    alive = [n for n in ray.nodes() if n["Alive"]]
    free = available_resources_per_node()
    addresses = Counter(n["NodeManagerAddress"] for n in alive)
    out = []
    for n in alive:
        whole, address = n["Resources"], n["NodeManagerAddress"]
        name = address if addresses[address] == 1 else f"{address} ({n['NodeID'][:6]})"
        left = free.get(n["NodeID"], whole)  # a node that has only just come has not told yet; one that is used up names nothing
        kinds = {key: value for key, value in whole.items() if _for_actors(key)}
        in_use = {key: value - left.get(key, 0.0) for key, value in kinds.items() if value > left.get(key, 0.0)}
        custom = {key: value for key, value in kinds.items() if key not in ("CPU", "GPU")}
        out.append(Node(name, whole.get("CPU", 0.0), whole.get("GPU", 0.0), custom, in_use, n["NodeID"]))
    return sorted(out, key=lambda node: node.name)


def node_answers(node_id: str) -> bool:
    """Whether a node is there. The cluster learns of a lost one only after a while, so its own daemon is asked too."""
    for n in ray.nodes():
        if n["NodeID"] == node_id and n["Alive"]:
            try:
                check_address(f"{n['NodeManagerAddress']}:{n['NodeManagerPort']}")
            except ConnectionError:
                return False
            return True
    return False


def _for_actors(resource: str) -> bool:
    """Whether somebody may ask for it: not memory, nor what Ray itself names after nodes and placement groups."""
    return resource not in ("memory", "object_store_memory") and ":" not in resource and "_group_" not in resource
