"""The run as Ray actors: placement, the groups behind one object, and weight broadcast between them."""

import os

os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")  # a call that comes after the end of a run must not start another Ray
# What Ray's daemon says of a dead actor comes whenever it likes, and on stdout; the run says what happened in its own words.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "^")
