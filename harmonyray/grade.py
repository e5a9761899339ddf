"""`harmonyray grade`: pairs of a reference and a predicted answer, judged by the one notion of equality.

Streamed: a chunk of pairs is held at a time, and one hostile answer costs its own limit, never its chunk's.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harmonyray.answers.equivalence import Equivalence
from harmonyray.errors import ProblemError
from harmonyray.problems.rows import Row
from harmonyray.records import BadRows, RecordWriter, check_out, chunks, no_rows, read_records, scalar_text
from harmonyray.registry import nearest

EXAMPLE = '{"gold": "1/2", "pred": "0.5"}'
_CHUNK = 256


@dataclass(frozen=True, slots=True)
class GradeRequest:
    """`source`: a file, or `-`. `out`: where the graded rows go (`-`: standard output, None: nowhere). `skip_bad`: leave
    out rows that cannot be used and count them."""

    source: str
    out: str | None = None
    skip_bad: bool = False


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
    pairs = read_records(request.source, _pair, bad, EXAMPLE, wanted=None)
    with Equivalence() as equivalence, RecordWriter(request.out) as writer:
        for chunk in chunks(pairs, _CHUNK):
            verdicts = equivalence.check([(gold, pred) for _, gold, pred in chunk])
            for verdict in verdicts:
                totals["num_equal"] += verdict.equal
                totals["num_timeouts"] += verdict.status == "timeout"
                totals["num_unparsable"] += verdict.status == "unparsable"
                slowest = max(slowest, verdict.seconds)
            totals["num_pairs"] += len(chunk)
            writer.write([{**row, "equal": v.equal, "status": v.status} for (row, _, _), v in zip(chunk, verdicts, strict=True)])
        if not totals["num_pairs"]:
            no_rows(request.source, bad)
    return {
        **totals,
        "num_skipped": bad.num_skipped,
        "wall_seconds": time.perf_counter() - begun,
        "max_pair_seconds": slowest,
    }


def describe_grade(summary: Mapping[str, Any]) -> str:
    """The summary for a person."""
    pairs = summary["num_pairs"]
    share = f" ({summary['num_equal'] / pairs:.4f})" if pairs else ""
    skipped = f", {summary['num_skipped']} rows skipped" if summary["num_skipped"] else ""
    return (
        f"{pairs} pairs: {summary['num_equal']} equal{share}, {summary['num_timeouts']} given up (timeout), "
        f"{summary['num_unparsable']} not read as mathematics{skipped}\n"
        f"{summary['wall_seconds']:.2f} s, the slowest pair {summary['max_pair_seconds']:.3f} s"
    )


def _pair(row: Row) -> tuple[Mapping[str, Any], str, str]:
    """The row with the texts of its pair; null is an empty answer, which equals nothing."""
    texts = []
    for column in ("gold", "pred"):
        if column not in row.values:
            hint = nearest(column, [str(c) for c in row.columns]) if row.columns else "the row has no columns"
            raise ProblemError(f"{row.place}: no column {column!r}; {hint}; expected rows like {EXAMPLE}")
        texts.append(scalar_text(row, f"column {column!r}", row.values[column]) or "")
    return row.values, texts[0], texts[1]
