"""The cost-quality plot as lines, marks and texts in pixels; `_plot` draws them as PNG, the page as SVG.

Drawing our own scene keeps both pictures the same and lets labels be placed so that they do not cover each other. Every
router is a `Series` of its own, so that the page can switch it on and off; of many routers the best few are drawn in
colour and named, the others thin and grey.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from llmrouter.evaluation._axes import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    Axis,
    hull_pixels,
    log_preferred,
    make_axes,
    tick_text,
)
from llmrouter.evaluation._format import (
    CONTENDERS,
    FEW,
    CostDisplay,
    contenders,
    cost_display,
    difference,
    headline,
    number,
    short_name,
)
from llmrouter.evaluation._labels import Box, place_labels, spread, text_width
from llmrouter.evaluation._result import EvaluationResult, RouterResult
from llmrouter.types import FloatArray

WIDTH, HEIGHT = 1200.0, 760.0

INK, MUTED, FAINT, GHOST = "#1a1a1a", "#6b6b6b", "#e4e4e4", "#cdcdcd"
# Okabe and Ito's colours, told apart with every common colour vision; further routers take dashes beside them.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_DASHES: tuple[tuple[float, ...], ...] = ((), (9.0, 4.0), (2.5, 3.0), (10.0, 3.0, 2.0, 3.0))
# Colour, width and dashes of the bounds that are shown at first, and of the others.
_BOUNDS: dict[str, tuple[str, float, tuple[float, ...]]] = {
    "zero": (MUTED, 1.8, (6.0, 4.0)),
    "oracle": (INK, 1.2, (1.5, 3.5)),
    "task-mean": (MUTED, 1.4, (9.0, 3.0, 2.0, 3.0)),
}
_OTHER_BOUND: tuple[str, float, tuple[float, ...]] = (MUTED, 1.2, (3.0, 3.0))
_TITLES = {"zero": "Zero router", "oracle": "Oracle", "task-mean": "Task mean"}
NAME_SIZE = 14.0
NAME_STEP = 19.0


@dataclass(frozen=True)
class Line:
    """A polyline; `dash` is a pair of lengths or empty."""

    points: tuple[tuple[float, float], ...]
    colour: str
    width: float
    dash: tuple[float, ...] = ()


@dataclass(frozen=True)
class Mark:
    """A mark: `shape` is ``dot``, ``ring``, ``diamond``, ``square`` or ``cross``."""

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
class Layer:
    """Things drawn together, lines below marks below texts."""

    lines: list[Line] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)


@dataclass(frozen=True)
class Series:
    """One router, baseline or bound.

    Attributes
    ----------
    name, kind : str
        Of the result.
    colour : str
        Of everything that belongs to it.
    shown : bool
        Drawn in colour and named; else thin and grey.
    curve : Line or None
        Its hull.
    marks : tuple of Mark
        Its operating points.
    title, value : str
        Its name beside the plot, cut to the room there, and its AIQ.
    anchor : (x, y)
        Where its curve ends, which the name points at.
    points : tuple of (index, x, y)
        Operating points inside the plot without repetition: index on the result's curve, pixels.
    """

    name: str
    kind: str
    colour: str
    shown: bool
    curve: Line | None
    marks: tuple[Mark, ...]
    title: str
    value: str
    anchor: tuple[float, float]
    points: tuple[tuple[int, float, float], ...]

    @property
    def named(self) -> bool:
        """Whether its name stands beside the plot: a curve that is shown."""
        return self.shown and self.curve is not None


@dataclass(frozen=True)
class Scene:
    """What to draw: the frame, the series from back to front, the models, the names beside the plot, the heading."""

    frame: Layer = field(default_factory=Layer)
    series: list[Series] = field(default_factory=list)
    models: Layer = field(default_factory=Layer)
    names: Layer = field(default_factory=Layer)
    heading: Layer = field(default_factory=Layer)

    @property
    def lines(self) -> list[Line]:
        """All lines of the still picture, back to front."""
        ghosts = [Line(s.curve.points, GHOST, 1.1) for s in self.series if s.curve and not s.shown]
        shown = [s.curve for s in self.series if s.curve and s.shown]
        return [*self.frame.lines, *ghosts, *shown, *self.names.lines, *self.models.lines]

    @property
    def marks(self) -> list[Mark]:
        """All marks of the still picture, back to front."""
        return [*(mark for series in self.series if series.shown for mark in series.marks), *self.models.marks]

    @property
    def texts(self) -> list[Text]:
        """All texts of the still picture."""
        return [*self.frame.texts, *self.names.texts, *self.models.texts, *self.heading.texts]


def build_scene(result: EvaluationResult, *, log: bool | None = None) -> Scene:
    """Return the drawing of an evaluation; `log` asks for a logarithmic cost axis, None for the better readable one."""
    scene = Scene()
    x_axis, y_axis = make_axes(result, log=log_preferred(result) if log is None else log)
    _draw_frame(scene.frame, x_axis, y_axis, cost_display(result))
    _draw_heading(scene.heading, result)
    ranked = contenders(result)
    references = [router for router in result.routers.values() if router.kind not in CONTENDERS]
    scene.series.extend(_reference_series(router, x_axis, y_axis) for router in references)
    placed = [_contender_series(router, rank, x_axis, y_axis) for rank, router in enumerate(ranked)]
    scene.series.extend(reversed(placed))  # the best on top
    _draw_names(scene)
    _draw_models(scene, result, x_axis, y_axis)
    return scene


def _draw_frame(layer: Layer, x_axis: Axis, y_axis: Axis, display: CostDisplay) -> None:
    for value in y_axis.ticks():
        y = y_axis.pixel(value)
        layer.lines.append(Line(((LEFT, y), (RIGHT, y)), FAINT, 1.0))
        layer.texts.append(Text(LEFT - 10, y, f"{value:.2f}", MUTED, 14, "right"))
    layer.lines.append(Line(((LEFT, BOTTOM), (RIGHT, BOTTOM)), MUTED, 1.0))
    for value in x_axis.ticks():
        x = x_axis.pixel(value)
        layer.lines.append(Line(((x, BOTTOM), (x, BOTTOM + 5)), MUTED, 1.0))
        layer.texts.append(Text(x, BOTTOM + 18, tick_text(value, display), MUTED, 14, "center"))
    scale = " (log scale)" if x_axis.log else ""
    layer.texts.append(Text((LEFT + RIGHT) / 2, HEIGHT - 22, display.title + scale, INK, 15, "center"))
    layer.texts.append(Text(22, (TOP + BOTTOM) / 2, "Mean quality", INK, 15, "center", rotated=True))


def _draw_heading(layer: Layer, result: EvaluationResult) -> None:
    layer.texts.append(Text(LEFT - 62, 32, f"Cost and quality on {result.data['name']}", INK, 24, bold=True))
    ranked = contenders(result)
    line = headline(result).partition(": ")[2]
    if len(ranked) > FEW:
        line += f"; the {FEW} best of {len(ranked)} routers in colour, the others grey"
    layer.texts.append(Text(LEFT - 62, 64, line, MUTED, 15))
    if ranked and not math.isnan(ranked[0].aiq):
        best = ranked[0]
        gain = difference(best.intervals.get("aiq_minus_zero"))
        zero = result.routers["zero"].aiq
        gain = f", {gain} over the Zero router ({number(zero)})" if gain != "-" else f"; Zero router {number(zero)}"
        layer.texts.append(Text(LEFT - 62, 86, f"{best.name}: AIQ {number(best.aiq)}{gain}", MUTED, 15))


def _contender_series(router: RouterResult, rank: int, x_axis: Axis, y_axis: Axis) -> Series:
    dash = _DASHES[min(rank // len(COLOURS), len(_DASHES) - 1)]
    colour = COLOURS[rank % len(COLOURS)]
    points = _operating_points(router, x_axis, y_axis)
    return Series(
        name=router.name,
        kind=router.kind,
        colour=colour,
        shown=rank < FEW,
        curve=Line(hull_pixels(router.curve.hull, x_axis, y_axis), colour, 2.6, dash),
        marks=tuple(Mark(x, y, "dot", colour, 2.6) for _, x, y in points),
        title=_cut(router.name, router.aiq),
        value=number(router.aiq, missing=""),
        anchor=_end_of(router, x_axis, y_axis),
        points=points,
    )


def _reference_series(router: RouterResult, x_axis: Axis, y_axis: Axis) -> Series:
    """Return a baseline or bound: a baseline is one mark, a bound a curve, and the oracle both."""
    curve = None
    if router.kind == "bound":
        colour, width, dash = _BOUNDS.get(router.name, _OTHER_BOUND)
        curve = Line(hull_pixels(router.curve.hull, x_axis, y_axis), colour, width, dash)
    shape = {"oracle": "diamond", "random": "cross"}.get(router.name, "square")
    points = () if router.name == "zero" else _operating_points(router, x_axis, y_axis)
    if router.kind != "bound":
        points = points[:1]  # a baseline's curve also holds the cheapest model
    colour = INK if router.name in ("oracle", "best-single") else MUTED
    marked = points[:1] if curve is None or router.name == "oracle" else ()
    return Series(
        name=router.name,
        kind=router.kind,
        colour=colour,
        shown=router.kind != "bound" or router.name in _BOUNDS,
        curve=curve,
        marks=tuple(Mark(x, y, shape, colour, 5.0) for _, x, y in marked),
        title=_TITLES.get(router.name, _cut(router.name, router.aiq)),
        value=number(router.aiq, missing=""),
        anchor=_end_of(router, x_axis, y_axis),
        points=points,
    )


def _operating_points(router: RouterResult, x_axis: Axis, y_axis: Axis) -> tuple[tuple[int, float, float], ...]:
    found: dict[tuple[float, float], int] = {}
    pairs = zip(router.curve.mean_cost.tolist(), router.curve.mean_quality.tolist(), strict=True)
    for index, (cost, quality) in enumerate(pairs):
        if x_axis.holds(cost) and y_axis.holds(quality):
            found.setdefault((cost, quality), index)
    return tuple((index, x_axis.pixel(cost), y_axis.pixel(quality)) for (cost, quality), index in found.items())


def _end_of(router: RouterResult, x_axis: Axis, y_axis: Axis) -> tuple[float, float]:
    return (x_axis.pixel(x_axis.end) + 4, y_axis.pixel(float(router.curve.hull.quality[-1])))


def _cut(name: str, value: float) -> str:
    """Return a name that fits beside the plot together with its figure."""
    room = WIDTH - RIGHT - 22 - (0 if math.isnan(value) else text_width(" 0.0000", NAME_SIZE))
    most = int(room / text_width("x", NAME_SIZE))
    return name if len(name) <= most else name[: most - 1] + "…"


def name_order(series: Series) -> tuple[int, float]:
    """Return the key by which names stand beside the plot: from top to bottom, of equal ends the higher AIQ first."""
    return (round(series.anchor[1]), -float(series.value or 0))


def _draw_names(scene: Scene) -> None:
    """Name the shown curves at their right ends, pushed apart where they end close together."""
    named = sorted((series for series in scene.series if series.named), key=name_order)
    places = spread([series.anchor[1] for series in named], NAME_STEP, low=TOP + 8, high=BOTTOM - 8)
    scene.frame.texts.append(Text(WIDTH - 4, TOP - 8, "AIQ", MUTED, 12, "right"))
    for series, y in zip(named, places, strict=True):
        scene.names.lines.append(Line((series.anchor, (RIGHT + 12, y)), series.colour, 1.0))
        scene.names.texts.append(Text(RIGHT + 17, y, series.title, series.colour, NAME_SIZE, bold=True))
        scene.names.texts.append(Text(WIDTH - 4, y, series.value, series.colour, NAME_SIZE, "right"))


def _draw_models(scene: Scene, result: EvaluationResult, x_axis: Axis, y_axis: Axis) -> None:
    """Draw single models, and label them, the random choice and the oracle around the curves."""
    layer = scene.models
    anchors: list[tuple[float, float, str]] = []
    for series in scene.series:
        if series.name in ("oracle", "random"):
            anchors += [(mark.x, mark.y, series.title) for mark in series.marks]
    for model, cost, quality in zip(result.models, result.model_cost, result.model_quality, strict=True):
        if x_axis.holds(float(cost)) and y_axis.holds(float(quality)):
            x, y = x_axis.pixel(float(cost)), y_axis.pixel(float(quality))
            if model != result.best_single:  # the best single model has its baseline's mark
                layer.marks.append(Mark(x, y, "ring", MUTED, 5.0))
            anchors.append((x, y, short_name(model) + (" (best single)" if model == result.best_single else "")))
    obstacles = [box for series in scene.series if series.named and series.curve for box in _boxes(series.curve)]
    dots = [mark for series in scene.series if series.shown for mark in series.marks if mark.shape == "dot"]
    obstacles += [(mark.x - 3, mark.y - 3, mark.x + 3, mark.y + 3) for mark in dots]
    labels = place_labels(anchors, bounds=(LEFT, TOP - 10, RIGHT - 4, BOTTOM - 4), font_size=13, obstacles=obstacles)
    for (x, y, _), label in zip(anchors, labels, strict=True):
        if label.moved:
            left, top, right, bottom = label.box
            near = (min(max(x, left), right), top + 1 if y < label.y else bottom - 1)
            layer.lines.append(Line(((x, y), near), "#b5b5b5", 0.8))
        colour = INK if label.text == "Oracle" or label.text.endswith("(best single)") else MUTED
        layer.texts.append(Text(label.x, label.y, label.text, colour, 13, label.align, halo=True))


def _boxes(line: Line) -> Sequence[Box]:
    """Return small boxes along a line, for labels to avoid."""
    boxes = []
    for (x_a, y_a), (x_b, y_b) in itertools.pairwise(line.points):
        steps: FloatArray = np.linspace(0, 1, max(2, int(math.hypot(x_b - x_a, y_b - y_a) / 8)))
        for step in steps.tolist():
            x, y = x_a + step * (x_b - x_a), y_a + step * (y_b - y_a)
            boxes.append((x - 4, y - 4, x + 4, y + 4))
    return boxes
