"""RouterArena's figures: its score of accuracy and cost, and how close the choices are to the best ones.

Lu et al., "RouterArena: An Open Platform for Comprehensive Comparison of LLM Routers", arXiv:2510.00202.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from llmrouter.evaluation._regret import check_choices
from llmrouter.types import FloatArray

ARENA_BETA = 0.1
ARENA_MAX_COST = 200.0
ARENA_MIN_COST = 0.0044


def arena_score(
    accuracy: FloatArray | float,
    cost_per_1k: FloatArray | float,
    *,
    beta: float = ARENA_BETA,
    max_cost: float = ARENA_MAX_COST,
    min_cost: float = ARENA_MIN_COST,
) -> FloatArray:
    """Return RouterArena's score ``(1 + beta) A C / (beta A + C)``, in the common shape of the two arguments.

    C is the cost on a logarithmic scale: 1 at `min_cost`, 0 at `max_cost`. It is cut to [0, 1], as in one of the two
    copies of the formula in the project's code; inside the two costs both copies agree.

    Parameters
    ----------
    accuracy : array or float
        In [0, 1].
    cost_per_1k : array or float
        US dollars per 1,000 queries, >= 0.
    beta : float
        Weight of accuracy against cost: small values favour accuracy.
    max_cost, min_cost : float
        Ends of the cost scale, US dollars per 1,000 queries.

    Returns
    -------
    array
        In [0, 1]; the board shows it times 100. NaN where accuracy or cost is, 0 where both terms are 0.
    """
    quality, cost = np.broadcast_arrays(
        np.asarray(accuracy, dtype=np.float64), np.asarray(cost_per_1k, dtype=np.float64)
    )
    scale = math.log2(max_cost) - math.log2(min_cost)
    cheapness = (math.log2(max_cost) - np.log2(np.clip(cost, min_cost, max_cost))) / scale
    denominator = beta * quality + cheapness
    score = (1 + beta) * quality * cheapness / np.where(denominator == 0, 1.0, denominator)
    return np.asarray(score)


class Optimality(NamedTuple):
    """How close choices are to the best possible ones; each in [0, 1] where defined.

    Attributes
    ----------
    selection : float
        Share of all prompts for which a correct model of the lowest cost was chosen.
    cost : float
        Over the prompts that some model solves: total cost of the cheapest correct models by the total cost paid. May
        exceed 1 for a router that saves by answering wrongly.
    accuracy : float
        Share of the prompts that some model solves on which the chosen model was correct.
    """

    selection: float
    cost: float
    accuracy: float


def optimality(
    chosen_quality: FloatArray,
    chosen_cost: FloatArray,
    *,
    quality: FloatArray,
    cost: FloatArray,
    correct_from: float = 0.5,
) -> Optimality:
    """Return RouterArena's three optimality figures of one operating point.

    Parameters
    ----------
    chosen_quality, chosen_cost : array of shape (n,)
        What the choices achieved and cost.
    quality, cost : array of shape (n, m)
        Outcomes of every model.
    correct_from : float
        An answer of at least this quality is correct; RouterArena's own outcomes are 0 or 1.

    Returns
    -------
    Optimality
        `cost` and `accuracy` are NaN where no prompt is solved by any model, `cost` also where nothing was paid.

    Raises
    ------
    DataError
        If the shapes do not fit.
    """
    check_choices(chosen_quality, chosen_cost, quality=quality, cost=cost)
    correct = quality >= correct_from
    solvable = correct.any(axis=1)
    right = chosen_quality >= correct_from
    lowest = np.where(correct, cost, np.inf).min(axis=1, initial=np.inf)
    selection = float((right & (chosen_cost <= lowest)).mean()) if len(cost) else math.nan
    if not solvable.any():
        return Optimality(selection, math.nan, math.nan)
    paid = float(chosen_cost[solvable].sum())
    return Optimality(
        selection=selection,
        cost=float(lowest[solvable].sum()) / paid if paid > 0 else math.nan,
        accuracy=float(right[solvable].mean()),
    )
