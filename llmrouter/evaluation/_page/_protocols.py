"""The sections of protocol results: new models, learning curves, held-out tasks, random splits, missing outcomes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from llmrouter.evaluation._format import number
from llmrouter.evaluation._page._charts import Track, line_chart
from llmrouter.evaluation._page._html import bullets, folded, key, section, table, tint
from llmrouter.evaluation._protocol_result import Cell, ProtocolResult
from llmrouter.evaluation._result import EvaluationResult
from llmrouter.evaluation._scene import COLOURS

_TITLES = {
    "new-models": "New models",
    "learning-curve": "Learning curves",
    "ood": "Out of distribution",
    "splits": "Random splits",
    "missing": "Missing outcomes",
}
_TEXTS = {
    "new-models": "Some models are hidden in training and then added from a few scored prompts, nothing else being "
    "refitted. Share of the gain: 0 is the router without them, 1 the router that had them in training from the start.",
    "learning-curve": "Trained on fewer prompts, tested on the same test prompts. A curve that still rises at its "
    "right end wants more data, a flat one a better method.",
    "ood": "Trained on the other tasks, tested on the test prompts of the held-out ones. Lost: what training on all "
    "tasks has over that on the same prompts.",
    "splits": "Trained and tested on random splits of all prompts, the same ones for every router.",
    "missing": "Trained on a log in which each prompt was seen by some of the models only.",
}
_AXES = {"scored": "scored prompts", "train_prompts": "train prompts", "models_per_prompt": "models per train prompt"}
_FIGURES = {
    "aiq": "AIQ",
    "aiq_minus_zero": "AIQ minus Zero",
    "quality": "quality at cost weight 0",
    "quality_minus_best_single": "quality minus best single",
    "share_of_gain": "share of the AIQ gain",
    "aiq_lost": "AIQ lost",
    "quality_lost": "quality lost",
}
_CHARTED = {"new-models": ("share_of_gain", "aiq")}
_REFERENCES = ("zero", "best-single", "oracle")
# The reference drawn as a level beside each figure.
_LEVELS = {"aiq": ("zero", "Zero router"), "quality": ("best-single", "best single")}
_SHADED = ("aiq_minus_zero", "quality_minus_best_single")
_DASHES: tuple[tuple[float, ...], ...] = ((), (8.0, 4.0), (2.0, 3.0))


def protocol_sections(result: EvaluationResult, protocols: Sequence[ProtocolResult]) -> list[tuple[str, str, str]]:
    """Return (id, title, section) of each protocol result."""
    found = []
    for place, protocol in enumerate(protocols, start=1):
        title = _TITLES.get(protocol.protocol, protocol.protocol)
        name = protocol.data.get("name")
        if protocol.data.get("sha256") != result.data.get("sha256"):
            title += f" ({name or 'other data'})"
        identity = f"protocol-{place}"
        found.append((identity, title, section(identity, escape(title), _content(result, protocol))))
    return found


def _content(result: EvaluationResult, protocol: ProtocolResult) -> str:
    text = escape(_TEXTS.get(protocol.protocol, ""))
    parts = [f"<p>{text} Means over the draws; bars and ± are standard errors.</p>"]
    if protocol.data.get("sha256") != result.data.get("sha256"):
        parts.append("<p><b>Not the data of this page:</b> the table has another hash.</p>")
    axis = next((name for name in _AXES if any(name in cell.condition for cell in protocol.cells)), None)
    if axis is not None:
        parts.append(_charts(protocol, axis))
        parts.append(folded("The numbers", _tables(protocol)))
    else:
        parts.append(_tables(protocol))
    settings = "; ".join(f"{name}: {_text(value)}" for name, value in protocol.settings.items())
    parts.append(f'<p class="note">{escape(settings)}</p>')
    return "".join(parts) + bullets([escape(note) for note in protocol.notes])


def _figures(protocol: ProtocolResult) -> list[str]:
    return list(dict.fromkeys(cell.figure for cell in protocol.cells))


# charts


def _charts(protocol: ProtocolResult, axis: str) -> str:
    wanted = _CHARTED.get(protocol.protocol, ("aiq", "quality"))
    routers = [name for name in dict.fromkeys(cell.router for cell in protocol.cells) if name not in _REFERENCES]
    styles = {
        name: (COLOURS[place % len(COLOURS)], _DASHES[min(place // len(COLOURS), len(_DASHES) - 1)])
        for place, name in enumerate(routers)
    }
    drawn = [
        chart
        for figure in wanted
        if figure in _figures(protocol)
        for chart in [_chart(protocol, axis, figure=figure, styles=styles)]
        if chart
    ]
    if not drawn:
        return ""
    keys = "".join(f"<span>{key(colour, dash=dash)}{escape(name)}</span>" for name, (colour, dash) in styles.items())
    figures = "".join(f"<figure>{chart}</figure>" for chart in drawn)
    return f'<div class="swatches">{keys}</div><div class="grid">{figures}</div>'


def _chart(
    protocol: ProtocolResult, axis: str, *, figure: str, styles: Mapping[str, tuple[str, tuple[float, ...]]]
) -> str:
    cells = [cell for cell in protocol.cells if cell.figure == figure]
    tracks = []
    for name, (colour, dash) in styles.items():
        points = [
            (float(cell.condition[axis]), cell.mean, cell.standard_error)
            for cell in cells
            if cell.router == name and _is_number(cell.condition.get(axis))
        ]
        tracks.append(Track(name, colour, tuple(sorted(points)), dash))
    levels = _levels(protocol, cells, axis, figure=figure)
    return line_chart(tracks, x_title=_AXES[axis], y_title=_FIGURES.get(figure, figure), levels=levels)


def _levels(protocol: ProtocolResult, cells: Sequence[Cell], axis: str, *, figure: str) -> list[tuple[str, float]]:
    """Return the level lines: references of the largest condition, or the ends of a new-model curve."""
    if protocol.protocol == "new-models":
        if figure == "share_of_gain":
            return [("known from the start", 1.0), ("without the new models", 0.0)]
        routers = list(dict.fromkeys(cell.router for cell in cells))
        if len(routers) != 1:
            return []
        ends = {"all": "known from the start", 0: "without the new models"}
        by_condition = {cell.condition.get(axis): cell.mean for cell in cells}
        return [(text, by_condition[value]) for value, text in ends.items() if value in by_condition]
    name, title = _LEVELS.get(figure, ("", ""))
    own = [cell for cell in cells if cell.router == name]
    return [(title, max(own, key=lambda cell: float(cell.condition.get(axis, 0))).mean)] if own else []


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


# tables


def _tables(protocol: ProtocolResult) -> str:
    """Return one table: a row for each condition and router, a column for each figure."""
    figures = _figures(protocol)
    names = list(dict.fromkeys(name for cell in protocol.cells for name in cell.condition))
    rows: dict[tuple[tuple[str, ...], str], dict[str, Cell]] = {}
    for cell in protocol.cells:
        condition = tuple(_text(cell.condition.get(name)) for name in names)
        rows.setdefault((condition, cell.router), {})[cell.figure] = cell
    titles = [_AXES.get(name, name.replace("_", " ")) for name in names]
    header = [*map(escape, titles), "router", "draws", *(escape(_FIGURES.get(name, name)) for name in figures)]
    body = []
    before: tuple[str, ...] | None = None
    for (condition, router), cells in rows.items():
        told = [escape(text) if condition != before else "" for text in condition]
        before = condition
        draws = max(len(cell.values) for cell in cells.values())
        body.append([*told, escape(router), str(draws), *(_figure(cells.get(name), name) for name in figures)])
    return table(header, body, left=(len(names),))


def _figure(cell: Cell | None, name: str) -> str:
    if cell is None or math.isnan(cell.mean):
        return "-"
    error = cell.standard_error
    spread = "" if math.isnan(error) else f" <small>± {number(error)}</small>"
    signed = "minus" in name or "lost" in name
    mark = tint(cell.mean, full=0.1) if name in _SHADED else ""
    return f"<span{mark}>{number(cell.mean, signed=signed)}</span>{spread}"


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={item}" for name, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_text(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
