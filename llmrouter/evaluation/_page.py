"""The result as one self-contained HTML page: no request leaves it, and every text in it is escaped."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from html import escape
from typing import Any

from llmrouter.evaluation._format import cost_display, difference, findings, headline, number, share, short_name
from llmrouter.evaluation._result import EvaluationResult, RouterResult
from llmrouter.evaluation._scene import HEIGHT, WIDTH, Line, Mark, Scene, Text, build_scene

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, "DejaVu Sans", Verdana, sans-serif; color: #1a1a1a; background: #fff;
  max-width: 1200px; margin: 0 auto; padding: 24px; }
svg { width: 100%; height: auto; display: block; font-family: "DejaVu Sans", Verdana, sans-serif; }
h2 { font-size: 18px; margin: 32px 0 8px; }
table { border-collapse: collapse; font-size: 13.5px; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
th, td { padding: 5px 8px; text-align: right; border-bottom: 1px solid #e4e4e4; white-space: nowrap; }
th { font-weight: 600; color: #6b6b6b; border-bottom-color: #6b6b6b; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
td.prose, th.prose { text-align: left; white-space: normal; }
small { color: #6b6b6b; font-size: 12px; }
tr.group td { border-top: 1px solid #6b6b6b; }
p, li { max-width: 90ch; }
ul { padding-left: 20px; }
.key { display: inline-block; width: 10px; height: 10px; margin-right: 8px; border-radius: 5px; }
details { margin: 6px 0; } summary { cursor: pointer; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 16px; } dt { color: #6b6b6b; }
dd { margin: 0; overflow-wrap: anywhere; }
#figure { position: relative; }
#tip { position: absolute; display: none; pointer-events: none; background: #fff; border: 1px solid #6b6b6b;
  padding: 6px 10px; font-size: 13px; line-height: 1.4; white-space: pre; box-shadow: 0 1px 4px rgba(0,0,0,.15); }
"""

# Finds the operating point nearest to the pointer; writes text nodes only.
_SCRIPT = """
(() => {
  const points = JSON.parse(document.getElementById("points").textContent);
  const figure = document.getElementById("figure"), svg = figure.querySelector("svg");
  const tip = document.getElementById("tip"), ring = document.getElementById("ring");
  const hide = () => { tip.style.display = "none"; ring.setAttribute("visibility", "hidden"); };
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("pointermove", (event) => {
    const area = svg.getBoundingClientRect(), scale = svg.viewBox.baseVal.width / area.width;
    const x = (event.clientX - area.left) * scale, y = (event.clientY - area.top) * scale;
    let best = null, nearest = 30 * 30;
    for (const point of points) {
      const distance = (point.x - x) ** 2 + (point.y - y) ** 2;
      if (distance < nearest) { nearest = distance; best = point; }
    }
    if (!best) { hide(); return; }
    ring.setAttribute("cx", best.x); ring.setAttribute("cy", best.y);
    ring.setAttribute("stroke", best.colour); ring.setAttribute("visibility", "visible");
    tip.textContent = best.text; tip.style.display = "block";
    const left = best.x / scale + 14, top = best.y / scale + 14;
    tip.style.left = Math.min(left, area.width - tip.offsetWidth) + "px"; tip.style.top = top + "px";
  });
})();
"""


def render_page(result: EvaluationResult) -> str:
    """Return the page: plot with hover, table of routers, operating points, models, and how it was made."""
    scene = build_scene(result)
    name = escape(str(result.data["name"]))
    sections = [
        f'<div id="figure">{_svg(scene, title=f"Cost and quality on {name}")}<div id="tip"></div></div>',
        _bullets(findings(result)),
        "<h2>Routers</h2>",
        _routers_table(result, scene),
        _definitions(result),
        *_operating_points(result),
        "<h2>Models</h2>",
        _models_table(result),
        "<h2>How this was made</h2>",
        _provenance(result),
        f'<script type="application/json" id="points">{_json(_hover_points(result, scene))}</script>',
        f"<script>{_SCRIPT}</script>",
    ]
    policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Evaluation on {name}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(sections)
        + "\n</body>\n</html>\n"
    )


def _json(value: Any) -> str:
    """Return JSON that cannot end its script element."""
    return json.dumps(value).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _svg(scene: Scene, *, title: str) -> str:
    parts = [*map(_svg_line, scene.lines), *map(_svg_mark, scene.marks), *map(_svg_text, scene.texts)]
    ring = '<circle id="ring" r="7" fill="none" stroke-width="2" visibility="hidden"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" '
        f'aria-label="{title}">{"".join(parts)}{ring}</svg>'
    )


def _svg_line(line: Line) -> str:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in line.points)
    dash = f' stroke-dasharray="{" ".join(f"{length:g}" for length in line.dash)}"' if line.dash else ""
    return (
        f'<polyline points="{points}" fill="none" stroke="{line.colour}" stroke-width="{line.width:g}" '
        f'stroke-linejoin="round"{dash}/>'
    )


def _svg_mark(mark: Mark) -> str:
    x, y, size = mark.x, mark.y, mark.size
    if mark.shape == "dot":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size:g}" fill="{mark.colour}"/>'
    if mark.shape == "ring":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size:g}" fill="#fff" stroke="{mark.colour}" stroke-width="1.6"/>'
    if mark.shape == "diamond":
        reach = size * math.sqrt(2)
        path = f"M{x:.1f} {y - reach:.1f}l{reach:g} {reach:g}l-{reach:g} {reach:g}l-{reach:g} -{reach:g}z"
        return f'<path d="{path}" fill="{mark.colour}"/>'
    path = f"M{x - size:.1f} {y - size:.1f}l{2 * size:g} {2 * size:g}m0 -{2 * size:g}l-{2 * size:g} {2 * size:g}"
    return f'<path d="{path}" stroke="{mark.colour}" stroke-width="1.6" fill="none"/>'


def _svg_text(text: Text) -> str:
    anchor = {"left": "start", "center": "middle", "right": "end"}[text.align]
    weight = ' font-weight="bold"' if text.bold else ""
    turn = f' transform="rotate(-90 {text.x:.1f} {text.y:.1f})"' if text.rotated else ""
    halo = ' stroke="#fff" stroke-width="3" paint-order="stroke" stroke-linejoin="round"' if text.halo else ""
    return (
        f'<text x="{text.x:.1f}" y="{text.y:.1f}" dy="0.35em" font-size="{text.size:g}" fill="{text.colour}" '
        f'text-anchor="{anchor}"{weight}{halo}{turn}>{escape(text.text)}</text>'
    )


def _hover_points(result: EvaluationResult, scene: Scene) -> list[dict[str, Any]]:
    display = cost_display(result)
    scale = result.reference_cost if result.reference_cost > 0 else 1.0
    points = []
    for name, positions in scene.positions.items():
        curve = result.routers[name].curve
        for index, (x, y) in enumerate(positions):
            weight = float(curve.weights[index]) * scale
            lines = [
                name,
                f"cost weight  {weight:.3g}" if math.isfinite(weight) else "everything to the cheapest model",
                f"quality      {curve.mean_quality[index]:.4f}",
                f"cost         {display.text(float(curve.mean_cost[index]))}",
            ]
            shares = curve.shares(index, models=len(result.models))
            lines += [
                f"{share(float(shares[model])):>6}  {short_name(result.models[model])}"
                for model in shares.argsort()[::-1][:4].tolist()
                if shares[model] > 0
            ]
            points.append({"x": round(x, 1), "y": round(y, 1), "colour": scene.colours[name], "text": "\n".join(lines)})
    return points


def _table(header: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]], *, prose: bool = False) -> str:
    """Return a table of HTML cells; each row has a class. With `prose` the last column is running text."""
    css_of = [""] * len(header)
    if prose:
        css_of[-1] = ' class="prose"'
    head = "".join(f"<th{css}>{cell}</th>" for css, cell in zip(css_of, header, strict=True))
    lines = []
    for row_css, cells in rows:
        line = "".join(f"<td{css}>{cell}</td>" for css, cell in zip(css_of, cells, strict=True))
        lines.append(f'<tr class="{row_css}">{line}</tr>')
    body = "".join(lines)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _routers_table(result: EvaluationResult, scene: Scene) -> str:
    level = f"{100 * result.settings['level']:g}%"
    header = ["Router", "AIQ", f"minus Zero <small>[{level}]</small>", f"minus best single <small>[{level}]</small>"]
    header += ["AIQ (code)", "QNC", "Peak quality", "at cost", "Fit, s", "Decide, &micro;s"]
    rows = []
    kind = ""
    for router in result.routers.values():
        rows.append(("group" if kind and router.kind != kind else "", _router_cells(router, result, scene)))
        kind = router.kind
    return _table(header, rows)


def _router_cells(router: RouterResult, result: EvaluationResult, scene: Scene) -> list[str]:
    colour = scene.colours.get(router.name)
    key = f'<span class="key" style="background:{colour}"></span>' if colour else ""
    detail = ", ".join(f"{name}={value}" for name, value in router.parameters.items()) if router.tuning else ""
    if router.kind == "baseline":
        detail = short_name({"best-single": result.best_single, "cheapest": result.cheapest}.get(router.name, ""))
    return [
        f"{key}{escape(router.name)} <small>{escape(detail)}</small>",
        number(router.aiq),
        _small_interval(difference(router.intervals.get("aiq_minus_zero"))),
        _small_interval(difference(router.intervals.get("aiq_minus_best_single"))),
        number(router.aiq_code),
        share(router.qnc),
        number(router.peak_quality),
        escape(cost_display(result).text(router.peak_cost)),
        number(router.fit_s, digits=2),
        number(router.decide_us, digits=0),
    ]


def _small_interval(text: str) -> str:
    estimate, bracket, ends = escape(text).partition(" [")
    return f"{estimate} <small>[{ends}</small>" if bracket else estimate


def _definitions(result: EvaluationResult) -> str:
    display = cost_display(result)
    low, high = (escape(display.text(cost)) for cost in result.cost_interval)
    return (
        f"<p>AIQ: mean height of the non-decreasing convex hull of (cost, quality) between {low} and {high}, the cost "
        "range of the Zero router (mixtures of single models) on these prompts; the same range for all. AIQ (code): as "
        "RouterBench's released code computes it; not comparable with AIQ. QNC: cost of matching the most accurate "
        "model, as a share of its cost. Peak: best point of the sweep, in hindsight. Intervals: paired bootstrap over "
        "the test prompts. The oracle knows every outcome. Decide: estimating quality and cost in batches, without "
        "encoding the prompt.</p>"
    )


def _operating_points(result: EvaluationResult) -> list[str]:
    """Return one folded table a learned router: what some cost weights cost, achieve, and use."""
    display = cost_display(result)
    parts = []
    for router in result.routers.values():
        if router.kind != "router":
            continue
        rows = []
        for point in router.operating_points:
            used = sorted(point.shares.items(), key=lambda entry: -entry[1])
            shares = ", ".join(f"{short_name(model)} {share(part)}" for model, part in used if part > 0)
            weight = f"{point.cost_weight:.3g}" if math.isfinite(point.cost_weight) else "all to the cheapest"
            rows.append(("", [weight, number(point.quality), escape(display.text(point.cost)), escape(shares)]))
        header = ["Cost weight", "Quality", "Cost", "Share of the prompts"]
        parts.append(f"<details><summary>{escape(router.name)}</summary>{_table(header, rows, prose=True)}</details>")
    return ["<h2>Operating points</h2>", *parts] if parts else []


def _models_table(result: EvaluationResult) -> str:
    display = cost_display(result)
    order = sorted(range(len(result.models)), key=lambda column: -result.model_quality[column])
    rows = [
        (
            "",
            [
                escape(result.models[column]) + (" <small>best single</small>" * is_best),
                number(float(result.model_quality[column])),
                escape(display.text(float(result.model_cost[column]))),
            ],
        )
        for column in order
        for is_best in [result.models[column] == result.best_single]
    ]
    return _table(["Model", "Mean quality", "Mean cost"], rows)


def _provenance(result: EvaluationResult) -> str:
    facts: dict[str, Any] = {
        "data": headline(result),
        "data sha256": result.data["sha256"],
        **result.settings,
        **{name: value for name, value in result.versions.items() if value is not None},
    }
    listed = "".join(f"<dt>{escape(str(name))}</dt><dd>{escape(str(value))}</dd>" for name, value in facts.items())
    notes = dict.fromkeys([*result.notes, *(note for router in result.routers.values() for note in router.notes)])
    return f"<dl>{listed}</dl>{_bullets(list(notes))}"


def _bullets(sentences: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f"<ul>{items}</ul>" if items else ""
