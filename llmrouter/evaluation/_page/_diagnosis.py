"""Where a router goes wrong: the numbers behind the section, from its choices and the outcomes of every model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmrouter.types import FloatArray

# An answer of at least this quality is correct, as in `llmrouter.evaluation.optimality`.
CORRECT_FROM = 0.5


@dataclass(frozen=True)
class OutcomeCounts:
    """Prompts by what became of them; the five counts add up to all prompts.

    The first four as CSCR counts them (arXiv:2508.12491), whose "too expensive" is split by whether the answer was
    right.

    Attributes
    ----------
    optimal : int
        Correct, at the lowest cost of a correct model.
    too_dear : int
        Correct, but a cheaper model was correct as well.
    too_cheap : int
        Wrong, at less than the cost of the cheapest correct model.
    dear_and_wrong : int
        Wrong, at that cost or more.
    none_correct : int
        No model was correct.
    """

    optimal: int
    too_dear: int
    too_cheap: int
    dear_and_wrong: int
    none_correct: int

    @property
    def total(self) -> int:
        """All prompts."""
        return self.optimal + self.too_dear + self.too_cheap + self.dear_and_wrong + self.none_correct


def count_outcomes(
    chosen_quality: FloatArray, chosen_cost: FloatArray, *, quality: FloatArray, cost: FloatArray
) -> OutcomeCounts:
    """Return what became of the prompts.

    Parameters
    ----------
    chosen_quality, chosen_cost : array of shape (n,)
        What the choices achieved and cost.
    quality, cost : array of shape (n, m)
        Outcomes of every model.
    """
    correct = quality >= CORRECT_FROM
    lowest = np.where(correct, cost, np.inf).min(axis=1)
    solvable, right = correct.any(axis=1), chosen_quality >= CORRECT_FROM
    cheaper = chosen_cost < lowest
    return OutcomeCounts(
        optimal=int((right & (chosen_cost <= lowest)).sum()),
        too_dear=int((right & (chosen_cost > lowest)).sum()),
        too_cheap=int((solvable & ~right & cheaper).sum()),
        dear_and_wrong=int((solvable & ~right & ~cheaper).sum()),
        none_correct=int((~solvable & ~right).sum()),
    )


def cheapest_best(quality: FloatArray, cost: FloatArray) -> npt.NDArray[np.int64]:
    """Return the column of the best model of each prompt, the cheapest of equals; -1 where no model is correct."""
    best = quality >= quality.max(axis=1, keepdims=True)
    column = np.where(best, cost, np.inf).argmin(axis=1)
    return np.where(quality.max(axis=1) >= CORRECT_FROM, column, -1)


def confusion(chosen: npt.NDArray[np.integer], quality: FloatArray, *, cost: FloatArray) -> npt.NDArray[np.int64]:
    """Return counts of (chosen model, cheapest best model), shape (m, m + 1); the last column: no model correct."""
    m = quality.shape[1]
    wanted = cheapest_best(quality, cost)
    counts = np.zeros((m, m + 1), dtype=np.int64)
    np.add.at(counts, (chosen.astype(np.int64), np.where(wanted < 0, m, wanted)), 1)
    return counts


def regret_of_prompts(
    chosen_quality: FloatArray,
    chosen_cost: FloatArray,
    *,
    quality: FloatArray,
    cost: FloatArray,
    cost_weight: float,
) -> FloatArray:
    """Return the utility lost on each prompt against the best choice, shape (n,); `cost_weight` of a unit of cost."""
    best = (quality - cost_weight * cost).max(axis=1)
    return np.asarray(best - (chosen_quality - cost_weight * chosen_cost))


@dataclass(frozen=True)
class TaskRegret:
    """A task's prompts, mean regret, share of all regret and share of all prompts."""

    task: str
    count: int
    mean: float
    share: float
    share_of_prompts: float


def regret_by_task(regret: FloatArray, tasks: Sequence[str]) -> list[TaskRegret]:
    """Return the regret (n,) by task (n,), the largest share first."""
    names = np.asarray(tasks)
    total = float(regret.sum())
    found = []
    for task in np.unique(names).tolist():
        inside = regret[names == task]
        share = float(inside.sum()) / total if total > 0 else 0.0
        found.append(TaskRegret(str(task), len(inside), float(inside.mean()), share, len(inside) / len(regret)))
    return sorted(found, key=lambda entry: (-entry.share, -entry.count, entry.task))


def largest_regrets(regret: FloatArray, sureness: FloatArray, *, most: int = 20) -> list[int]:
    """Return the rows of the largest regret above 0, among equals those where the router was surest of its mistake.

    Parameters
    ----------
    regret, sureness : array of shape (n,)
        `sureness` is what the router expected to gain by its choice over the best one; NaN where it expects nothing.
    most : int
        Rows to return.
    """
    order = np.lexsort((-np.nan_to_num(sureness, nan=-np.inf), -np.round(regret, 9)))
    return [row for row in order.tolist() if regret[row] > 1e-12][:most]
