"""What a person sees of a vote: the table, and the picture. matplotlib is imported when a picture is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harmonyray.plotting import save_figure
from harmonyray.records import counted

_INK = "#24323d"
_BAR = "#0b7a75"
_MARK = "#c77d0a"


def describe_vote(summary: Mapping[str, Any]) -> str:
    """The table: accuracy over all problems with gold (an abstention is not right), coverage, the share of problems where the
    selector and the pooled majority give different labels, and the number of ties."""
    rows = _rows(summary)
    gold = "accuracy" in summary
    width = max(len("selector"), *(len(name) for name, _ in rows))
    head = f"{'selector':{width}}" + ("  accuracy" if gold else "") + "  coverage  differs from majority  ties"
    lines = [head, "-" * len(head)]
    for name, row in rows:
        accuracy = f"  {row['accuracy']:8.4f}" if gold else ""
        lines.append(f"{name:{width}}{accuracy}  {row['coverage']:8.4f}  {row['disagreement']:21.4f}  {row['num_ties']:4}")
    counts = [counted(summary["num_problems"], "problem")]
    counts += [f"{summary['num_gold']} with gold"] if gold else ["no gold answers"]
    if "num_in_problems" in summary:
        counts.append(f"{summary['num_in_problems']} of {summary['num_problems']} ids found in --problems")
    counts += [f"{counted(summary['num_timeouts'], 'comparison')} given up"] if summary["num_timeouts"] else []
    counts += [f"{counted(summary['num_skipped'], 'row')} skipped"] if summary["num_skipped"] else []
    return "\n".join([*lines, f"{', '.join(counts)}; {summary['wall_seconds']:.2f} s"])


def plot_vote(summary: Mapping[str, Any], path: Path) -> None:
    """Draws a bar of accuracy per selector with its coverage as a mark; without gold, coverage with the share of problems where
    it differs from majority as a mark."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    gold = "accuracy" in summary
    rows = _rows(summary)[::-1]
    names = [name for name, _ in rows]
    bar, bar_label = ("accuracy", "accuracy") if gold else ("coverage", "coverage (share with a label)")
    mark, mark_label = ("coverage", "coverage") if gold else ("disagreement", "differs from majority")
    bars = [row[bar] for _, row in rows]
    figure, axes = plt.subplots(figsize=(7.2, 1.7 + 0.32 * len(rows)), layout="constrained")
    axes.barh(names, bars, height=0.62, color=_BAR, label=bar_label)
    marks = [row[mark] for _, row in rows]
    axes.plot(marks, names, "|", color=_MARK, markersize=14, markeredgewidth=2.5, label=mark_label, clip_on=False, zorder=3)
    for place, value in enumerate(bars):
        # Inside the bar at the end where the mark seldom stands; beside a bar that is too short for it.
        inside = (0.012, "left", "white") if gold else (value - 0.012, "right", "white")
        at, side, color = inside if value > 0.12 else (value + 0.012, "left", _INK)
        axes.text(at, place, f"{value:.3f}", va="center", ha=side, color=color, fontsize=9)
    axes.set_xlim(0, 1)
    if len(rows) == 1:
        axes.set_ylim(-0.7, 0.7)
    axes.set_xlabel("share of problems")
    title = counted(summary["num_problems"], "problem") + (f", {summary['num_gold']} with gold" if gold else ", no gold answers")
    axes.set_title(title, fontsize=11)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    save_figure(figure, path)


def _rows(summary: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The selectors, the most accurate first; in the order of their names on the command line among equals and without gold."""
    table = summary.get("selectors", {summary["selector"]: summary})
    return sorted(table.items(), key=lambda item: -item[1].get("accuracy", 0.0))
