"""The curves as PNG files, for papers and slides. matplotlib is imported when one is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harmonyray.plotting import save_figure
from harmonyray.report.charts import Chart

COLORS = ("#0b7a75", "#b3590b", "#4256b8", "#a83a66", "#5f6f12", "#55626c", "#7f5130", "#74479b")  # those of the page by day
DASHES = ("-", "--", ":", "-.")
_GRID = "#dddddd"


def save_pictures(charts: Sequence[Chart], folder: Path) -> list[Path]:
    """One file for each chart, `{key}.png`; those of an earlier report are replaced."""
    import matplotlib

    matplotlib.use("Agg")
    folder.mkdir(exist_ok=True)
    return [_save(chart, folder / f"{chart.key}.png") for chart in charts]


def _save(chart: Chart, path: Path) -> Path:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(5.2, 3.2), layout="constrained")
    shown: set[str] = set()
    for s in chart.series:
        xs, ys = zip(*s.points, strict=True)
        label = None if s.name in shown else s.name.replace("$", r"\$")
        axes.plot(xs, ys, label=label, color=COLORS[s.color], linestyle=DASHES[s.dash % len(DASHES)], linewidth=1.8)
        shown.add(s.name)
        if s.band:
            steps, low, high = zip(*s.band, strict=True)
            axes.fill_between(steps, low, high, color=COLORS[s.color], alpha=0.14, linewidth=0)
    if chart.share:
        axes.set_ylim(0, 1.02)
    axes.set_title(chart.title.replace("$", r"\$"), fontsize=11, loc="left")
    axes.set_xlabel("step", fontsize=9)
    axes.tick_params(labelsize=9, length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    save_figure(figure, path)
    return path
