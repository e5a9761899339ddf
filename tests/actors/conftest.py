from __future__ import annotations

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
