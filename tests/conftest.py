"""For all tests: no example of Hypothesis fails for having been slow, since the machine may be busy."""

from hypothesis import settings

settings.register_profile("busy_machine", deadline=None)
settings.load_profile("busy_machine")
