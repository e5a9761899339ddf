from __future__ import annotations

from collections.abc import Iterator

import pytest

from harmonyray.actors.cluster import cluster
from harmonyray.config_sections import RuntimeConfig


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """One local Ray for a module; what this process opens connects to it."""
    with cluster(RuntimeConfig()):
        yield
