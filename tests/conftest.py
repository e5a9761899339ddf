"""For all tests, since the machine may be busy: no example of Hypothesis fails for having been slow, and Ray's actors get as much
of the processors as other processes (by itself Ray starts them with niceness 15)."""

import os

from hypothesis import settings

settings.register_profile("busy_machine", deadline=None)
settings.load_profile("busy_machine")
os.environ.setdefault("RAY_worker_niceness", "0")
