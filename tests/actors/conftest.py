from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Iterator

import pytest
import ray

from harmonyray.actors.cluster import cluster
from harmonyray.config_sections import RuntimeConfig


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """One local Ray for a module; runs of this process connect to it."""
    with cluster(RuntimeConfig()):
        yield
    assert not ray.is_initialized()


GREEN = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    yield
    session.config.stash[GREEN] = session.exitstatus == pytest.ExitCode.OK


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Ends the process after a green run without the destructors of C++ libraries: every `ray.cluster_utils.Cluster` that it
    started has left two threads of gRPC, which now and then crash meanwhile, and the run would be a segmentation fault."""
    if config.stash.get(GREEN, False) and not hasattr(config, "workerinput"):
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
