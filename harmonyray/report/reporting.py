"""The verb `report`: finds what is asked for and writes the page and the pictures beside it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harmonyray.errors import ProblemError, ReportError
from harmonyray.files import write_text
from harmonyray.report.charts import Chart, compared_charts, run_charts
from harmonyray.report.comparing import name_runs, run_line
from harmonyray.report.finding import find_place, find_runs
from harmonyray.report.packing import pack_run
from harmonyray.report.page import run_page, runs_page
from harmonyray.report.pictures import save_pictures
from harmonyray.report.reading import RunRecord, read_run

PAGE, PICTURES = "report.html", "report"


def run_report(target: str) -> dict[str, Any]:
    """Writes `report.html` and `report/*.png` into what `target` stands for; of several runs, into each of theirs too.

    Returns `report`, `pictures` (paths), `num_runs`, `num_bytes` of the page and `wall_seconds`. Raises ReportError where there
    is nothing to report, ProblemError for a damaged ledger of a single run.
    """
    begun = time.perf_counter()
    place = find_place(target)
    paths = find_runs(place)
    if paths == [place]:
        page, pictures = _report_run(read_run(place))
    else:
        page, pictures = _report_runs(place, paths)
    return {
        "report": str(page.resolve()),
        "pictures": [str(path.resolve()) for path in pictures],
        "num_runs": len(paths),
        "num_bytes": page.stat().st_size,
        "wall_seconds": time.perf_counter() - begun,
    }


def describe_report(summary: Mapping[str, Any]) -> str:
    """The summary in a line or two."""
    runs = f"{summary['num_runs']} runs, " if summary["num_runs"] > 1 else ""
    size = f"{summary['num_bytes'] / 1e6:.1f} MB" if summary["num_bytes"] >= 1e5 else f"{summary['num_bytes'] / 1e3:.0f} kB"
    folder = Path(summary["pictures"][0]).parent
    return f"{summary['report']}\n{runs}{size}, {summary['wall_seconds']:.1f} s; {len(summary['pictures'])} pictures in {folder}"


def _report_run(run: RunRecord) -> tuple[Path, list[Path]]:
    charts = run_charts(run)
    return _write(run.path, run_page(run, charts, pack_run(run.path)), charts)


def _report_runs(place: Path, paths: Sequence[Path]) -> tuple[Path, list[Path]]:
    """Runs that have not finished a step, and those whose files are damaged, are named and left out."""
    runs: list[RunRecord] = []
    links, left_out = list[str](), list[str]()
    for path in paths:
        try:
            run = read_run(path)
            page, _ = _report_run(run)
        except (ReportError, ProblemError) as e:
            left_out.append(str(e))
        else:
            runs.append(run)
            links.append(page.relative_to(place).as_posix())
    if not runs:
        raise ReportError(f"none of the {len(paths)} runs below '{place}' can be reported: {left_out[0]}")
    labels = name_runs(runs)
    names = [run.path.relative_to(place).as_posix() for run in runs]
    lines = [run_line(*of_run) for of_run in zip(runs, names, links, labels, strict=True)]
    charts = compared_charts(runs, labels)
    return _write(place, runs_page(place.resolve().name, lines, charts, left_out), charts)


def _write(place: Path, page: str, charts: Sequence[Chart]) -> tuple[Path, list[Path]]:
    try:
        write_text(place / PAGE, page)
        return place / PAGE, save_pictures(charts, place / PICTURES)
    except OSError as e:
        raise ReportError(f"the report cannot be written into '{place}' ({e}): copy the directory to where you may write") from e
