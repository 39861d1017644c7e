"""The cost-quality plot as SVG with a legend that switches routers on and off, and the points for the script."""

from __future__ import annotations

import math
from html import escape
from typing import Any

from llmrouter.evaluation._axes import BOTTOM, RIGHT, TOP, log_possible, log_preferred
from llmrouter.evaluation._format import CONTENDERS, FEW, contenders, cost_display, number, share, short_name
from llmrouter.evaluation._labels import spread
from llmrouter.evaluation._page._html import key
from llmrouter.evaluation._page._leaderboard import KINDS
from llmrouter.evaluation._page._points import weight_text
from llmrouter.evaluation._result import EvaluationResult
from llmrouter.evaluation._scene import (
    HEIGHT,
    NAME_SIZE,
    NAME_STEP,
    WIDTH,
    Line,
    Mark,
    Scene,
    Series,
    Text,
    build_scene,
    name_order,
)

# The heading of the PNG is the page's own heading, so the plot begins below it.
_HEAD = TOP - 16
_MODELS_TOLD = 4


def make_scenes(result: EvaluationResult) -> dict[str, Scene]:
    """Return the scene of each cost axis that is possible, the better readable one first."""
    preferred = log_preferred(result)
    axes = [preferred] if not log_possible(result) else [preferred, not preferred]
    return {"log" if log else "linear": build_scene(result, log=log) for log in axes}


def figure(result: EvaluationResult, scenes: dict[str, Scene]) -> str:
    """Return the plots, one of them seen, and the tools that the script brings to life."""
    name = escape(str(result.data["name"]))
    plots = []
    for index, (axis, scene) in enumerate(scenes.items()):
        hidden = " hidden" if index else ""
        drawn = _svg(scene, title=f"Cost and quality on {name}, {axis} cost axis")
        plots.append(
            f'<div class="plot wide" data-axis="{axis}" tabindex="0" role="group" aria-label="Cost and quality; '
            f'arrow keys walk along a curve and from curve to curve"{hidden}>{drawn}</div>'
        )
    first = next(iter(scenes.values()))
    tip = '<div id="tip" role="status"></div>'
    note = _note(result)
    return f'<div id="figure">{_axis_tools(scenes)}{"".join(plots)}{tip}{_legend(first)}{note}</div>'


def _note(result: EvaluationResult) -> str:
    count = len(contenders(result))
    few = f" At first the {FEW} of the highest AIQ are in colour, the others grey." if count > FEW else ""
    told = "; dash and dot what knowing the task label gives" if "task-mean" in result.routers else ""
    return (
        '<p class="note">Lines: non-decreasing convex hulls; what lies between two operating points is reached by '
        "sending part of the prompts to each. Dots: operating points, one for each swept weight of cost. The dashed "
        f"line is the Zero router, the best mixture of single models; the dotted one the oracle{told}. Figures beside "
        f"the names: AIQ.{few} Point at the plot, or focus it and use the arrow keys, to read an operating point.</p>"
    )


def _axis_tools(scenes: dict[str, Scene]) -> str:
    if len(scenes) < 2:
        return ""
    first = next(iter(scenes))
    labels = "".join(
        f'<label><input type="radio" name="axis" value="{axis}"{" checked" if axis == first else ""}> {title}</label>'
        for axis, title in (("linear", "linear"), ("log", "logarithmic"))
    )
    return f'<fieldset class="tools" hidden><legend>Cost axis</legend>{labels}</fieldset>'


def ordered(scene: Scene) -> list[Series]:
    """Return the series as the legend lists them: contenders from the best on, then baselines and bounds."""
    rivals = [series for series in reversed(scene.series) if series.kind in CONTENDERS]
    return [*rivals, *(series for series in scene.series if series.kind not in CONTENDERS)]


def _legend(scene: Scene) -> str:
    fields: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for place, series in enumerate(ordered(scene)):
        reference = "contender" if series.kind in CONTENDERS else "reference"
        marks = f' data-kind="{reference}"' + (" data-few" if series.shown else "") + (" checked" * series.shown)
        fields[series.kind].append(
            f'<label><input type="checkbox" data-s="{place}"{marks}>{series_key(series)}'
            f"{escape(series.name)} <small>{escape(series.value)}</small></label>"
        )
    sets = [
        f'<fieldset class="tools" hidden><legend>{KINDS[kind][0]}</legend>{"".join(labels)}</fieldset>'
        for kind, labels in fields.items()
        if labels
    ]
    buttons = "".join(
        f'<button type="button" data-show="{value}">{title}</button>'
        for value, title in (("few", "best few"), ("all", "all"), ("none", "none"))
    )
    ghosts = '<label><input type="checkbox" data-ghosts checked> the others in grey</label>'
    return f'<div class="tools" hidden><span class="title">Show</span>{buttons}{ghosts}</div>{"".join(sets)}'


def series_key(series: Series) -> str:
    """Return the sample of a series: of its line, or of its mark where it has none."""
    if series.curve is not None:
        return key(series.colour, dash=series.curve.dash)
    return key(series.colour, shape=series.marks[0].shape if series.marks else "cross")


def _svg(scene: Scene, *, title: str) -> str:
    place = {series.name: index for index, series in enumerate(ordered(scene))}
    named = sorted((series for series in scene.series if series.named), key=name_order)
    spots = spread([series.anchor[1] for series in named], NAME_STEP, low=TOP + 8, high=BOTTOM - 8)
    heights = {series.name: y for series, y in zip(named, spots, strict=True)}
    frame = [*map(svg_line, scene.frame.lines), *map(svg_text, scene.frame.texts)]
    single = scene.models
    models = [*map(svg_line, single.lines), *map(svg_mark, single.marks), *map(svg_text, single.texts)]
    behind = [series for series in scene.series if not series.shown]
    front = [series for series in scene.series if series.shown]
    curves = [_svg_series(series, place[series.name], heights.get(series.name)) for series in [*behind, *front]]
    ring = '<circle class="ring" r="7" fill="none" stroke-width="2" visibility="hidden"/>'
    return (
        f'<svg viewBox="0 {_HEAD:g} {WIDTH:g} {HEIGHT - _HEAD:g}" role="img" '
        f'aria-label="{title}"><g>{"".join(frame)}</g><g>{"".join(curves)}</g><g pointer-events="none">'
        f"{''.join(models)}</g>{ring}</svg>"
    )


def _svg_series(series: Series, place: int, height: float | None) -> str:
    parts = [] if series.curve is None else [svg_line(series.curve, css="line")]
    dots = [mark for mark in series.marks if mark.shape == "dot"]
    if dots:
        path = "".join(f"M{mark.x:g} {mark.y:g}h0" for mark in dots)
        parts.append(
            f'<path class="mark" d="{path}" stroke="{series.colour}" stroke-width="5.2" stroke-linecap="round"/>'
        )
    parts += [f'<g class="mark">{svg_mark(mark)}</g>' for mark in series.marks if mark.shape != "dot"]
    if series.curve is not None:
        x, y = series.anchor
        spot = y if height is None else height
        title = Text(RIGHT + 17, spot, series.title, series.colour, NAME_SIZE, bold=True)
        value = Text(WIDTH - 4, spot, series.value, series.colour, NAME_SIZE, "right")
        parts.append(
            f'<g class="name" data-y="{y:.1f}"><line x1="{x:.1f}" y1="{y:.1f}" x2="{RIGHT + 12:.1f}" y2="{spot:.1f}" '
            f'stroke="{series.colour}"/>{svg_text(title)}{svg_text(value)}</g>'
        )
    off = "" if series.shown else " off"
    return f'<g class="s{off}" data-s="{place}">{"".join(parts)}</g>'


def svg_line(line: Line, *, css: str = "") -> str:
    """Return a polyline."""
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in line.points)
    dash = f' stroke-dasharray="{" ".join(f"{length:g}" for length in line.dash)}"' if line.dash else ""
    kind = f' class="{css}"' if css else ""
    return (
        f'<polyline{kind} points="{points}" fill="none" stroke="{line.colour}" stroke-width="{line.width:g}" '
        f'stroke-linejoin="round"{dash}/>'
    )


def svg_mark(mark: Mark) -> str:
    """Return a mark."""
    x, y, size = mark.x, mark.y, mark.size
    if mark.shape == "dot":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size:g}" fill="{mark.colour}"/>'
    if mark.shape == "ring":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size:g}" fill="#fff" stroke="{mark.colour}" stroke-width="1.6"/>'
    if mark.shape == "diamond":
        reach = size * math.sqrt(2)
        path = f"M{x:.1f} {y - reach:.1f}l{reach:g} {reach:g}l-{reach:g} {reach:g}l-{reach:g} -{reach:g}z"
        return f'<path d="{path}" fill="{mark.colour}"/>'
    if mark.shape == "square":
        corner, side = f'x="{x - size:.1f}" y="{y - size:.1f}"', f"{2 * size:g}"
        return f'<rect {corner} width="{side}" height="{side}" fill="{mark.colour}"/>'
    path = f"M{x - size:.1f} {y - size:.1f}l{2 * size:g} {2 * size:g}m0 -{2 * size:g}l-{2 * size:g} {2 * size:g}"
    return f'<path d="{path}" stroke="{mark.colour}" stroke-width="1.6" fill="none"/>'


def svg_text(text: Text) -> str:
    """Return a text, escaped."""
    anchor = {"left": "start", "center": "middle", "right": "end"}[text.align]
    weight = ' font-weight="bold"' if text.bold else ""
    turn = f' transform="rotate(-90 {text.x:.1f} {text.y:.1f})"' if text.rotated else ""
    halo = ' stroke="#fff" stroke-width="3" paint-order="stroke" stroke-linejoin="round"' if text.halo else ""
    return (
        f'<text x="{text.x:.1f}" y="{text.y:.1f}" dy="0.35em" font-size="{text.size:g}" fill="{text.colour}" '
        f'text-anchor="{anchor}"{weight}{halo}{turn}>{escape(text.text)}</text>'
    )


def hover_points(result: EvaluationResult, scenes: dict[str, Scene]) -> dict[str, Any]:
    """Return what the script needs: for each series its points as text, and their pixels on each axis."""
    display = cost_display(result)
    orders = {axis: ordered(scene) for axis, scene in scenes.items()}
    routers: list[dict[str, Any]] = []
    pixels: dict[str, list[list[list[float]]]] = {axis: [] for axis in orders}
    for place, series in enumerate(next(iter(orders.values()))):
        router = result.routers[series.name]
        points = []
        for index, _, _ in series.points:
            shares = router.curve.shares(index, models=len(result.models))
            told = [
                [column, share(float(shares[column]))]
                for column in shares.argsort()[::-1][:_MODELS_TOLD].tolist()
                if shares[column] > 0
            ]
            quality = number(float(router.curve.mean_quality[index]))
            cost = display.text(float(router.curve.mean_cost[index]))
            points.append([weight_text(router, index, result), quality, cost, told])
        routers.append({"name": series.name, "colour": series.colour, "points": points})
        for axis, order in orders.items():
            pixels[axis].append([[round(x, 1), round(y, 1)] for _, x, y in order[place].points])
    return {
        "routers": routers,
        "models": [short_name(model) for model in result.models],
        "axes": pixels,
        "names": {"low": TOP + 8, "high": BOTTOM - 8, "step": NAME_STEP},
    }
