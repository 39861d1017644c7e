"""The cost-quality plot as lines, marks and texts in pixels; `_plot` draws them as PNG, `_page` as SVG.

Drawing our own scene keeps both pictures the same and lets labels be placed so that they do not cover each other.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from llmrouter.evaluation._format import (
    CostDisplay,
    cost_display,
    difference,
    headline,
    number,
    plain_number,
    short_name,
)
from llmrouter.evaluation._labels import Box, place_labels
from llmrouter.evaluation._metrics import Hull
from llmrouter.evaluation._result import EvaluationResult, RouterResult
from llmrouter.types import FloatArray

WIDTH, HEIGHT = 1200.0, 760.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 84.0, 1010.0, 112.0, 686.0

INK, MUTED, FAINT = "#1a1a1a", "#6b6b6b", "#e4e4e4"
# Okabe and Ito's colours, told apart with every common colour vision.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
# Beyond this ratio of dearest to cheapest, a linear axis would squeeze all but one model into a corner.
_LOG_FROM = 20.0


@dataclass(frozen=True)
class Line:
    """A polyline; `dash` is a pair of lengths or empty."""

    points: tuple[tuple[float, float], ...]
    colour: str
    width: float
    dash: tuple[float, ...] = ()


@dataclass(frozen=True)
class Mark:
    """A mark: `shape` is ``dot``, ``ring``, ``diamond`` or ``cross``."""

    x: float
    y: float
    shape: str
    colour: str
    size: float


@dataclass(frozen=True)
class Text:
    """A text on its vertical middle; `align` is ``left``, ``center`` or ``right``; `halo` keeps lines off it."""

    x: float
    y: float
    text: str
    colour: str
    size: float
    align: str = "left"
    bold: bool = False
    rotated: bool = False
    halo: bool = False


@dataclass(frozen=True)
class Scene:
    """What to draw, back to front, and where the operating points are (for the page's hover)."""

    lines: list[Line] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)
    colours: dict[str, str] = field(default_factory=dict)
    positions: dict[str, list[tuple[float, float]]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Axis:
    """One axis: data range to pixel range, linear or logarithmic; `end` is the largest value to draw lines to."""

    low: float
    high: float
    start: float
    stop: float
    end: float
    log: bool = False
    intervals: int = 7

    def pixel(self, value: float) -> float:
        if self.log:
            position = (math.log(max(value, self.low)) - math.log(self.low)) / (math.log(self.high / self.low))
        else:
            position = (value - self.low) / (self.high - self.low)
        return self.start + position * (self.stop - self.start)

    def ticks(self) -> list[float]:
        if self.log:
            exponents = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            steps = (1, 2, 5) if self.high / self.low < 2000 else (1,)
            found = [step * 10.0**exponent for exponent in exponents for step in steps]
        else:
            step = _nice_step((self.high - self.low) / self.intervals)
            found = [step * index for index in range(math.floor(self.low / step), math.ceil(self.high / step) + 1)]
        slack = 1e-9 * abs(self.high)
        return [value for value in found if self.low - slack <= value <= self.high + slack]


def _nice_step(rough: float) -> float:
    magnitude: float = 10.0 ** math.floor(math.log10(rough))
    return next(step * magnitude for step in (1, 2, 5, 10) if step * magnitude >= rough * 0.999)


def build_scene(result: EvaluationResult) -> Scene:
    """Return the drawing of an evaluation."""
    scene = Scene()
    x_axis, y_axis = _axes(result)
    display = cost_display(result)
    _draw_frame(scene, x_axis, y_axis, display)
    _draw_heading(scene, result)
    learned = [router for router in result.routers.values() if router.kind == "router"]
    _draw_curve(scene, result.routers["zero"].curve.hull, x_axis, y_axis, colour=MUTED, width=1.8, dash=(6.0, 4.0))
    for index, router in enumerate(learned):
        colour = _COLOURS[index % len(_COLOURS)]
        dash = () if index < len(_COLOURS) else (2.0, 2.0)
        scene.colours[router.name] = colour
        _draw_curve(scene, router.curve.hull, x_axis, y_axis, colour=colour, width=2.6, dash=dash)
        _draw_points(scene, router, x_axis, y_axis)
    _draw_line_names(scene, result, learned, x_axis, y_axis)
    _draw_models(scene, result, x_axis, y_axis)
    return scene


def _axes(result: EvaluationResult) -> tuple[_Axis, _Axis]:
    shown = [router for router in result.routers.values() if router.kind == "router"]
    costs = np.concatenate([result.model_cost, *(router.curve.hull.cost for router in shown)])
    oracle = result.routers["oracle"].curve
    qualities = np.concatenate(
        [result.model_quality, oracle.mean_quality[:1], *(router.curve.hull.quality for router in shown)]
    )
    low, high = float(costs.min()), float(costs.max())
    log = low > 0 and high / low > _LOG_FROM
    if log:
        margin = (high / low) ** 0.03
        x_axis = _Axis(low / margin, high * margin, _LEFT, _RIGHT, high, log=True)
    else:
        margin = 0.03 * (high - low) or 0.5 * high or 1.0
        x_axis = _Axis(low - margin, high + margin, _LEFT, _RIGHT, high)
    bottom, top = float(qualities.min()), float(qualities.max())
    margin = 0.05 * (top - bottom) or 0.05
    return x_axis, _Axis(bottom - margin, top + margin, _BOTTOM, _TOP, top, intervals=9)


def _draw_frame(scene: Scene, x_axis: _Axis, y_axis: _Axis, display: CostDisplay) -> None:
    for value in y_axis.ticks():
        y = y_axis.pixel(value)
        scene.lines.append(Line(((_LEFT, y), (_RIGHT, y)), FAINT, 1.0))
        scene.texts.append(Text(_LEFT - 10, y, f"{value:.2f}", MUTED, 14, "right"))
    scene.lines.append(Line(((_LEFT, _BOTTOM), (_RIGHT, _BOTTOM)), MUTED, 1.0))
    for value in x_axis.ticks():
        x = x_axis.pixel(value)
        scene.lines.append(Line(((x, _BOTTOM), (x, _BOTTOM + 5)), MUTED, 1.0))
        scene.texts.append(Text(x, _BOTTOM + 18, _tick(value, display), MUTED, 14, "center"))
    scale = " (log scale)" if x_axis.log else ""
    scene.texts.append(Text((_LEFT + _RIGHT) / 2, HEIGHT - 22, display.title + scale, INK, 15, "center"))
    scene.texts.append(Text(22, (_TOP + _BOTTOM) / 2, "Mean quality", INK, 15, "center", rotated=True))


def _tick(value: float, display: CostDisplay) -> str:
    shown = round(value * display.scale, 10)
    number_text = plain_number(shown) if abs(shown) >= 10_000 else f"{shown:g}"
    if display.prefix and len(number_text) == 3 and number_text.startswith("0."):
        number_text += "0"  # $0.20, not $0.2
    return f"{display.prefix}{number_text}{display.suffix}"


def _draw_heading(scene: Scene, result: EvaluationResult) -> None:
    learned = [r for r in result.routers.values() if r.kind == "router" and not math.isnan(r.aiq)]
    scene.texts.append(Text(_LEFT - 62, 32, f"Cost and quality on {result.data['name']}", INK, 24, bold=True))
    line = headline(result).partition(": ")[2]
    scene.texts.append(Text(_LEFT - 62, 64, line, MUTED, 15))
    if learned:
        best = max(learned, key=lambda router: router.aiq)
        gain = difference(best.intervals.get("aiq_minus_zero"))
        zero = result.routers["zero"].aiq
        gain = f", {gain} over the Zero router ({number(zero)})" if gain != "-" else f"; Zero router {number(zero)}"
        scene.texts.append(Text(_LEFT - 62, 86, f"{best.name}: AIQ {number(best.aiq)}{gain}", MUTED, 15))


def _draw_curve(
    scene: Scene, hull: Hull, x_axis: _Axis, y_axis: _Axis, *, colour: str, width: float, dash: tuple[float, ...]
) -> None:
    """Draw a hull, flat to the largest cost shown; its straight mixing lines bend on a logarithmic axis."""
    costs: list[float] = []
    for start, stop in itertools.pairwise(hull.cost.tolist()):
        costs += np.linspace(start, stop, 60 if x_axis.log else 2).tolist()
        if x_axis.log:
            costs += np.geomspace(start, stop, 60).tolist()
    dense = np.unique(np.array([*costs, *hull.cost.tolist(), x_axis.end]))
    qualities = np.interp(dense, hull.cost, hull.quality)
    points = tuple((x_axis.pixel(c), y_axis.pixel(q)) for c, q in zip(dense.tolist(), qualities.tolist(), strict=True))
    scene.lines.append(Line(points, colour, width, dash))


def _draw_points(scene: Scene, router: RouterResult, x_axis: _Axis, y_axis: _Axis) -> None:
    pairs = zip(router.curve.mean_cost.tolist(), router.curve.mean_quality.tolist(), strict=True)
    pixels = [(x_axis.pixel(cost), y_axis.pixel(quality)) for cost, quality in pairs]
    scene.positions[router.name] = pixels
    scene.marks.extend(Mark(x, y, "dot", scene.colours[router.name], 2.6) for x, y in dict.fromkeys(pixels))


def _draw_line_names(
    scene: Scene, result: EvaluationResult, learned: Sequence[RouterResult], x_axis: _Axis, y_axis: _Axis
) -> None:
    """Name the curves at their right ends, pushed apart where they end close together."""
    zero = result.routers["zero"]
    named = [(zero.name, "Zero router", zero, MUTED)]
    named += [(router.name, router.name, router, scene.colours[router.name]) for router in learned]
    named.sort(key=lambda entry: -entry[2].curve.hull.quality[-1])
    wanted = [y_axis.pixel(float(router.curve.hull.quality[-1])) for _, _, router, _ in named]
    for (_, title, router, colour), y, end in zip(
        named, _spread(wanted, min(36.0, (_BOTTOM - _TOP - 16) / len(wanted))), wanted, strict=True
    ):
        scene.lines.append(Line(((x_axis.pixel(x_axis.end) + 4, end), (_RIGHT + 12, y)), colour, 1.0))
        scene.texts.append(Text(_RIGHT + 17, y - 8, title, colour, 15, bold=True))
        scene.texts.append(Text(_RIGHT + 17, y + 9, f"AIQ {number(router.aiq, missing='undefined')}", colour, 13))


def _spread(wanted: Sequence[float], distance: float) -> list[float]:
    """Return positions near the wanted, ascending ones, at least `distance` apart and inside the plot."""
    placed: list[float] = []
    for position in wanted:
        placed.append(max(position, placed[-1] + distance) if placed else max(position, _TOP + 8))
    for index in range(len(placed) - 1, -1, -1):
        limit = _BOTTOM - 8 if index == len(placed) - 1 else placed[index + 1] - distance
        placed[index] = min(placed[index], limit)
    return placed


def _draw_models(scene: Scene, result: EvaluationResult, x_axis: _Axis, y_axis: _Axis) -> None:
    """Draw single models, the random choice and the oracle, and label them around the curves."""
    anchors: list[tuple[float, float, str]] = []

    def add(cost: float, quality: float, shape: str, colour: str, text: str) -> None:
        if x_axis.low <= cost <= x_axis.high and y_axis.low <= quality <= y_axis.high:
            x, y = x_axis.pixel(cost), y_axis.pixel(quality)
            scene.marks.append(Mark(x, y, shape, colour, 5.0))
            anchors.append((x, y, text))

    oracle, random = result.routers["oracle"].curve, result.routers["random"].curve
    add(float(oracle.mean_cost[0]), float(oracle.mean_quality[0]), "diamond", INK, "Oracle")
    for model, cost, quality in zip(result.models, result.model_cost, result.model_quality, strict=True):
        suffix = " (best single)" if model == result.best_single else ""
        add(float(cost), float(quality), "ring", MUTED, short_name(model) + suffix)
    add(float(random.mean_cost[0]), float(random.mean_quality[0]), "cross", MUTED, "random")
    obstacles = [box for line in scene.lines if line.width > 1 for box in _boxes(line)]
    obstacles += [(mark.x - 3, mark.y - 3, mark.x + 3, mark.y + 3) for mark in scene.marks if mark.shape == "dot"]
    labels = place_labels(
        anchors, bounds=(_LEFT, _TOP - 10, _RIGHT - 4, _BOTTOM - 4), font_size=13, obstacles=obstacles
    )
    for (x, y, _), label in zip(anchors, labels, strict=True):
        if label.moved:
            left, top, right, bottom = label.box
            near = (min(max(x, left), right), top + 1 if y < label.y else bottom - 1)
            scene.lines.append(Line(((x, y), near), "#b5b5b5", 0.8))
        colour = INK if label.text == "Oracle" else MUTED
        scene.texts.append(Text(label.x, label.y, label.text, colour, 13, label.align, halo=True))


def _boxes(line: Line) -> list[Box]:
    """Return small boxes along a line, for labels to avoid."""
    boxes = []
    for (x_a, y_a), (x_b, y_b) in itertools.pairwise(line.points):
        steps: FloatArray = np.linspace(0, 1, max(2, int(math.hypot(x_b - x_a, y_b - y_a) / 8)))
        for step in steps.tolist():
            x, y = x_a + step * (x_b - x_a), y_a + step * (y_b - y_a)
            boxes.append((x - 4, y - 4, x + 4, y + 4))
    return boxes
