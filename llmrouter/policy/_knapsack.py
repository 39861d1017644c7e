"""The multiple-choice knapsack: one option for each class, the most value that a budget buys; solved exactly."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from llmrouter.types import FloatArray, IntArray

_MOST_STATES = 100_000
_SLACK = 1e-12


@dataclass(frozen=True)
class Assignment:
    """One option for each class, and whether no better one exists within the budget."""

    options: tuple[int, ...]
    value: float
    cost: float
    exact: bool


def best_assignment(value: FloatArray, cost: FloatArray, *, budget: float) -> Assignment | None:
    """Choose an option for each class so that the values add up to the most, at a cost of at most `budget`.

    Dynamic programming over the classes keeps the undominated (cost, value) pairs whose bound by the linear relaxation
    (the classes' upper hulls, filled in order of value per cost) reaches the best assignment known. That is exact; the
    number of pairs is limited for safety, and `exact` says whether the limit was met.

    Parameters
    ----------
    value, cost : array of shape (classes, options)
        Finite; costs >= 0.
    budget : float
        Most that the costs may add up to; may be infinite.

    Returns
    -------
    Assignment or None
        None where the cheapest options together exceed the budget. Equal values go to the cheaper assignment.
    """
    classes = value.shape[0]
    if cost.min(axis=1).sum() > budget + _SLACK:
        return None
    budget = min(budget, float(cost.max(axis=1).sum()))
    bounds = [_Relaxation(value[start:], cost[start:]) for start in range(classes + 1)]
    known = bounds[0].rounded_value(budget)
    spent, gained = np.zeros(1), np.zeros(1)
    taken: IntArray = np.zeros((1, 0), dtype=np.int64)
    exact = True
    for c in range(classes):
        options = value.shape[1]
        spent = (spent[:, None] + cost[c]).ravel()
        gained = (gained[:, None] + value[c]).ravel()
        taken = np.column_stack((np.repeat(taken, options, axis=0), np.tile(np.arange(options), taken.shape[0])))
        promising = np.flatnonzero(gained + bounds[c + 1].at(budget - spent) >= known - 1e-9)
        promising = promising[np.lexsort((-gained[promising], spent[promising]))]
        highest = np.maximum.accumulate(gained[promising])
        first = np.concatenate(([True], gained[promising][1:] > highest[:-1]))
        kept = promising[first]
        if kept.size > _MOST_STATES:
            exact = False
            bound = gained[kept] + bounds[c + 1].at(budget - spent[kept])
            kept = np.sort(kept[np.argsort(-bound, kind="stable")[:_MOST_STATES]])
        spent, gained, taken = spent[kept], gained[kept], taken[kept]
    best = int(np.lexsort((spent, -np.round(gained, 12)))[0])
    return Assignment(tuple(taken[best].tolist()), float(gained[best]), float(spent[best]), exact)


class _Relaxation:
    """The linear relaxation of some classes: the most value as a concave function of the budget."""

    def __init__(self, value: FloatArray, cost: FloatArray) -> None:
        steps: list[tuple[float, float]] = []
        start_cost = start_value = 0.0
        for values, costs in zip(value, cost, strict=True):
            hull = upper_hull(costs, values)
            start_cost += float(costs[hull[0]])
            start_value += float(values[hull[0]])
            steps += [(float(costs[b] - costs[a]), float(values[b] - values[a])) for a, b in itertools.pairwise(hull)]
        steps.sort(key=lambda step: (-step[1] / step[0], step[0]))
        self._steps = steps
        self._cost = start_cost + np.concatenate(([0.0], np.cumsum([step[0] for step in steps])))
        self._value = start_value + np.concatenate(([0.0], np.cumsum([step[1] for step in steps])))

    def at(self, budgets: FloatArray) -> FloatArray:
        """Return the bound for each budget; -inf where not even the cheapest options fit."""
        bound: FloatArray = np.interp(budgets, self._cost, self._value)
        return np.where(budgets < self._cost[0] - _SLACK, -np.inf, bound)

    def rounded_value(self, budget: float) -> float:
        """Return the value of an assignment within the budget: whole steps, each class's in order, while they fit."""
        fitting = self._cost <= budget + _SLACK
        return float(self._value[fitting][-1]) if fitting.any() else -np.inf


def upper_hull(costs: FloatArray, values: FloatArray) -> list[int]:
    """Return the options on the upper hull of value over cost, from the cheapest to the most valuable."""
    order = np.lexsort((-values, costs))
    hull: list[int] = []
    for option in order.tolist():
        if hull and values[option] <= values[hull[-1]]:
            continue
        while len(hull) > 1:
            a, b = hull[-2], hull[-1]
            slope = (values[b] - values[a]) * (costs[option] - costs[a])
            if slope <= (values[option] - values[a]) * (costs[b] - costs[a]):
                hull.pop()
            else:
                break
        hull.append(option)
    return hull
