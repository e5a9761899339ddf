"""The verbs that need no model: `harmonyray vote`, `grade` and `data`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from harmonyray.errors import ConfigError


def add_offline(verbs: Any) -> None:
    """Adds them to the verbs of the command line (what `add_subparsers` returned)."""
    vote = verbs.add_parser("vote", help="turn recorded answers into pseudo-labels, without a model")
    _vote_arguments(vote)
    vote.set_defaults(verb=_vote)

    grade = verbs.add_parser("grade", help="judge pairs of answers: the same or not")
    grade.add_argument(
        "source", metavar="FILE", help='rows {"gold", "pred"}: .jsonl, .parquet, .json, .csv, or - for JSON Lines on stdin'
    )
    grade.add_argument("--out", help="where the rows go with their verdicts: .jsonl, .parquet, or - for stdout")
    _offline_arguments(grade, "pred is a whole response: find the answer in it")
    grade.set_defaults(verb=_grade)

    data = verbs.add_parser("data", help="problem sets as files of one form")
    _data_arguments(data)


def _vote_arguments(vote: argparse.ArgumentParser) -> None:
    vote.add_argument(
        "source",
        metavar="FILE|RUN_DIR",
        help='rows {"id", "views": {name: [answers]}, "gold"?} or {"id", "view", "answers", "gold"?}: .jsonl, .parquet, .json, '
        "or - for JSON Lines on stdin; or a run to replay",
    )
    vote.add_argument(
        "--selector",
        action="append",
        metavar="NAME[,NAME...]",
        help="names (harmonyray list selectors), package.module:Class, or all; may be repeated (default: harmonic)",
    )
    vote.add_argument("-o", dest="options", action="append", default=[], metavar="key=value", help="an option of the selector")
    vote.add_argument("--out", help="where the labels go: .jsonl, .parquet, or - for stdout")
    vote.add_argument("--plot", type=Path, help="draw accuracy and coverage of the selectors (.png, .svg, .pdf)")
    vote.add_argument("--view", help="whose label counts where every view gets its own: self, cross (default: the first)")
    vote.add_argument(
        "--problems", help="gold answers by id, before those of the rows: a problem file, a source's name, a benchmark"
    )
    _offline_arguments(vote, "answers are whole responses: find the answer in each")


def _offline_arguments(verb: argparse.ArgumentParser, extract: str) -> None:
    verb.add_argument("--extract", action="store_true", help=extract)
    verb.add_argument(
        "--kind", choices=("math", "number", "choice"), help="with --extract: what an answer is like (default: math)"
    )
    verb.add_argument("--skip-bad", action="store_true", help="leave out rows that cannot be used, and count them")
    verb.add_argument("--json", action="store_true", help="print one JSON object as the last line")


def _data_arguments(data: argparse.ArgumentParser) -> None:
    prepare = data.add_subparsers(required=True, metavar="VERB").add_parser(
        "prepare", help="write a benchmark, or any problem source, as questions and, apart from them, gold answers"
    )
    prepare.add_argument("name", metavar="NAME", help="math500, gsm8k, ..., a file, or a source (harmonyray list problems)")
    prepare.add_argument("--out", required=True, help="the questions' file (.jsonl); the gold answers go to <stem>.gold.jsonl")
    prepare.add_argument("-o", dest="options", action="append", default=[], metavar="key=value", help="an option of the source")
    prepare.add_argument("--limit", type=int, help="only the first so many problems")
    prepare.add_argument("--force", action="store_true", help="replace files that are there")
    prepare.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    prepare.set_defaults(verb=_data_prepare)


def _vote(args: argparse.Namespace) -> int:
    from harmonyray.vote import DEFAULT, VoteRequest, parse_options, run_vote

    request = VoteRequest(
        source=args.source,
        selectors=args.selector or (DEFAULT,),
        options=parse_options(args.options),
        out=args.out,
        plot=args.plot,
        view=args.view,
        problems=args.problems,
        extract=_extract(args),
        skip_bad=args.skip_bad,
    )
    summary = run_vote(request)
    if args.json:
        print(json.dumps(summary))
    else:
        from harmonyray.vote_report import describe_vote

        print(describe_vote(summary), file=sys.stderr if args.out == "-" else sys.stdout)
    return 0


def _extract(args: argparse.Namespace) -> str | None:
    """The kind of answer to find in whole responses; None for answers that are extracted already."""
    if args.kind and not args.extract:
        raise ConfigError("--kind says what to look for in whole responses: give --extract too, or leave it out")
    return (args.kind or "math") if args.extract else None


def _grade(args: argparse.Namespace) -> int:
    from harmonyray.grade import GradeRequest, describe_grade, run_grade

    summary = run_grade(GradeRequest(args.source, args.out, _extract(args), args.skip_bad))
    if args.json:
        print(json.dumps(summary))
    else:
        print(describe_grade(summary), file=sys.stderr if args.out == "-" else sys.stdout)
    return 0


def _data_prepare(args: argparse.Namespace) -> int:
    from harmonyray.data import PrepareRequest, describe_prepare, run_prepare
    from harmonyray.vote import parse_options

    summary = run_prepare(PrepareRequest(args.name, args.out, parse_options(args.options), args.limit, args.force))
    print(json.dumps(summary) if args.json else describe_prepare(summary))
    return 0
