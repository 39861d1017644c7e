"""Small charts as SVG: lines with error bars, and reliability diagrams."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from llmrouter.evaluation._axes import Axis
from llmrouter.evaluation._calibration import Reliability
from llmrouter.evaluation._labels import text_width
from llmrouter.evaluation._page._figure import svg_line, svg_text
from llmrouter.evaluation._scene import FAINT, INK, MUTED, Line, Text

_WIDTH, _HEIGHT = 560.0, 330.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 62.0, 540.0, 14.0, 276.0


@dataclass(frozen=True)
class Track:
    """One line of a chart: (x, y, half length of the error bar or NaN) in ascending order of x."""

    name: str
    colour: str
    points: tuple[tuple[float, float, float], ...]
    dash: tuple[float, ...] = ()


def line_chart(tracks: Sequence[Track], *, x_title: str, y_title: str, levels: Sequence[tuple[str, float]] = ()) -> str:
    """Return a chart of lines with error bars over a logarithmic x axis, and level lines with a name.

    Points with a NaN are left out; nothing is returned when none is left.
    """
    known = [(x, y, error) for track in tracks for x, y, error in track.points if x > 0 and math.isfinite(y)]
    if not known:
        return ""
    x_axis, y_axis = _chart_axes(known, [level for _, level in levels if math.isfinite(level)])
    parts = [*_frame(x_axis, y_axis, sorted({x for x, _, _ in known}), y_title=y_title, x_title=x_title)]
    for name, level in levels:
        if math.isfinite(level):
            y = y_axis.pixel(level)
            parts.append(svg_line(Line(((_LEFT, y), (_RIGHT, y)), MUTED, 1.2, (5.0, 4.0))))
            parts.append(svg_text(Text(_LEFT + 4, y - 8, name, MUTED, 11, halo=True)))
    for track in tracks:
        parts += _track(track, x_axis, y_axis)
    label = escape(f"{y_title} against {x_title}: {', '.join(track.name for track in tracks)}")
    return (
        f'<svg viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" width="{_WIDTH:g}" '
        f'style="max-width:100%" role="img" aria-label="{label}">{"".join(parts)}</svg>'
    )


def _chart_axes(known: Sequence[tuple[float, float, float]], levels: Sequence[float]) -> tuple[Axis, Axis]:
    ends = [y + side * (0.0 if math.isnan(error) else error) for _, y, error in known for side in (-1, 1)] + [*levels]
    low, high = min(ends), max(ends)
    margin = 0.06 * (high - low) or 0.05
    left, right = min(x for x, _, _ in known), max(x for x, _, _ in known)
    spread = max(1.15, (right / left) ** 0.04)
    return (
        Axis(left / spread, right * spread, _LEFT, _RIGHT, right, log=True),
        Axis(low - margin, high + margin, _BOTTOM, _TOP, high, intervals=6),
    )


def _frame(x_axis: Axis, y_axis: Axis, marks: Sequence[float], *, x_title: str, y_title: str) -> list[str]:
    parts = []
    for value in y_axis.ticks():
        y = y_axis.pixel(value)
        parts.append(svg_line(Line(((_LEFT, y), (_RIGHT, y)), FAINT, 1.0)))
        parts.append(svg_text(Text(_LEFT - 8, y, f"{value:.4g}", MUTED, 11.5, "right")))
    parts.append(svg_line(Line(((_LEFT, _BOTTOM), (_RIGHT, _BOTTOM)), MUTED, 1.0)))
    free = -math.inf
    for value in marks:
        x, text = x_axis.pixel(value), f"{value:,.0f}"
        parts.append(svg_line(Line(((x, _BOTTOM), (x, _BOTTOM + 4)), MUTED, 1.0)))
        half = text_width(text, 11.5) / 2
        if x - half > free:
            parts.append(svg_text(Text(x, _BOTTOM + 15, text, MUTED, 11.5, "center")))
            free = x + half + 4
    parts.append(svg_text(Text((_LEFT + _RIGHT) / 2, _HEIGHT - 16, x_title, INK, 12.5, "center")))
    parts.append(svg_text(Text(13, (_TOP + _BOTTOM) / 2, y_title, INK, 12.5, "center", rotated=True)))
    return parts


def _track(track: Track, x_axis: Axis, y_axis: Axis) -> list[str]:
    points = [(x_axis.pixel(x), y, error) for x, y, error in track.points if x > 0 and math.isfinite(y)]
    if not points:
        return []
    parts = [svg_line(Line(tuple((x, y_axis.pixel(y)) for x, y, _ in points), track.colour, 2.0, track.dash))]
    for x, y, error in points:
        if math.isfinite(error) and error > 0:
            ends = (y_axis.pixel(y - error), y_axis.pixel(y + error))
            parts.append(svg_line(Line(((x, ends[0]), (x, ends[1])), track.colour, 1.2)))
        parts.append(f'<circle cx="{x:.1f}" cy="{y_axis.pixel(y):.1f}" r="3" fill="{track.colour}"/>')
    return parts


_SIDE = 282.0
_FROM, _TO = 40.0, 272.0
_BAR_ROOM = 34.0


def reliability_diagram(curves: Sequence[tuple[str, Reliability, str]], *, label: str) -> str:
    """Return predicted against observed quality of some reliability curves, each with name and colour.

    Dots have an area by the count of their bin, bars span two standard errors either way, and the small bars below
    show the counts of the last curve.
    """
    values = [value for _, curve, _ in curves for value in (*curve.predicted.tolist(), *curve.observed.tolist())]
    low, high = min([0.0, *values]), max([1.0, *values])
    x_axis = Axis(low, high, _FROM, _TO, high, intervals=5)
    y_axis = Axis(low, high, _TO - _BAR_ROOM, 12.0, high, intervals=5)
    parts = []
    for value in x_axis.ticks():
        x, y = x_axis.pixel(value), y_axis.pixel(value)
        parts.append(svg_line(Line(((_FROM, y), (_TO, y)), FAINT, 1.0)))
        parts.append(svg_text(Text(_FROM - 6, y, f"{value:.1f}", MUTED, 11, "right")))
        parts.append(svg_text(Text(x, _TO + 12, f"{value:.1f}", MUTED, 11, "center")))
    diagonal = ((x_axis.pixel(low), y_axis.pixel(low)), (x_axis.pixel(high), y_axis.pixel(high)))
    parts.append(svg_line(Line(diagonal, "#9a9a9a", 1.2, (4.0, 3.0))))
    for _, curve, colour in curves:
        parts += _reliability_marks(curve, colour, x_axis, y_axis)
    parts += _counts(curves[-1][1], curves[-1][2], x_axis)
    parts.append(svg_text(Text((_FROM + _TO) / 2, _SIDE + 20, "predicted quality", INK, 12, "center")))
    parts.append(svg_text(Text(10, (_TO - _BAR_ROOM) / 2, "observed", INK, 12, "center", rotated=True)))
    return (
        f'<svg viewBox="0 0 {_SIDE:g} {_SIDE + 30:g}" width="{_SIDE:g}" '
        f'style="max-width:100%" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )


def _reliability_marks(curve: Reliability, colour: str, x_axis: Axis, y_axis: Axis) -> list[str]:
    parts = []
    most = max(curve.count.tolist(), default=1)
    columns = (curve.predicted, curve.observed, curve.count, curve.standard_error)
    for predicted, observed, count, error in zip(*(column.tolist() for column in columns), strict=True):
        x, y = x_axis.pixel(predicted), y_axis.pixel(observed)
        if math.isfinite(error):
            ends = [y_axis.pixel(min(max(observed + side * 2 * error, y_axis.low), y_axis.high)) for side in (-1, 1)]
            parts.append(svg_line(Line(((x, ends[0]), (x, ends[1])), colour, 1.2)))
        radius = 2 + 4 * math.sqrt(count / most)
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{colour}" fill-opacity="0.75">'
            f"<title>{count:,} predictions around {predicted:.3f}: observed {observed:.3f}</title></circle>"
        )
    return parts


def _counts(curve: Reliability, colour: str, x_axis: Axis) -> list[str]:
    most = max(curve.count.tolist(), default=1)
    parts = []
    for predicted, count in zip(curve.predicted.tolist(), curve.count.tolist(), strict=True):
        height = (_BAR_ROOM - 8) * count / most
        parts.append(
            f'<rect x="{x_axis.pixel(predicted) - 3:.1f}" y="{_TO - height:.1f}" width="6" height="{height:.1f}" '
            f'fill="{colour}" fill-opacity="0.5"/>'
        )
    return parts
