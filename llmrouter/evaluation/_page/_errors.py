"""The section on where the router goes wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np
import numpy.typing as npt

from llmrouter.evaluation._format import FEW, contenders, cost_display, number, share, short_name
from llmrouter.evaluation._page._breakdown import NO_TASK, task_names
from llmrouter.evaluation._page._diagnosis import (
    CORRECT_FROM,
    OutcomeCounts,
    TaskRegret,
    cheapest_best,
    confusion,
    count_outcomes,
    largest_regrets,
    regret_by_task,
    regret_of_prompts,
)
from llmrouter.evaluation._page._html import folded, scrolling, table
from llmrouter.evaluation._page._points import BUDGETS, budget_text, matched_point, policy_weight, weight_text
from llmrouter.evaluation._result import EvaluationResult, RouterResult
from llmrouter.types import FloatArray

_PROMPTS = 20
_MODELS = 10
_TASKS = 12

# Okabe and Ito's colours again, lightened enough for dark text on them.
_CLASSES = (
    ("optimal", "optimal", "correct, at the lowest cost of a correct model", "#80c9b5"),
    ("too_dear", "too dear", "correct, but a cheaper model was correct as well", "#aadaf4"),
    ("too_cheap", "too cheap", "wrong, and cheaper than the cheapest correct model", "#f2cf80"),
    ("dear_and_wrong", "dear and wrong", "wrong, at the cost of the cheapest correct model or more", "#eaae80"),
    ("none_correct", "none correct", "no model was correct", "#d9d9d9"),
)


def errors_section(result: EvaluationResult) -> str:
    """Return outcome counts, regret by task, the confusion of models and the prompts of the largest regret."""
    shown = contenders(result)[:FEW]
    if not shown:
        return ""
    return _outcomes(result, shown) + _best_router(result, shown[0])


# what became of the prompts


def _outcomes(result: EvaluationResult, shown: Sequence[RouterResult]) -> str:
    routers = [*shown, *(router for router in result.routers.values() if router.name in ("best-single", "cheapest"))]
    counted = []
    for router in routers:
        point = matched_point(router, result)
        counts = count_outcomes(
            router.curve.quality[point], router.curve.cost[point], quality=result.quality, cost=result.cost
        )
        counted.append((router.name, counts))
    swatches = "".join(
        f'<span><i style="background:{colour}"></i>{title} <small>{meaning}</small></span>'
        for _, title, meaning, colour in _CLASSES
    )
    bars = "".join(f"<span>{escape(name)}</span>{_bar(counts)}" for name, counts in counted)
    rows = [
        [escape(name), *(f"{getattr(counts, field):,}" for field, *_ in _CLASSES), f"{counts.total:,}"]
        for name, counts in counted
    ]
    numbers = folded("The counts", table(["Router", *(title for _, title, _, _ in _CLASSES), "prompts"], rows))
    return (
        "<h3>What became of the prompts</h3><p>Each router at the dearest operating point within "
        f"{budget_text(BUDGETS[-1])}, as in the table by task. An answer of quality {CORRECT_FROM:g} or more counts as "
        "correct. The classes are those of CSCR (arXiv:2508.12491), whose “too expensive” is split by whether the "
        "answer was right.</p>"
        f'<div class="swatches">{swatches}</div><div class="bars">{bars}</div>{numbers}'
    )


def _bar(counts: OutcomeCounts) -> str:
    parts = []
    for field, title, _, colour in _CLASSES:
        part = getattr(counts, field) / counts.total if counts.total else 0.0
        if part > 0:
            text = share(part) if part >= 0.055 else ""
            style = f"width:{100 * part:.2f}%;background:{colour}"
            parts.append(f'<span style="{style}" title="{title}: {share(part)}">{text}</span>')
    return f'<div class="bar">{"".join(parts)}</div>'


# the best router, prompt by prompt


def _best_router(result: EvaluationResult, router: RouterResult) -> str:
    point = matched_point(router, result)
    weight = policy_weight(router, point, result)
    if not math.isfinite(weight):
        weight = 0.0
    scale = result.reference_cost if result.reference_cost > 0 else 1.0
    regret = regret_of_prompts(
        router.curve.quality[point],
        router.curve.cost[point],
        quality=result.quality,
        cost=result.cost,
        cost_weight=weight / scale,
    )
    names = task_names(result)
    by_task = regret_by_task(regret, names.tolist())
    text = (
        f"<h3>{escape(router.name)}, prompt by prompt</h3><p>At its point within {budget_text(BUDGETS[-1])} "
        f"({escape(weight_text(router, point, result))}). Regret is the utility lost against a choice that knows "
        f"every outcome, at cost weight {weight:.3g}; on average {number(float(regret.mean()))}.</p>"
    )
    parts = [text]
    if not (len(by_task) == 1 and by_task[0].task == NO_TASK):
        parts.append(_regret_table(by_task))
    if router.curve.choices is not None:
        chosen = router.curve.choices[point]
        parts.append(_confusion_table(chosen, result))
        parts.append(_worst_prompts(router, result, chosen, regret=regret, names=names))
    return "".join(parts)


def _regret_table(by_task: Sequence[TaskRegret]) -> str:
    largest = max((entry.share for entry in by_task), default=0.0) or 1.0
    rows = [
        [
            escape(entry.task),
            f"{entry.count:,}",
            share(entry.share_of_prompts),
            number(entry.mean),
            share(entry.share),
            f'<div style="width:{160 * entry.share / largest:.0f}px;height:12px;background:#eaae80"></div>',
        ]
        for entry in by_task
    ]
    header = ["Task", "Prompts", "Share of prompts", "Mean regret", "Share of regret", ""]
    content = table(header, rows[:_TASKS], caption="Regret by task")
    if len(rows) > _TASKS:
        content += folded(f"The other {len(rows) - _TASKS} tasks", table(header, rows[_TASKS:]))
    return content


def _confusion_table(chosen: npt.NDArray[np.int16], result: EvaluationResult) -> str:
    counts = confusion(chosen, result.quality, cost=result.cost)
    m = len(result.models)
    rows, columns = _groups(counts.sum(axis=1), result), _groups(counts[:, :m].sum(axis=0), result)
    total = max(1, int(counts.sum()))
    lines = []
    for title, group in rows:
        inside = counts[group].sum(axis=0)
        cells = [_count_cell(int(inside[other].sum()), total, diagonal=group == other) for _, other in columns]
        cells.append(_count_cell(int(inside[m]), total, diagonal=False))
        lines.append(
            f'<tr><th class="first" scope="row">{title}</th>{"".join(cells)}<td>{int(inside.sum()):,}</td></tr>'
        )
    wanted = [int(counts[:, group].sum()) for _, group in columns]
    sums = "".join(f"<td>{value:,}</td>" for value in [*wanted, int(counts[:, m].sum()), int(counts.sum())])
    lines.append(f'<tr><th class="first" scope="row">wanted</th>{sums}</tr>')
    titles = [*(title for title, _ in columns), "none correct", "chosen"]
    head = "".join(f'<th scope="col"><span>{title}</span></th>' for title in titles)
    caption = "Chosen model (rows) against the cheapest best model (columns), from cheap to dear"
    return scrolling(
        f'<table class="square"><caption>{caption}</caption><thead><tr><th class="first" scope="col">Chosen</th>{head}'
        f"</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    )


def _groups(used: npt.NDArray[np.int64], result: EvaluationResult) -> list[tuple[str, list[int]]]:
    """Return (title, columns) of the models in use, from cheap to dear; of many the least used make one group."""
    order = [column for column in np.argsort(result.model_cost, kind="stable").tolist() if used[column]]
    most = _MODELS if len(order) > _MODELS + 1 else len(order)
    kept = set(sorted(order, key=lambda column: -int(used[column]))[:most])
    groups = [(escape(short_name(result.models[column])), [column]) for column in order if column in kept]
    others = [column for column in order if column not in kept]
    return [*groups, (f"{len(others)} others", others)] if others else groups


def _count_cell(value: int, total: int, *, diagonal: bool) -> str:
    depth = min(0.6, 3 * value / total) if value else 0.0
    colour = "0,158,115" if diagonal else "213,94,0"
    shade = f' style="background:rgba({colour},{depth:.2f})"' if depth >= 0.005 else ""
    return f"<td{shade}>{f'{value:,}' if value else '·'}</td>"


def _worst_prompts(
    router: RouterResult,
    result: EvaluationResult,
    chosen: npt.NDArray[np.int16],
    *,
    regret: FloatArray,
    names: npt.NDArray[np.str_],
) -> str:
    rows_of = np.arange(len(chosen))
    wanted = cheapest_best(result.quality, result.cost)
    expected = router.expected_quality
    unknown = np.full(len(chosen), np.nan)
    picked = unknown if expected is None else expected[rows_of, chosen]
    best = unknown if expected is None else np.where(wanted < 0, np.nan, expected[rows_of, wanted])
    worst = largest_regrets(regret, picked - best, most=_PROMPTS)
    if not worst:
        return "<p>No prompt has any regret.</p>"
    display = cost_display(result)
    point = matched_point(router, result)
    rows = [
        [
            escape(result.prompt_ids[row]),
            escape(str(names[row])),
            number(float(regret[row])),
            escape(short_name(result.models[int(chosen[row])])),
            _expected(float(picked[row])),
            number(float(router.curve.quality[point][row]), digits=2),
            escape(display.text(float(router.curve.cost[point][row]))),
            escape(short_name(result.models[int(wanted[row])])) if wanted[row] >= 0 else "none correct",
            _expected(float(best[row])),
            escape(display.text(float(result.cost[row, wanted[row]]))) if wanted[row] >= 0 else "-",
        ]
        for row in worst
    ]
    header = ["Prompt", "Task", "Regret", "Chosen", "expected", "got", "cost", "Cheapest best", "expected", "cost"]
    content = table(header, rows, left=(1, 3, 7), caption=f"The {len(rows)} prompts of the largest regret")
    return content + (
        '<p class="note">Among equal regrets, those in which the router expected most of its mistake. Costs are those '
        "of the one prompt, in the unit of the plot.</p>"
    )


def _expected(value: float) -> str:
    return number(value, digits=2)
