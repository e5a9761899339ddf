"""The page: templates, style and script put together into one file that loads nothing and may run no script but its own."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from harmonyray import __version__
from harmonyray.clock import PHASES
from harmonyray.guarding import described
from harmonyray.report.charts import Chart
from harmonyray.report.comparing import LAST_STEPS, RunLine, fired_signs, mean_of
from harmonyray.report.packing import Disagreement, Explorer
from harmonyray.report.reading import RunRecord
from harmonyray.report.svg import draw, hover_data, number

FOLDER = Path(__file__).parent / "templates"


def run_page(run: RunRecord, charts: Sequence[Chart], explorer: Explorer | None) -> str:
    """The HTML of one run's report."""
    return _render(
        "run.html",
        ("charts.js", "explorer.js") if explorer is not None else ("charts.js",),
        title=str(run.config["name"]) if run.config["name"] == run.path.resolve().name else run.path.resolve().name,
        run=run,
        model=run.config.get("model", {}).get("path", ""),
        charts=charts,
        tiles=_tiles(run),
        guard=_guard(run),
        phases=_phases(run),
        selectors=_selectors(run, None if explorer is None else explorer.disagreement),
        matrix=None if explorer is None else _matrix(explorer.disagreement),
        explorer=explorer,
        has_gold=any("consensus/upper_bound" in row for row in run.rows),
    )


def runs_page(title: str, lines: Sequence[RunLine], charts: Sequence[Chart], left_out: Sequence[str]) -> str:
    """The HTML of several runs side by side."""
    return _render("runs.html", ("charts.js",), title=title, lines=lines, charts=charts, left_out=left_out)


def _render(template: str, scripts: Sequence[str], **values: Any) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.globals |= {"draw": draw, "hover_data": hover_data}
    environment.filters |= {"number": lambda value: "–" if value is None else number(value)}
    script = "\n".join((FOLDER / name).read_text() for name in scripts)
    # The only script that may run is this one, so nothing that a model wrote could, even if it got into the page as markup.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template(template).render(
        style=(FOLDER / "style.css").read_text(),
        script=script,
        digest=digest,
        made=time.strftime("%Y-%m-%d %H:%M"),
        version=__version__,
        **values,
    )


def _tiles(run: RunRecord) -> list[tuple[str, str, str]]:
    """(what, figure, how it began) of the figures at the top."""
    last = run.rows[-LAST_STEPS:]
    tiles = []
    key = f"eval/{run.views[0]}/avg_at_k"
    measured = [row[key] for row in run.rows if key in row]
    if measured:
        began = f"from {number(run.before[key])}" if key in run.before else "at the last evaluation"
        tiles.append((f"accuracy, {run.views[0]} view", number(measured[-1]), began))
    for name, key in (("pseudo-labels right", "consensus/label_accuracy"), ("coverage", "consensus/coverage")):
        now, then = mean_of(last, key), mean_of(run.rows[:LAST_STEPS], key)
        if now is not None and then is not None:
            tiles.append((name, number(now), f"from {number(then)}; means of {len(last)} steps"))
    seconds = sum(row.get("time/step_s", 0.0) for row in run.rows)
    tiles.append(("time in steps", _duration(seconds), f"{len(run.rows)} steps"))
    return tiles


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _guard(run: RunRecord) -> list[str]:
    """What the collapse guard said, or, of a run that has not ended well, when its signs fired."""
    if run.guard_events:
        return [described(event) for event in run.guard_events]
    return [f"{sign}: fired at {len(at)} step(s), first {at[0]}, last {at[-1]}" for sign, at in fired_signs(run).items()]


def _phases(run: RunRecord) -> list[tuple[str, float, str]]:
    """(phase, share of the time, seconds) over the whole run."""
    sums = {name: sum(row.get(f"time/{name}_s", 0.0) for row in run.rows) for name in PHASES}
    total = sum(sums.values()) or 1.0
    return [(name, value / total, f"{value:.1f} s") for name, value in sums.items()]


def _selectors(run: RunRecord, table: Disagreement | None) -> list[Mapping[str, Any]]:
    """Each selector's means over the run, those with the most right labels first."""
    rows = []
    for name in [] if table is None else table.names:
        keys = {key: f"selectors/{name}/{key}" for key in ("label_accuracy", "coverage", "disagreement")}
        rows.append({"name": name, **{key: mean_of(run.rows, metric) for key, metric in keys.items()}})
    return sorted(rows, key=lambda row: -((row["label_accuracy"] or 0.0) * (row["coverage"] or 0.0)))


def _matrix(table: Disagreement) -> list[tuple[str, list[float]]]:
    """Each selector with its share of other labels than every other's, in the table's order."""
    shares = table.counts / max(table.num_cells, 1)
    return [(name, row) for name, row in zip(table.names, shares.tolist(), strict=True)]
