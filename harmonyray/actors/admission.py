"""Whether there is room for one more run: what a sweep asks before it starts a trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ray

from harmonyray.actors.cluster import nodes, this_machine
from harmonyray.actors.placement import assign_bundles, bundles, seats
from harmonyray.actors.plan_report import report
from harmonyray.config import Config
from harmonyray.errors import PlacementError


class ClusterRoom:
    """The connected cluster. Runs join it by `environment`, and take their places there themselves."""

    def __init__(self) -> None:
        self.environment: Mapping[str, str] = {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}

    def check(self, config: Config) -> None:
        """Raises PlacementError with the plan for a run that the cluster cannot hold even when it is empty."""
        planned = report(seats(config), nodes(), config.placement.strategy)
        if not planned.ever:
            raise PlacementError(f"there is not enough room for this run:\n{planned.text}")

    def has_room(self, config: Config, running: Sequence[Config]) -> bool:
        """Whether what is free now holds the run; those `running` have taken what is theirs."""
        return None not in assign_bundles(bundles(seats(config)), nodes(), config.placement.strategy)


class MachineRoom:
    """This machine's cores, for runs of one process each."""

    environment: Mapping[str, str] = {}

    def __init__(self) -> None:
        self.num_cpus = int(this_machine().num_cpus)

    def check(self, config: Config) -> None:
        """A run that wants more threads than there are cores is slow, not impossible."""

    def has_room(self, config: Config, running: Sequence[Config]) -> bool:
        """Whether the threads of all of them have a core each; one run always may."""
        return not running or sum(c.runtime.threads_per_actor for c in [*running, config]) <= self.num_cpus
