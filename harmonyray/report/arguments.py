"""The command line's `report`: its arguments and what it prints. Light: the work is imported when it begins."""

from __future__ import annotations

import argparse
import json
from typing import Any


def add_report(verbs: Any) -> None:
    """Adds the verb to argparse's `verbs`."""
    report = verbs.add_parser(
        "report", help="write a run, or several side by side, as one HTML page with an explorer of the votes"
    )
    report.add_argument("target", metavar="RUN_DIR|SWEEP_DIR|MLFLOW_RUN_ID", help="what to report; the page is written into it")
    report.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    report.set_defaults(verb=_report)


def _report(args: argparse.Namespace) -> int:
    from harmonyray.report.reporting import describe_report, run_report

    summary = run_report(args.target)
    print(json.dumps(summary) if args.json else describe_report(summary))
    return 0
