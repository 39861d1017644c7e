"""Quality task by task at matched cost: the numbers behind the heat table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmrouter.evaluation._page._points import BUDGETS, matched_point
from llmrouter.evaluation._result import EvaluationResult, RouterResult
from llmrouter.types import FloatArray


@dataclass(frozen=True)
class TaskCell:
    """A router on one task: quality, its paired difference to the best single model with standard error, cost share.

    `cost_share` is the cost as a share of the best single model's on the same prompts; NaN where that is free.
    """

    quality: float
    difference: float
    standard_error: float
    cost_share: float

    @property
    def clear(self) -> bool:
        """Whether the difference exceeds two standard errors."""
        return abs(self.difference) > 2 * self.standard_error


@dataclass(frozen=True)
class TaskRow:
    """One task, or several together.

    Attributes
    ----------
    task : str
        Its name.
    count : int
        Test prompts.
    best_single : float
        Mean quality of the best single model by train.
    best_model, best_model_quality : str and float
        The best model of this task on these prompts, in hindsight, the cheaper of equals.
    oracle : float
        Mean quality of the best outcome of each prompt.
    cells : tuple of TaskCell
        One a router.
    """

    task: str
    count: int
    best_single: float
    best_model: str
    best_model_quality: float
    oracle: float
    cells: tuple[TaskCell, ...]


NO_TASK = "(no task)"


def task_names(result: EvaluationResult) -> npt.NDArray[np.str_]:
    """Return the task of every test prompt, shape (n,)."""
    if len(result.tasks) != len(result.prompt_ids):
        return np.full(len(result.prompt_ids), NO_TASK)
    return np.array([NO_TASK if task is None else task for task in result.tasks])


def task_rows(
    result: EvaluationResult,
    routers: Sequence[RouterResult],
    *,
    budget: float = BUDGETS[-1],
    most: int | None = None,
) -> tuple[list[TaskRow], TaskRow]:
    """Return a row for each task, the largest first, and one for all prompts.

    Parameters
    ----------
    result : EvaluationResult
        With tasks.
    routers : sequence of RouterResult
        Taken at their points of matched cost, see `matched_point`.
    budget : float
        Share of the best single model's cost.
    most : int, optional
        Tasks to tell apart, or one more; the smaller ones make one row.
    """
    names = task_names(result)
    tasks, counts = np.unique(names, return_counts=True)
    order = sorted(range(len(tasks)), key=lambda place: (-counts[place], tasks[place]))
    picks = [(str(tasks[place]), names == tasks[place]) for place in order]
    if most is not None and len(picks) > most + 1:
        rest = np.any([inside for _, inside in picks[most:]], axis=0)
        picks = [*picks[:most], (f"the {len(picks) - most} smaller tasks", rest)]
    points = [matched_point(router, result, budget=budget) for router in routers]
    rows = [_row(task, inside, result, routers, points) for task, inside in picks]
    everything = _row("all prompts", np.ones(len(names), dtype=bool), result, routers, points)
    return rows, everything


def _row(
    task: str,
    inside: npt.NDArray[np.bool_],
    result: EvaluationResult,
    routers: Sequence[RouterResult],
    points: Sequence[int],
) -> TaskRow:
    quality, cost = result.quality[inside], result.cost[inside]
    single = result.models.index(result.best_single)
    means = quality.mean(axis=0)
    best = int(np.lexsort((cost.mean(axis=0), -means))[0])
    return TaskRow(
        task=task,
        count=int(inside.sum()),
        best_single=float(means[single]),
        best_model=result.models[best],
        best_model_quality=float(means[best]),
        oracle=float(quality.max(axis=1).mean()),
        cells=tuple(
            task_cell(
                router.curve.quality[point][inside],
                router.curve.cost[point][inside],
                single_quality=quality[:, single],
                single_cost=cost[:, single],
            )
            for router, point in zip(routers, points, strict=True)
        ),
    )


def task_cell(
    quality: FloatArray, cost: FloatArray, *, single_quality: FloatArray, single_cost: FloatArray
) -> TaskCell:
    """Return a router's figures on some prompts, shapes (n,), beside those of the best single model."""
    gain = quality - single_quality
    error = float(gain.std(ddof=1)) / math.sqrt(len(gain)) if len(gain) > 1 else math.nan
    paid = float(single_cost.sum())
    return TaskCell(
        quality=float(quality.mean()),
        difference=float(gain.mean()),
        standard_error=error,
        cost_share=float(cost.sum()) / paid if paid > 0 else math.nan,
    )
