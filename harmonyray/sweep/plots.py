"""A sweep's results as pictures: the measure over the steps, and where the cells end. Only here is matplotlib used."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harmonyray.plotting import save_figure
from harmonyray.sweep.results import CellResult

MAX_COLUMNS = 3  # of panels side by side
DPI = 130


def plot_all(rows: Sequence[CellResult], measure: str, sweep_dir: Path) -> list[Path]:
    """Writes `curves.png` and `final.png`; returns the files. Nothing without a single trial that ended."""
    import matplotlib

    matplotlib.use("Agg")
    ended = [row for row in rows if row.figures]
    if not ended:
        return []
    labels = list(dict.fromkeys(row.cell.label for row in ended))
    palette = matplotlib.colormaps["tab10" if len(labels) <= 10 else "tab20"]
    colours = {label: palette(i % palette.N) for i, label in enumerate(labels)}
    paths = [sweep_dir / "curves.png", sweep_dir / "final.png"]
    _draw(ended, measure, paths[0], colours, _curves)
    _draw(ended, measure, paths[1], colours, _ends)
    return paths


def _draw(rows: Sequence[CellResult], measure: str, path: Path, colours: Mapping[str, Any], panel: Any) -> None:
    """A panel for each group of cells that are compared."""
    import matplotlib.pyplot as plt

    groups = list(dict.fromkeys(row.cell.group for row in rows))
    columns = min(MAX_COLUMNS, len(groups))
    lines = -(-len(groups) // columns)
    size = (max(6.5, 4.0 * columns), 4.3 * lines)
    figure, axes = plt.subplots(lines, columns, figsize=size, sharey=True, squeeze=False, constrained_layout=True)
    for axis, group in zip(axes.flat, groups, strict=False):
        panel(axis, [row for row in rows if row.cell.group == group], colours)
        axis.set_title(group, fontsize=10)
        axis.grid(alpha=0.25)
    for axis in axes.flat[len(groups) :]:
        axis.set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel(measure)
    if panel is _curves:
        by_label = {text: handle for axis in axes.flat for handle, text in zip(*axis.get_legend_handles_labels(), strict=True)}
        figure.legend(by_label.values(), by_label, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    save_figure(figure, path, DPI)


def _curves(axis: Any, rows: Sequence[CellResult], colours: Mapping[str, Any]) -> None:
    """A thin line for each seed, and their mean over the steps that all of them have."""
    for row in rows:
        curves = [dict(figures.curve) for figures in row.figures.values()]
        for curve in curves if len(curves) > 1 else []:
            axis.plot(list(curve), list(curve.values()), color=colours[row.cell.label], alpha=0.3, linewidth=0.8)
        steps = [step for step in curves[0] if all(step in curve for curve in curves)]
        means = [statistics.mean(curve[step] for curve in curves) for step in steps]
        axis.plot(steps, means, color=colours[row.cell.label], linewidth=2, label=row.cell.label)
    axis.set_xlabel("step")


def _ends(axis: Any, rows: Sequence[CellResult], colours: Mapping[str, Any]) -> None:
    """The cells' means with their intervals, a ring for each seed, and a line where they began."""
    for x, row in enumerate(rows):
        spread = row.spread("final")
        assert spread is not None  # it has figures
        axis.errorbar(x, spread.mean, yerr=spread.half, fmt="o", color=colours[row.cell.label], capsize=4)
        finals = [figures.final for figures in row.figures.values()]
        axis.plot([x] * len(finals), finals, "o", color=colours[row.cell.label], mfc="none", alpha=0.5, markersize=4)
    start = statistics.mean(figures.before for row in rows for figures in row.figures.values())
    axis.axhline(start, color="grey", linestyle=":", linewidth=1)
    axis.set_xticks(range(len(rows)), [row.cell.label for row in rows], rotation=40, ha="right", fontsize=8)
