"""A sweep's results as tables: Markdown, CSV, LaTeX (booktabs) and JSON. Numbers come from `results`."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from harmonyray.sweep.results import LABEL_STEPS, CellResult, Spread

COLUMNS = {"before": "before", "final": "final", "peak": "peak", "labels_right": "labels right"}
HEAD = ["seeds", *COLUMNS.values(), "collapsed", "s/trial"]
GOLD = "reads the gold answers: a bound, not ranked"
MARKDOWN = {0: "{}", 1: "**{}**", 2: "_{}_"}
LATEX = {0: "{}", 1: "\\textbf{{{}}}", 2: "\\underline{{{}}}"}
_PLAIN = {sign: f"\\{sign}" for sign in "&%$#_{}"}
_OTHERS = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LATEX_SIGNS = str.maketrans({**_PLAIN, **_OTHERS, "λ": r"$\lambda$", "±": r"$\pm$", "†": r"$\dagger$"})


def markdown(rows: Sequence[CellResult], measure: str) -> str:
    """The table, **best** and _second best_ of each group, and under it what its columns are."""
    lines = [f"| {' | '.join(_heads(rows))} |", "|" + "---|" * len(_heads(rows))]
    lines += ["| " + " | ".join(text.replace("|", "\\|") for text in _cells(row, rows, MARKDOWN)) + " |" for row in rows]
    return "\n".join([*lines, "", legend(rows, measure), ""])


def latex(rows: Sequence[CellResult], measure: str) -> str:
    """A booktabs tabular; best bold, second best underlined."""
    heads = [head.translate(_LATEX_SIGNS) for head in _heads(rows)]
    texts = num_texts(rows)
    lines = [f"% {legend(rows, measure)}", f"\\begin{{tabular}}{{{'l' * texts}{'r' * (len(heads) - texts)}}}", "\\toprule"]
    lines += [" & ".join(heads) + r" \\", "\\midrule"]
    for row in rows:
        cells = [text.translate(_LATEX_SIGNS) for text in _cells(row, rows, MARKDOWN | {1: "{}", 2: "{}"})]
        for i, column in enumerate(COLUMNS, start=texts + 1):
            cells[i] = LATEX[row.marks.get(column, 0)].format(cells[i])
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def table_csv(rows: Sequence[CellResult]) -> str:
    """Means and half widths in columns of their own, at full precision; empty where there is none."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(_plain(rows[0])))
    writer.writeheader()
    for row in rows:
        writer.writerow(_plain(row))
    return out.getvalue()


def as_json(rows: Sequence[CellResult]) -> list[dict[str, Any]]:
    """Everything by cell: the columns of the CSV, and each seed's figures with its curve."""
    return [{**_plain(row), "seeds": {str(seed): asdict(figures) for seed, figures in row.figures.items()}} for row in rows]


def legend(rows: Sequence[CellResult], measure: str) -> str:
    """What the columns are, in a line."""
    text = (
        f"{measure}: mean ± 95 % interval over seeds (Student's t); peak: each run's highest evaluation; labels right: share of "
        f"the last {LABEL_STEPS} steps' pseudo-labels; collapsed: trials that end below a share of the measure before training"
    )
    return text + (f"; † {GOLD}" if any(row.reads_gold for row in rows) else "")


def num_texts(rows: Sequence[CellResult]) -> int:
    """The number of columns that name a row."""
    return 2 if any(row.cell.group for row in rows) else 1


def _heads(rows: Sequence[CellResult]) -> list[str]:
    return [*["at", "cell"][-num_texts(rows) :], *HEAD]


def _cells(row: CellResult, rows: Sequence[CellResult], marks: dict[int, str]) -> list[str]:
    label = row.cell.label + (" †" if row.reads_gold else "")
    ended = f"{len(row.figures)}/{row.planned}" if len(row.figures) < row.planned else str(row.planned)
    ended += f" ({row.stopped} ended early)" if row.stopped else ""
    shown = [marks[row.marks.get(column, 0)].format(_text(row.spread(column))) for column in COLUMNS]
    seconds = row.spread("seconds")
    last = [f"{row.collapsed}/{len(row.figures)}", "-" if seconds is None else f"{seconds.mean:.0f}"]
    return [*([row.cell.group] if num_texts(rows) == 2 else []), label, ended, *shown, *last]


def _text(spread: Spread | None) -> str:
    return "-" if spread is None else str(spread)


def _plain(row: CellResult) -> dict[str, Any]:
    out: dict[str, Any] = {"cell": row.cell.label, "group": row.cell.group, "planned": row.planned, "ended": len(row.figures)}
    out |= {"failed": row.failed, "stopped": row.stopped, "collapsed": row.collapsed, "reads_gold": row.reads_gold}
    for column in COLUMNS:
        spread = row.spread(column)
        out[column] = None if spread is None else spread.mean
        out[f"{column}_half"] = None if spread is None else spread.half
    seconds = row.spread("seconds")
    return {**out, "seconds": None if seconds is None else seconds.mean}
