"""A run's closing table: what it was like before and after, and what its labels were worth."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from harmonyray.config import Config

LABEL_WINDOW = 8  # steps over which the start and the end of a run are averaged


def result_table(config: Config, summary: Mapping[str, Any], rows: Sequence[Mapping[str, float]]) -> Table:
    """Before and after in each view; pseudo-labels and what majority voting would have picked."""
    before, after = summary["eval_before"], summary["eval_after"]
    table = Table(title=f"{config.name}: {config.method.type}, {_how_long(config, summary)}", title_justify="left")
    evaluated = next((row["step"] for row in reversed(rows) if after.keys() & row.keys()), summary["steps"])
    headers = ("", "before", "after" if evaluated == summary["steps"] else f"step {evaluated}")
    for header in headers:
        table.add_column(header, justify="left" if not header else "right")
    k = config.eval.num_samples
    for part, of in (("eval", ""), ("holdout", ", held out")):
        if part == "holdout" and not config.problems.holdout:
            continue
        for name, view in config.views.items():
            frozen = "" if view.model is None else " (not trained)"
            for key, label in (("avg_at_k", f"avg@{k}"), ("greedy", "greedy")):
                table.add_row(f"accuracy{of}, {name} view{frozen}, {label}", *_pair(before, after, f"{part}/{name}/{key}"))
        table.add_row(f"majority@{k} over all views{of}", *_pair(before, after, f"{part}/majority_at_k"))
        if len(config.views) > 1:
            table.add_row(f"harmonic@{k} over all views{of}", *_pair(before, after, f"{part}/harmonic_at_k"))
        table.add_section()
    window = min(LABEL_WINDOW, max(1, len(rows) // 2))
    first, last = rows[:window], rows[-window:]
    solver, own = next((name, view.num_samples) for name, view in config.views.items())
    table.add_row(f"training, mean of {window} step(s)", "first", "last")
    for label, key in (
        ("problems with a pseudo-label", "consensus/coverage"),
        ("pseudo-labels right", "consensus/label_accuracy"),
        (f"majority of the {own} {solver} samples right, of these", "consensus/majority_label_accuracy"),
        ("upper bound: any sample right", "consensus/upper_bound"),
    ):
        table.add_row(label, _mean(first, key), _mean(last, key))
    for label, key in _hindsight(rows):
        table.add_row(label, _mean(first, key), _mean(last, key))
    for event in summary["guard"]:
        table.add_row(f"collapse guard: {', '.join(event['signs'])}", event["action"], f"step {event['step']}")
    return table


def _how_long(config: Config, summary: Mapping[str, Any]) -> str:
    """Steps and seconds; of a resumed run, the seconds of what was resumed."""
    steps, here, seconds = summary["steps"], summary["steps"] - summary["first_step"] + 1, f"{summary['wall_seconds']:.0f} s"
    done = f"paused after {steps} of {steps_of(config.steps)}" if "paused" in summary else steps_of(steps)
    return f"{done}, {seconds}" if here == steps else f"{done}, the last {here} of them in {seconds}"


def _hindsight(rows: Sequence[Mapping[str, float]]) -> list[tuple[str, str]]:
    """Labels and metrics of the selector, of all in the ledger, that would have given the most right labels over the whole run;
    without gold answers, of the one that would have chosen differently most often. The first of equals."""
    pattern = re.compile(r"selectors/(.+)/disagreement")
    names = [m[1] for key in (rows[0] if rows else {}) if (m := pattern.fullmatch(key))]
    if not names:
        return []

    def right(name: str) -> float:
        return sum(row.get(f"selectors/{name}/label_accuracy", 0.0) * row[f"selectors/{name}/coverage"] for row in rows)

    def different(name: str) -> float:
        return sum(row[f"selectors/{name}/disagreement"] for row in rows)

    if any("consensus/upper_bound" in row for row in rows):
        best = max(names, key=right)
        return [
            (f"best selector with default options, {best}: right", f"selectors/{best}/label_accuracy"),
            (f"  chosen differently by {best}", f"selectors/{best}/disagreement"),
        ]
    most = max(names, key=different)
    return [(f"{most} would have chosen differently, most of all", f"selectors/{most}/disagreement")]


def steps_of(number: int) -> str:
    return f"{number} step" + ("s" if number != 1 else "")


def _pair(before: Mapping[str, float], after: Mapping[str, float], key: str) -> tuple[str, str]:
    missing = "-" if key in before else "no gold"  # a paused run may have no other evaluation than that before it
    return tuple(f"{m[key]:.3f}" if key in m else missing for m in (before, after))  # type: ignore[return-value]


def _mean(rows: Sequence[Mapping[str, float]], key: str) -> str:
    values = [row[key] for row in rows if key in row]
    return f"{sum(values) / len(values):.3f}" if values else "none"
