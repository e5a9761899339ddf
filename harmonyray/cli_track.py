"""The verbs of `harmonyray track`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def add_track(verbs: Any) -> None:
    """Adds `track` to the verbs of the command line (what `add_subparsers` returned)."""
    track = verbs.add_parser("track", help="what a run has recorded, and MLflow")
    sync = track.add_subparsers(required=True, metavar="VERB").add_parser(
        "sync", help="send what MLflow did not get while its server was away; safe to repeat"
    )
    sync.add_argument("run_dir", metavar="RUN_DIR", type=Path, help="the directory of a run, or of `eval --out`")
    sync.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    sync.set_defaults(verb=_sync)


def _sync(args: argparse.Namespace) -> int:
    from harmonyray.track_sync import describe_sync, run_sync

    summary = run_sync(args.run_dir)
    print(json.dumps(summary) if args.json else describe_sync(summary))
    return 1 if summary["refused"] else 0
