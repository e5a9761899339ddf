"""Where a run would sit, before anything of it is started: on the cluster of RAY_ADDRESS, else on this machine."""

from __future__ import annotations

import os

from harmonyray.actors.cluster import cluster, is_elsewhere, nodes, this_machine
from harmonyray.actors.placement import seats
from harmonyray.actors.plan_report import check_room, report
from harmonyray.config import Config


def plan_run(config: Config) -> tuple[str, bool]:
    """The table of who would sit where, with what to do if somebody has no room, and whether everybody has.

    Of a live cluster, what others use is looked at too. Raises PlacementError for one that does not answer.
    """
    if os.environ.get("RAY_ADDRESS"):
        with cluster(config.runtime):
            have = nodes()
    else:
        have = [this_machine()]
    shown = report(seats(config), have, config.placement.strategy)
    return shown.text, shown.fits


def check_room_here(config: Config, learn: bool) -> None:
    """Raises PlacementError with the plan for a run that a local Ray could never hold; a Ray that is there already is asked when
    the run connects to it. `learn`: whether there will be a learner."""
    if not is_elsewhere():
        wanted = [seat for seat in seats(config) if learn or seat.group != "learner"]
        check_room(wanted, [this_machine()], config.placement.strategy)
