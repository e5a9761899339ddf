"""What a person sees of a vote: the table, and the picture. matplotlib is imported when a picture is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

_INK = "#24323d"
_BAR = "#0b7a75"
_MARK = "#c77d0a"


def describe_vote(summary: Mapping[str, Any]) -> str:
    """The table: accuracy over all problems with gold (an abstention is not right), coverage, and the share of problems
    where the selector and the pooled majority give different labels."""
    rows = _rows(summary)
    gold = "accuracy" in summary
    width = max(len("selector"), *(len(name) for name, _ in rows))
    head = f"{'selector':{width}}" + ("  accuracy" if gold else "") + "  coverage  differs from majority"
    lines = [head, "-" * len(head)]
    for name, row in rows:
        accuracy = f"  {row['accuracy']:8.4f}" if gold else ""
        lines.append(f"{name:{width}}{accuracy}  {row['coverage']:8.4f}  {row['disagreement']:21.4f}")
    counts = [f"{summary['num_problems']} problems"]
    counts += [f"{summary['num_gold']} with gold"] if gold else ["no gold answers"]
    counts += [f"{summary['num_timeouts']} comparisons given up"] if summary["num_timeouts"] else []
    counts += [f"{summary['num_skipped']} rows skipped"] if summary["num_skipped"] else []
    return "\n".join([*lines, f"{', '.join(counts)}; {summary['wall_seconds']:.2f} s"])


def plot_vote(summary: Mapping[str, Any], path: Path) -> None:
    """Draws a bar of accuracy per selector with its coverage as a mark; without gold, coverage and disagreement."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    gold = "accuracy" in summary
    rows = _rows(summary)[::-1]
    names = [name for name, _ in rows]
    bars = [row["accuracy" if gold else "disagreement"] for _, row in rows]
    figure, axes = plt.subplots(figsize=(7.2, 1.3 + 0.32 * len(rows)), layout="constrained")
    axes.barh(names, bars, height=0.62, color=_BAR, label="accuracy" if gold else "differs from majority")
    axes.plot([row["coverage"] for _, row in rows], names, "|", color=_MARK, markersize=14, markeredgewidth=2.5, label="coverage")
    for place, value in enumerate(bars):
        inside = value > 0.12
        axes.text(
            value + (-0.01 if inside else 0.01),
            place,
            f"{value:.3f}",
            va="center",
            ha="right" if inside else "left",
            color="white" if inside else _INK,
            fontsize=9,
        )
    axes.set_xlim(0, 1.02)
    axes.set_xlabel("share of problems")
    axes.set_title(f"{summary['num_problems']} problems" + (f", {summary['num_gold']} with gold" if gold else ""), fontsize=11)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _rows(summary: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The selectors, the most accurate first; in the registry's order among equals and without gold."""
    table = summary.get("selectors", {summary["selector"]: summary})
    return sorted(table.items(), key=lambda item: -item[1].get("accuracy", 0.0))
