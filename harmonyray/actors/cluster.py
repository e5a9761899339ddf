"""The Ray side of a run: connect or start, look at the nodes, reserve seats, and leave nothing behind."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from harmonyray.actors.placement import WAYS_OUT, Node, Seat, assign, format_rows, plan_rows
from harmonyray.config import RuntimeConfig
from harmonyray.errors import PlacementError

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
        advice = "check `ray status`, or unset RAY_ADDRESS to run locally" if address else "see `harmonyray doctor`"
        raise PlacementError(f"cannot connect to {where}: {str(e) or type(e).__name__}; {advice}") from e
    try:
        yield
    finally:
        ray.shutdown()


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
    """The live nodes of the connected cluster, by address."""
    alive = [n for n in ray.nodes() if n["Alive"]]
    return sorted(
        (Node(n["NodeManagerAddress"], n["Resources"].get("CPU", 0.0), n["Resources"].get("GPU", 0.0)) for n in alive),
        key=lambda n: n.name,
    )


def reserve(wanted: Sequence[Seat], timeout_s: float) -> PlacementGroup:
    """A placement group with one bundle per seat.

    Raises PlacementError with a table of asked and available at once if it can never fit, after `timeout_s` if it is busy.
    """
    have = nodes()
    table = format_rows(plan_rows(wanted, have))
    if None in assign(wanted, have):
        raise PlacementError(f"there is not enough room for this run; {WAYS_OUT}:\n{table}")
    group = placement_group([s.bundle() for s in wanted], strategy="PACK")
    if not group.wait(timeout_s):
        free = {k: v for k, v in ray.available_resources().items() if k in ("CPU", "GPU")}
        remove_placement_group(group)
        raise PlacementError(
            f"the cluster is busy: no room within {timeout_s:g} s (free now: {free}); "
            f"wait for other jobs, or lower `placement`:\n{table}"
        )
    return group
