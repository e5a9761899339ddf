"""`python -m harmonyray`: the command line."""

import sys

from harmonyray.cli import main

sys.exit(main())
