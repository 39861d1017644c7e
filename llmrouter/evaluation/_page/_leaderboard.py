"""The leaderboard: every router, baseline and bound with every figure; columns fold, rows sort within their kind."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from html import escape

from llmrouter.evaluation._format import CONTENDERS, cost_display, difference, number, plain_number, share, short_name
from llmrouter.evaluation._page._columns import GROUPS, Column, columns_for
from llmrouter.evaluation._page._html import folded, scrolling
from llmrouter.evaluation._result import EvaluationResult, RouterResult

KINDS = {
    "router": ("Routers", "estimate the quality and cost of every model; the policy chooses"),
    "policy": ("Policies", "choose from a router's estimates by another rule"),
    "flow": ("Flows", "may call several models for one prompt"),
    "baseline": ("Baselines", "do not read the prompt"),
    "bound": ("Bounds", "know what no router is told; nothing that could be deployed"),
}
_LONG = 36
# Where more than so many share the best figure, none stands out.
_MOST_TIED = 3


def leaderboard(result: EvaluationResult, *, samples: Mapping[str, str]) -> str:
    """Return the table, its tools, the definitions and what is undefined; `samples` are legend keys as HTML."""
    columns = columns_for(result.routers.values())
    level = f"{100 * result.settings['level']:g}%"
    best = _best_values(columns, [router for router in result.routers.values() if router.kind in CONTENDERS])
    bodies = []
    for kind, (title, _) in KINDS.items():
        rows = sorted(
            (router for router in result.routers.values() if router.kind == kind),
            key=lambda router: (math.isnan(router.aiq), 0.0 if math.isnan(router.aiq) else -router.aiq),
        )
        if rows:
            lines = "".join(_row(router, result, columns, samples=samples, best=best) for router in rows)
            bodies.append(
                f'<tbody><tr class="kind"><th class="first" scope="rowgroup">{title}</th></tr>{lines}</tbody>'
            )
    head = _head(columns, level)
    return (
        _tools(columns)
        + scrolling(f'<table class="board" id="board">{head}{"".join(bodies)}</table>')
        + f'<p class="note">{_legend(result, level)}</p>'
        + folded("Definitions and sources", _definitions(result, columns))
        + _undefined(result, columns)
    )


def group_rules() -> str:
    """Return the style rules that fold groups of columns."""
    return "\n".join(f".off-{group.identity} .g-{group.identity} {{ display: none; }}" for group in GROUPS)


def _grouped(columns: Sequence[Column]) -> list[tuple[str, list[Column]]]:
    return [(group, list(inside)) for group, inside in itertools.groupby(columns, key=lambda column: column.group)]


def _tools(columns: Sequence[Column]) -> str:
    titles = {group.identity: group for group in GROUPS}
    labels = []
    for identity, inside in _grouped(columns):
        group = titles[identity]
        checked = " checked" if group.open else ""
        labels.append(
            f'<label><input type="checkbox" data-group="{identity}"{checked}> {group.title} '
            f"<small>{len(inside)}</small></label>"
        )
    return f'<fieldset class="tools" hidden><legend>Columns</legend>{"".join(labels)}</fieldset>'


def _head(columns: Sequence[Column], level: str) -> str:
    titles = {group.identity: group.title for group in GROUPS}
    tops, heads = [], []
    place = 0
    for identity, inside in _grouped(columns):
        tops.append(f'<th class="g-{identity} edge" colspan="{len(inside)}" scope="colgroup">{titles[identity]}</th>')
        for index, column in enumerate(inside):
            place += 1
            edge = " edge" if index == 0 else ""
            first = "ascending" if column.better < 0 else "descending"
            order = "descending" if column.name == "aiq" else "none"
            interval = f" <small>[{level}]</small>" if column.interval else ""
            heads.append(
                f'<th scope="col" class="g-{identity}{edge}" aria-sort="{order}" data-column="{place}" '
                f'data-first="{first}"><button type="button" title="{escape(column.definition)}">{column.title}'
                f"{interval}</button></th>"
                if column.group != "other"
                else f'<th scope="col" class="g-other{edge}" aria-sort="none" data-column="{place}" '
                f'data-first="{first}"><button type="button">{escape(column.title)}</button></th>'
            )
    name = (
        '<th scope="col" class="first" aria-sort="none" data-column="0" data-first="ascending">'
        '<button type="button">Name</button></th>'
    )
    return f'<thead><tr><th class="first"></th>{"".join(tops)}</tr><tr>{name}{"".join(heads)}</tr></thead>'


def _best_values(columns: Sequence[Column], rivals: Sequence[RouterResult]) -> dict[str, str]:
    """Return the best figure of each column among what could be deployed, as written."""
    best = {}
    for column in columns:
        values = [column.value(router) for router in rivals if math.isfinite(column.value(router))]
        if len(values) > 1 and column.better:
            text = _plain(column, max(values) if column.better > 0 else min(values))
            if sum(_plain(column, value) == text for value in values) <= _MOST_TIED:
                best[column.name] = text
    return best


def _plain(column: Column, value: float) -> str:
    return f"{value:.3g}" if column.form in ("cost", "usd", "seconds", "microseconds") else f"{value:.4f}"


def _row(
    router: RouterResult,
    result: EvaluationResult,
    columns: Sequence[Column],
    *,
    samples: Mapping[str, str],
    best: Mapping[str, str],
) -> str:
    sample = samples.get(router.name, "")
    detail = ", ".join(f"{name}={value}" for name, value in router.parameters.items()) if router.tuning else ""
    if router.kind == "baseline":
        detail = short_name({"best-single": result.best_single, "cheapest": result.cheapest}.get(router.name, ""))
    if len(detail) > _LONG:
        detail = "tuned on train"
    name = (
        f'<th class="first" scope="row" data-name="{escape(router.name)}">{sample}{escape(router.name)} '
        f"<small>{escape(detail)}</small></th>"
    )
    return f"<tr>{name}{''.join(_cells(router, result, columns, best))}</tr>"


def _cells(
    router: RouterResult, result: EvaluationResult, columns: Sequence[Column], best: Mapping[str, str]
) -> list[str]:
    cells, group = [], ""
    for column in columns:
        value = column.value(router)
        edge = " edge" if column.group != group else ""
        group = column.group
        text = escape(write(column, router, result))
        rival = router.kind in CONTENDERS and math.isfinite(value)
        if rival and column.better and _plain(column, value) == best.get(column.name):
            text = f"<b>{text}</b>"
        text += _ends(column, router)
        raw = "" if math.isnan(value) else "Infinity" if math.isinf(value) else repr(value)
        cells.append(f'<td class="g-{group}{edge}" data-v="{raw}">{text}</td>')
    return cells


def _ends(column: Column, router: RouterResult) -> str:
    """Return the ends of an interval as HTML, nothing where there is none."""
    bracket = difference(router.intervals.get(column.name)).partition(" [")[2] if column.interval else ""
    return f"<small>[{escape(bracket)}</small>" if bracket else ""


def write(column: Column, router: RouterResult, result: EvaluationResult) -> str:
    """Return a router's figure in a column as text, without its interval."""
    value = column.value(router)
    if column.interval:
        return number(value, signed=True)
    if column.form == "share":
        return share(value)
    if column.form == "cost":
        return cost_display(result).text(value)
    if column.form == "usd":
        return f"${plain_number(value)}" if math.isfinite(value) else number(value)
    digits = {"seconds": 2, "microseconds": 0}.get(column.form, 4)
    return number(value, digits=digits)


def _legend(result: EvaluationResult, level: str) -> str:
    kinds = {router.kind for router in result.routers.values()}
    told = "; ".join(f"{title.lower()} {text}" for kind, (title, text) in KINDS.items() if kind in kinds)
    intervals = (
        f"Intervals: paired bootstrap over the test prompts, {level}, {result.settings['resamples']} resamples, "
        f"seed {result.settings['seed']}; they do not cover another training set. "
        if result.settings.get("resamples")
        else "No intervals: evaluated without resamples. "
    )
    return escape(
        f"{told[:1].upper()}{told[1:]}. Bold: best of what could be deployed; a dash: undefined. {intervals}"
        "No figure is corrected for the number of routers compared."
    )


def _definitions(result: EvaluationResult, columns: Sequence[Column]) -> str:
    display = cost_display(result)
    low, high = (escape(display.text(cost)) for cost in result.cost_interval)
    parts = [f"<p>Every AIQ here is taken from {low} to {high}. {escape(display.title)}.</p>"]
    sources = {group.identity: group for group in GROUPS}
    for identity, inside in _grouped(columns):
        group = sources[identity]
        entries = "".join(f"<dt>{escape(column.title)}</dt><dd>{escape(column.definition)}</dd>" for column in inside)
        source = f" <small>{escape(group.source)}</small>" if group.source else ""
        parts.append(f"<h3>{group.title}{source}</h3><dl>{entries}</dl>")
    return "".join(parts)


def _undefined(result: EvaluationResult, columns: Sequence[Column]) -> str:
    """Return why figures are missing, one line a figure and reason."""
    titles = {column.name: column.title for column in columns}
    reasons: dict[tuple[str, str], list[str]] = {}
    for router in result.routers.values():
        for name, reason in router.undefined.items():
            reasons.setdefault((titles.get(name, name), reason), []).append(router.name)
    by_reason: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (title, reason), names in reasons.items():
        by_reason.setdefault((reason, tuple(names)), []).append(title)
    lines = [
        f"<li>{escape(', '.join(names) if len(names) < len(result.routers) else 'all')}: "
        f"{escape(', '.join(found))}: {escape(reason)}</li>"
        for (reason, names), found in by_reason.items()
    ]
    return folded("Why some figures are undefined", f"<ul>{''.join(lines)}</ul>") if lines else ""
