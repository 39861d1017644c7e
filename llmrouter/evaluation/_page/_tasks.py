"""The per-task section: a heat table of quality at matched cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from llmrouter.evaluation._format import FEW, contenders, cost_display, number, share, short_name
from llmrouter.evaluation._page._breakdown import NO_TASK, TaskCell, TaskRow, task_names, task_rows
from llmrouter.evaluation._page._html import folded, scrolling, tint
from llmrouter.evaluation._page._points import BUDGETS, best_single_cost, budget_text, matched_point, weight_text
from llmrouter.evaluation._result import EvaluationResult, RouterResult

_TASKS_SHOWN = 15
_DEEPEST = 0.2


def tasks_section(result: EvaluationResult) -> str:
    """Return tables of the best few routers by task, one a budget; a sentence where no task was recorded."""
    shown = contenders(result)[:FEW]
    if not shown:
        return ""
    if set(task_names(result).tolist()) == {NO_TASK}:
        return "<p>The data set names no tasks.</p>"
    best = "best router" if len(shown) == 1 else f"{len(shown)} best routers"
    text = (
        f"<p>Mean quality of the {best} at matched cost: at the dearest operating point within a budget, a share of "
        f"what {escape(result.best_single)} costs, the best single model by train "
        f"({escape(cost_display(result).text(best_single_cost(result)))}). Below the quality: its difference to that "
        "model on the same prompts, and the cost as a share of that model's there. Blue is better, orange worse than "
        "the best single model; bold differs by more than two standard errors (paired, not corrected for the number "
        "of cells). Routers never see the task. “Best of the task” is the best single model on those test prompts, in "
        "hindsight.</p>"
    )
    parts = [text]
    before: list[int] = []
    for budget in BUDGETS:
        points = [matched_point(router, result, budget=budget) for router in shown]
        if points != before:
            parts.append(_at_budget(result, shown, budget=budget, points=points))
        before = points
    return "".join(parts)


def _at_budget(result: EvaluationResult, shown: Sequence[RouterResult], *, budget: float, points: Sequence[int]) -> str:
    rows, everything = task_rows(result, shown, budget=budget, most=_TASKS_SHOWN)
    every, _ = task_rows(result, shown, budget=budget)
    told = "; ".join(
        f"{escape(router.name)}: {escape(weight_text(router, point, result))}"
        for router, point in zip(shown, points, strict=True)
    )
    table = _heat([everything, *rows], shown)
    if len(every) > len(rows):
        table += folded(f"All {len(every)} tasks", _heat([everything, *every], shown))
    return f'<h3>At {budget_text(budget)}</h3>{table}<p class="note">Operating points: {told}.</p>'


def _heat(rows: Sequence[TaskRow], routers: Sequence[RouterResult]) -> str:
    head = "".join(f'<th scope="col">{escape(router.name)}</th>' for router in routers)
    body = "".join(_line(row) for row in rows)
    return scrolling(
        '<table class="heat"><thead><tr><th class="first" scope="col">Task</th><th scope="col">Prompts</th>'
        f'<th scope="col">Best single</th>{head}<th scope="col">Best of the task</th><th scope="col">Oracle</th></tr>'
        f"</thead><tbody>{body}</tbody></table>"
    )


def _line(row: TaskRow) -> str:
    cells = "".join(_cell(cell) for cell in row.cells)
    gain = row.best_model_quality - row.best_single
    model = f"<small>{number(gain, signed=True, digits=3)} {escape(short_name(row.best_model))}</small>"
    return (
        f'<tr><th class="first" scope="row">{escape(row.task)}</th><td>{row.count:,}</td>'
        f"<td>{number(row.best_single, digits=3)}</td>{cells}"
        f'<td class="model">{number(row.best_model_quality, digits=3)}{model}</td>'
        f"<td>{number(row.oracle, digits=3)}</td></tr>"
    )


def _cell(cell: TaskCell) -> str:
    gain = number(cell.difference, signed=True, digits=3)
    if cell.clear:
        gain = f"<b>{gain}</b>"
    cost = "" if math.isnan(cell.cost_share) else f" · {share(cell.cost_share)}"
    shade = tint(cell.difference, full=_DEEPEST)
    return f"<td{shade}>{number(cell.quality, digits=3)}<small>{gain}{cost}</small></td>"
