"""Small charts as inline SVG, 360 units wide (a phone), coloured by the page's style sheet (light and dark)."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from vitrail.report.page.markup import escape_text
from vitrail.report.page.words import format_percent, format_short

WIDE, HIGH = 360, 200
LEFT, RIGHT, TOP, BOTTOM = 46, 8, 10, 24
MOST = 400  # points of a line
DOTTED = 24  # lines of up to so many points show them

Points = Sequence[tuple[float, float]]


class Series(NamedTuple):
    """A line: (step, value) in the order of the steps. An empty label needs no legend."""

    label: str
    points: Points


class Scale(NamedTuple):
    """Values from `low` to `high` on to the page, from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers that enclose what is between `low` and `high`."""
    from matplotlib.ticker import MaxNLocator

    if not high > low:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    return [float(t) for t in MaxNLocator(count, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)]


def thin_points(points: Points) -> list[tuple[float, float]]:
    """At most `MOST` points: means of neighbours."""
    if len(points) <= MOST:
        return list(points)
    return [(float(part[-1, 0]), float(part[:, 1].mean())) for part in np.array_split(np.array(points, float), MOST)]


def draw_chart(
    title: str,
    series: Sequence[Series],
    spell: Callable[[float], str] = format_short,
    zero: bool = False,
    peak: bool = False,
) -> str:
    """Lines over steps, the last value or the `peak` in the caption; "" without points. zero: the axis begins at 0."""
    lines = [Series(s.label, thin_points(s.points)) for s in series if s.points]
    if not lines:
        return ""
    across, values = ([p[i] for s in lines for p in s.points] for i in (0, 1))
    marks = ticks(0.0 if zero else min(values), max(values), 4)
    y = Scale(marks[0], marks[-1], HIGH - BOTTOM, TOP)
    first, last = min(across), max(across)
    x = Scale(first, last, LEFT, WIDE - RIGHT) if last > first else Scale(first - 1, last + 1, LEFT, WIDE - RIGHT)
    x_ticks = [t for t in ticks(first, last, 4) if first <= t <= last and t == round(t)] or [last]
    parts = [horizontal(y(t), spell(t)) for t in marks]
    parts += [label(x(t), HIGH - 6, format_short(t), "end" if x(t) > WIDE - 30 else "middle") for t in x_ticks]
    parts += [line(s, x, y, i, spell) for i, s in enumerate(lines)]
    legend = "".join(f'<span class="key s{i}">{escape_text(s.label)}</span>' for i, s in enumerate(lines) if s.label)
    now = f"at most {escape_text(spell(max(values)))}" if peak else escape_text(spell(lines[-1].points[-1][1]))
    caption = f"<figcaption><b>{escape_text(title)}</b> {legend}<span>{now}</span></figcaption>"
    return f"<figure>{caption}{wrap_svg(HIGH, f'{title} by step', parts)}</figure>"


def draw_curve(title: str, series: Sequence[Series]) -> str:
    """A curve with both axes from 0 to 1, such as precision over recall."""
    x, y = Scale(0.0, 1.0, LEFT, WIDE - RIGHT), Scale(0.0, 1.0, HIGH - BOTTOM, TOP)
    marks = [0.0, 0.25, 0.5, 0.75, 1.0]
    parts = [horizontal(y(t), format_percent(t, 0)) for t in marks]
    parts += [label(x(t), HIGH - 6, format_percent(t, 0), "end" if t == 1 else "middle") for t in marks]
    parts += [line(s, x, y, i, format_percent) for i, s in enumerate(series)]
    legend = "".join(f'<span class="key s{i}">{escape_text(s.label)}</span>' for i, s in enumerate(series) if s.label)
    return (
        f"<figure><figcaption><b>{escape_text(title)}</b> {legend}</figcaption>{wrap_svg(HIGH, title, parts)}</figure>"
    )


def line(series: Series, x: Scale, y: Scale, number: int, spell: Callable[[float], str]) -> str:
    coordinates = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in series.points)
    polyline = f'<polyline class="line s{number}" points="{coordinates}"/>'
    if len(series.points) > DOTTED:
        return polyline
    dots = (
        f'<circle class="dot s{number}" cx="{x(a):.1f}" cy="{y(b):.1f}" r="3">'
        f"<title>step {a:,.0f}: {escape_text(spell(b))}</title></circle>"
        for a, b in series.points
    )
    return polyline + "".join(dots)


def draw_reliability(rows: Sequence[Sequence[float]], bins: int) -> str:
    """A reliability diagram with the images in each bin. rows: (mean confidence, accuracy, count)."""
    high, floor, base = 300, 190, 292  # the baselines of the upper and of the lower diagram
    x, y = Scale(0, 1, LEFT, WIDE - RIGHT), Scale(0, 1, floor, TOP)
    tallest = max(row[2] for row in rows)
    h = Scale(0, tallest, 0, 40)
    parts = [horizontal(y(t), format_percent(t, 0)) for t in (0, 0.25, 0.5, 0.75, 1)]
    parts += [
        label(x(t), floor + 16, format_percent(t, 0), "end" if t == 1 else "middle") for t in (0, 0.25, 0.5, 0.75, 1)
    ]
    width = (WIDE - RIGHT - LEFT) / bins
    for confidence, accuracy, count in rows:
        place = min(math.floor(confidence * bins), bins - 1)
        left, low, tall = LEFT + place * width + 1, y(accuracy), h(count)
        tooltip = f"confidence {format_percent(confidence)}, accuracy {format_percent(accuracy)}: {int(count):,} images"
        box = f'x="{left:.1f}" width="{width - 2:.1f}" rx="1.5"'
        parts += [
            f'<rect class="column" {box} y="{low:.1f}" height="{floor - low:.1f}"><title>{tooltip}</title></rect>',
            f'<rect class="count" {box} y="{base - tall:.1f}" height="{tall:.1f}"><title>{tooltip}</title></rect>',
            f'<circle class="dot s1" cx="{x(confidence):.1f}" cy="{low:.1f}" r="2.5"/>',
            upright(left + width / 2 + 3, base - tall - 4, format_short(int(count))),
        ]
    parts.append(f'<line class="ideal" x1="{x(0)}" y1="{y(0)}" x2="{x(1)}" y2="{y(1)}"/>')
    parts.append(label(LEFT - 6, base, "images", "end"))
    caption = "<figcaption><b>Accuracy</b> <span>by confidence; dashed: perfect calibration</span></figcaption>"
    return f"<figure>{caption}{wrap_svg(high, 'accuracy by confidence', parts)}</figure>"


def wrap_svg(high: int, title: str, parts: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {WIDE} {high}" role="img" aria-label="{escape_text(title)}">{"".join(parts)}</svg>'


def horizontal(y: float, text: str) -> str:
    """A line of the grid with its number at the left."""
    return f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{WIDE - RIGHT}" y2="{y:.1f}"/>' + label(
        LEFT - 6, y + 4, text, "end"
    )


def label(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape_text(text)}</text>'


def upright(x: float, y: float, text: str) -> str:
    return f'<text transform="translate({x:.1f} {y:.1f}) rotate(-90)">{escape_text(text)}</text>'
