"""A chart as inline SVG: colours and type come from the page's style sheet, so it follows the page into the dark."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from harmonyray.report.charts import Chart, Series

WIDTH, HEIGHT = 440.0, 230.0
LEFT, RIGHT, TOP, BOTTOM = 40.0, 10.0, 10.0, 24.0


@dataclass(frozen=True, slots=True)
class Scale:
    """Data to the picture's units: x from `x0` to `x1`, y from `y0` (below) to `y1`."""

    x0: float
    x1: float
    y0: float
    y1: float

    def x(self, value: float) -> float:
        return LEFT + (value - self.x0) / (self.x1 - self.x0) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (value - self.y0) / (self.y1 - self.y0) * (HEIGHT - TOP - BOTTOM)


def draw(chart: Chart) -> Markup:
    """The chart as an `<svg>`; what it says is in its label for those who cannot see it."""
    scale = scale_of(chart)
    parts = [*_grid(scale), *(_band(s, scale) for s in chart.series if s.band), *(_line(s, scale) for s in chart.series)]
    said = escape("; ".join(f"{s.name}: {number(s.points[0][1])} to {number(s.points[-1][1])}" for s in chart.series))
    frame = f'viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" tabindex="0" aria-label="{escape(chart.title)}. {said}"'
    return Markup(f"<svg {frame}>{''.join(parts)}<line class='cursor' y1='{TOP:g}' y2='{HEIGHT - BOTTOM:g}'/></svg>")


def hover_data(chart: Chart) -> str:
    """What the page's script needs to say the values at a step: JSON of `at` [(step, x in the picture's units)], and for each
    series its values by step, as shown."""
    scale = scale_of(chart)
    steps = sorted({x for s in chart.series for x, _ in s.points})
    values = [{f"{x:.0f}": number(y) for x, y in s.points} for s in chart.series]
    return json.dumps({"at": [[x, round(scale.x(x), 1)] for x in steps], "values": values, "width": WIDTH})


def number(value: float) -> str:
    """A figure as people read it."""
    return f"{value:.3f}" if abs(value) < 10 else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}"


def scale_of(chart: Chart) -> Scale:
    """Shares from 0 to 1; other figures from 0, or their least, to just above the most."""
    points = [point for s in chart.series for point in s.points]
    xs, ys = [x for x, _ in points], [y for _, y in points if math.isfinite(y)]
    x0, x1 = min(xs), max(xs)
    if x0 == x1:
        x0, x1 = x0 - 1, x1 + 1
    if chart.share:
        return Scale(x0, x1, 0.0, 1.0)
    low, high = min([0.0, *ys]), max([0.0, *ys])
    step = tick_step(low, high if high > low else low + 1)
    return Scale(x0, x1, math.floor(low / step) * step, max(math.ceil(high / step) * step, step))


def tick_step(low: float, high: float, about: int = 4) -> float:
    """1, 2 or 5 times a power of ten, so that a range has `about` steps or a few more."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)


def ticks(low: float, high: float, step: float) -> list[float]:
    """The multiples of `step` within the range."""
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def _grid(scale: Scale) -> Iterator[str]:
    step = 0.25 if (scale.y0, scale.y1) == (0.0, 1.0) else tick_step(scale.y0, scale.y1)
    for value in ticks(scale.y0, scale.y1, step):
        y = scale.y(value)
        yield f"<line class='grid' x1='{LEFT:g}' x2='{WIDTH - RIGHT:g}' y1='{y:.1f}' y2='{y:.1f}'/>"
        yield f"<text class='tick' x='{LEFT - 6:g}' y='{y + 3.5:.1f}' text-anchor='end'>{value:.4g}</text>"
    for value in ticks(scale.x0, scale.x1, max(1.0, tick_step(scale.x0, scale.x1))):
        yield f"<text class='tick' x='{scale.x(value):.1f}' y='{HEIGHT - 7:g}' text-anchor='middle'>{value:g}</text>"


def _path(points: Sequence[tuple[float, float]], scale: Scale) -> str:
    """Moves and lines; a value that is no number is a gap."""
    out, pen = [], "M"
    for x, y in points:
        if not math.isfinite(y):
            pen = "M"
            continue
        out.append(f"{pen}{scale.x(x):.1f} {scale.y(y):.1f}")
        pen = "L"
    return "".join(out)


def _band(series: Series, scale: Scale) -> str:
    edge = [(x, high) for x, _, high in series.band] + [(x, low) for x, low, _ in reversed(series.band)]
    return f"<path class='band c{series.color}' d='{_path(edge, scale)}Z'/>"


def _line(series: Series, scale: Scale) -> str:
    line = f"<path class='line c{series.color} d{series.dash % 4}' d='{_path(series.points, scale)}'/>"
    if len(series.points) > 12:
        return line
    shown = [(scale.x(x), scale.y(y)) for x, y in series.points if math.isfinite(y)]
    return line + "".join(f"<circle class='dot c{series.color}' cx='{x:.1f}' cy='{y:.1f}' r='2.6'/>" for x, y in shown)
