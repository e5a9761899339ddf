"""`harmonyray grade`: pairs of a reference and a predicted answer, judged by the one notion of equality.

Streamed: a chunk of pairs is held at a time, and one hostile answer costs its own limit, never its chunk's.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from harmonyray.answers.equivalence import Equivalence
from harmonyray.answers.extract import extract_answer
from harmonyray.ballots.rows import gold_text
from harmonyray.errors import ProblemError
from harmonyray.problems.rows import Row
from harmonyray.records import (
    PARQUET,
    BadRows,
    RecordWriter,
    check_out,
    chunks,
    counted,
    no_column,
    no_rows,
    read_records,
    scalar_text,
    usable,
)
from harmonyray.records.columns import json_text

EXAMPLE = '{"gold": "1/2", "pred": "0.5"}'
_CHUNK = 256


@dataclass(frozen=True, slots=True)
class GradeRequest:
    """`source`: a file, or `-`. `out`: where the graded rows go (`-`: standard output, None: nowhere). `extract`: the kind of
    answer to find in `pred`, a whole response (None: it is an answer). `skip_bad`: leave out rows that cannot be used and
    count them."""

    source: str
    out: str | None = None
    extract: str | None = None
    skip_bad: bool = False


@dataclass(frozen=True, slots=True)
class Pair:
    """The texts to compare, and the columns that the written row has beside those of its input."""

    gold: str
    pred: str
    extra: Mapping[str, Any]


def run_grade(request: GradeRequest) -> dict[str, Any]:
    """Grades every pair and returns the JSON object of the contract; `max_pair_seconds` are the seconds by the clock that
    the slowest pair took, from when it was taken up to its verdict.

    Raises UserError for an input or output that cannot be used, GraderError if the solver cannot be kept alive.
    """
    begun = time.perf_counter()
    check_out(request.out, request.source)
    bad = BadRows(request.skip_bad)
    totals = {"num_pairs": 0, "num_equal": 0, "num_timeouts": 0, "num_unparsable": 0}
    slowest = 0.0
    with Equivalence() as equivalence, RecordWriter(request.out) as writer:
        for chunk in chunks(_pairs(request, bad), _CHUNK):
            verdicts = equivalence.check([(pair.gold, pair.pred) for _, pair in chunk])
            for verdict in verdicts:
                totals["num_equal"] += verdict.equal
                totals["num_timeouts"] += verdict.status == "timeout"
                totals["num_unparsable"] += verdict.status == "unparsable"
                slowest = max(slowest, verdict.seconds)
            totals["num_pairs"] += len(chunk)
            judged = zip(chunk, verdicts, strict=True)
            writer.write([{**row.values, **p.extra, "equal": v.equal, "status": v.status} for (row, p), v in judged])
        if not totals["num_pairs"]:
            raise no_rows(request.source, bad)
    return {
        **totals,
        "num_skipped": bad.num_skipped,
        "skipped": sorted(bad.skipped),
        "wall_seconds": time.perf_counter() - begun,
        "max_pair_seconds": slowest,
    }


def describe_grade(summary: Mapping[str, Any]) -> str:
    """The summary for a person."""
    pairs = summary["num_pairs"]
    skipped = f", {counted(summary['num_skipped'], 'row')} skipped" if summary["num_skipped"] else ""
    return (
        f"{counted(pairs, 'pair')}: {summary['num_equal']} equal ({summary['num_equal'] / pairs:.4f}), "
        f"{summary['num_timeouts']} given up (timeout), {summary['num_unparsable']} not read as mathematics{skipped}\n"
        f"{summary['wall_seconds']:.2f} s, the slowest pair {summary['max_pair_seconds']:.3f} s"
    )


def _pairs(request: GradeRequest, bad: BadRows) -> Iterator[tuple[Row, Pair]]:
    from_parquet = request.source.lower().endswith(PARQUET)
    to_json = request.out is not None and not request.out.lower().endswith(PARQUET)

    def make(row: Row) -> Pair:
        if from_parquet and to_json:
            _check_json(row)
        return _pair(row, request.extract)

    return usable(read_records(request.source, bad, "grade", EXAMPLE, wanted=None), make, bad)


def _check_json(row: Row) -> None:
    """Raises ProblemError for a row that cannot be written as JSON (Parquet may hold nan)."""
    for column, value in row.values.items():
        try:
            json_text(value)
        except ValueError as e:
            raise ProblemError(f"{row.place}: column {column!r}: {e}; expected null there, or --out FILE.parquet") from e


def _pair(row: Row, extract: str | None) -> Pair:
    """The texts of a row's pair; null is an empty answer, which equals nothing."""
    texts = []
    for column in ("gold", "pred"):
        if column not in row.values:
            if column == "gold" and "answer" in row.columns:
                raise ProblemError(f"{row.place}: no column 'gold'; did you mean 'answer'? Expected rows like {EXAMPLE}")
            raise no_column(row, column, EXAMPLE)
        texts.append(scalar_text(row, f"column {column!r}", row.values[column]) or "")
    gold, pred = texts
    if extract is None:
        return Pair(gold, pred, {})
    found = extract_answer(pred, extract)
    return Pair(gold_text(gold, extract), found or "", {"extracted": found})
