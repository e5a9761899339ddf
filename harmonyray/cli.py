"""The command line: thin verbs over the package. Heavy modules are imported by the verb that needs them."""

from __future__ import annotations

import argparse
import errno
import json
import os
import select
import sys
from collections.abc import Sequence
from pathlib import Path

from harmonyray.cli_offline import add_offline
from harmonyray.cli_track import add_track
from harmonyray.errors import HarmonyrayError
from harmonyray.interrupts import termination_interrupts
from harmonyray.registry import BUILT_IN
from harmonyray.report.arguments import add_report
from harmonyray.sweep.arguments import add_sweep

INTERRUPTED = 130
STDOUT = 1  # the file descriptor


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb and returns its exit code: 0 success, 1 failure, 2 a user's mistake, 130 interrupted."""
    args = _parse(argv)
    try:
        with termination_interrupts():
            code: int = args.verb(args)
        sys.stdout.flush()
        return code
    except HarmonyrayError as e:
        print("\n".join([f"harmonyray: {e}", *getattr(e, "__notes__", [])]), file=sys.stderr)
        return e.exit_code
    except KeyboardInterrupt:
        print("harmonyray: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        if not _reader_left():
            raise
        return 0
    except OSError as e:
        if e.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        again = "continue with --resume" if hasattr(args, "resume") else "give the same command again"
        print(f"harmonyray: the disk is full ({e}): free some space, then {again}", file=sys.stderr)
        return 1


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """argparse takes positional arguments in one piece only; overrides may also come after options."""
    parser = _parser()
    args, rest = parser.parse_known_args(argv)
    if rest and (not hasattr(args, "overrides") or any(item.startswith("-") or "=" not in item for item in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        args.overrides = [*args.overrides, *rest]
    return args


def _reader_left() -> bool:
    """Whether whoever read our output (head, less) has gone; then the rest goes nowhere, without a word at exit."""
    poll = select.poll()
    poll.register(STDOUT, 0)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)
    return True


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="harmonyray",
        description="Label-free reinforcement learning of language models at test time, on Ray actors.",
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    train = verbs.add_parser("train", help="train as a configuration says")
    _config_arguments(train)
    train.add_argument("--run-dir", type=Path, help="where the run lives (default: runs/<name>-<time>)")
    train.add_argument("--resume", action="store_true", help="go on with the run in --run-dir from its last checkpoint")
    train.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    train.set_defaults(verb=_train)

    evaluate = verbs.add_parser("eval", help="measure a model on problems with gold answers")
    evaluate.add_argument("--model", required=True, help="a model directory or hub id")
    known = "a problem file (.jsonl, .csv, .parquet), a known data set (math500, gsm8k, ...) or a source's name"
    evaluate.add_argument("--problems", required=True, help=known)
    evaluate.add_argument(
        "--config", help="views and sampling (default: the config.yaml in or beside the model's directory, else base)"
    )
    evaluate.add_argument("--view", help="the view whose accuracy stands at the top level (default: the first)")
    evaluate.add_argument("--samples", type=int, help="samples per problem and view (k)")
    evaluate.add_argument("--out", type=Path, help="an empty or new directory for eval.json, eval.parquet and an MLflow run")
    evaluate.add_argument("overrides", nargs="*", default=[], metavar="key=value")
    evaluate.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    evaluate.set_defaults(verb=_eval)

    export = verbs.add_parser("export", help="copy a checkpoint's model to a plain Hugging Face directory")
    export.add_argument("source", metavar="RUN_DIR_OR_CHECKPOINT", type=Path)
    export.add_argument("--out", required=True, type=Path, help="a new or empty directory")
    which = export.add_mutually_exclusive_group()
    which.add_argument("--step", type=int, help="which of a run's checkpoints (default: the newest)")
    which.add_argument("--best", action="store_true", help="the one that checkpoint.best kept")
    export.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    export.set_defaults(verb=_export)

    plan = verbs.add_parser("plan", help="show which actor would sit where, without starting anything")
    _config_arguments(plan)
    plan.set_defaults(verb=_plan)

    add_report(verbs)
    add_sweep(verbs)
    add_offline(verbs)
    add_track(verbs)

    doctor = verbs.add_parser("doctor", help="check this machine and say what to do about each finding")
    doctor.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    doctor.set_defaults(verb=_doctor)

    listing = verbs.add_parser("list", help="show the plug-ins of a kind, or the configs, with their options")
    listing.add_argument("kind", metavar="KIND", help=f"one of: {', '.join([*BUILT_IN, 'configs', 'sweeps'])}")
    listing.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    listing.set_defaults(verb=_list)
    return parser


def _config_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG", help="a YAML path, or a name in configs/")
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="dotted overrides, e.g. learner.lr=1e-4")


def _train(args: argparse.Namespace) -> int:
    from harmonyray.config import load_config
    from harmonyray.console import Reporter
    from harmonyray.run import run_training

    config = load_config(args.config, args.overrides)
    summary = run_training(config, args.run_dir, args.resume, Reporter(quiet=args.json))
    if args.json:
        print(json.dumps(summary))
    return 0


def _eval(args: argparse.Namespace) -> int:
    from harmonyray.console import Reporter
    from harmonyray.eval_report import result_tables
    from harmonyray.run_eval import find_eval_config, load_eval_config, run_evaluation

    name = find_eval_config(args.model, args.config)
    config = load_eval_config(name, args.model, args.problems, args.samples, args.overrides)
    reporter = Reporter(quiet=args.json)
    result = run_evaluation(config, args.view, args.out, reporter)
    if args.json:
        print(json.dumps(result))
        return 0
    for table in result_tables(result):
        reporter.out.print(table)
    reporter.out.print(f"settings of {name}, {result['wall_seconds']:.1f} s" + (f"; results in {args.out}" if args.out else ""))
    return 0


def _export(args: argparse.Namespace) -> int:
    from harmonyray.export import ExportRequest, describe_export, run_export

    summary = run_export(ExportRequest(args.source, args.out, args.step, args.best))
    print(json.dumps(summary) if args.json else describe_export(summary))
    return 0


def _plan(args: argparse.Namespace) -> int:
    from harmonyray.build import NOT_PLANNED, plan
    from harmonyray.config import load_config

    table, fits = plan(load_config(args.config, args.overrides))
    print(table, flush=True)
    print(NOT_PLANNED, file=sys.stderr)
    return 0 if fits else 2


def _doctor(args: argparse.Namespace) -> int:
    from harmonyray.doctor import examine

    findings = examine()
    for f in findings:
        print(f"{f.status:5}  {f.name:12} {f.found}" + (f"\n       -> {f.advice}" if f.advice else ""))
    if args.json:
        print(json.dumps({f.name: {"status": f.status, "found": f.found, "advice": f.advice} for f in findings}))
    return 1 if any(f.status == "fail" for f in findings) else 0


def _list(args: argparse.Namespace) -> int:
    from harmonyray.listing import describe, format_listing

    listing = describe(args.kind)
    print(json.dumps(listing) if args.json else format_listing(listing))
    return 0


if __name__ == "__main__":
    sys.exit(main())
