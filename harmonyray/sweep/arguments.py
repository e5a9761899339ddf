"""The command line's `sweep`: its arguments and what it prints. Light: the work is imported when it begins."""

from __future__ import annotations

import argparse
import errno
import json
import sys
from pathlib import Path
from typing import Any


def add_sweep(verbs: Any) -> None:
    """Adds the verb to argparse's `verbs`."""
    sweep = verbs.add_parser("sweep", help="train many variants of a configuration, and compare them")
    sweep.add_argument("sweep", metavar="SWEEP", help="a YAML path, or a name in configs/sweeps/ (docs/sweeps.md)")
    of_the_file = "of the sweep file, e.g. seeds=[0] max_parallel=1"
    sweep.add_argument("overrides", nargs="*", default=[], metavar="key=value", help=of_the_file)
    sweep.add_argument("--sweep-dir", type=Path, help="where the sweep lives (default: runs/sweep-<name>-<time>)")
    sweep.add_argument("--resume", action="store_true", help="go on with the sweep in --sweep-dir; what has ended stays")
    sweep.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    sweep.set_defaults(verb=_sweep)


def _sweep(args: argparse.Namespace) -> int:
    from harmonyray.sweep.command import SweepRequest, run_sweep

    def tell(line: str) -> None:
        try:
            print(line, file=sys.stderr if args.json else sys.stdout, flush=True)
        except OSError as e:
            if e.errno != errno.EIO:  # a terminal that was closed: the trials still finish their step
                raise

    summary = run_sweep(SweepRequest(args.sweep, args.overrides, args.sweep_dir, args.resume), tell)
    if args.json:
        print(json.dumps(summary))
    return 1 if summary["num_failed"] else 0
