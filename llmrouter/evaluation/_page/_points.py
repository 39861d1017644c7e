"""The operating point at which routers are looked at prompt by prompt, and how its weight is written."""

from __future__ import annotations

import math

import numpy as np

from llmrouter.evaluation._format import CONTENDERS
from llmrouter.evaluation._result import EvaluationResult, RouterResult

# Operating points are compared at these shares of the best single model's cost; the last one is looked at closely:
# at the full cost the best choice is often that model for every prompt.
BUDGETS = (1.0, 0.5)

# Means of the same costs, summed in another order, differ by less than this share.
_SAME_COST = 1e-9


def best_single_cost(result: EvaluationResult) -> float:
    """Return the mean test cost of the model that was best on train."""
    return float(result.model_cost[result.models.index(result.best_single)])


def matched_point(router: RouterResult, result: EvaluationResult, *, budget: float = BUDGETS[-1]) -> int:
    """Return the dearest operating point within a budget, a share of the best single model's cost; else the cheapest.

    It is picked by its mean cost on the test prompts, not by its quality; of equally dear points it is the first, that
    of the lowest weight. A baseline has one point of its own.
    """
    if router.kind not in CONTENDERS:
        return 0
    cost = router.curve.mean_cost
    affordable = np.flatnonzero(cost <= budget * best_single_cost(result) * (1 + _SAME_COST))
    if not affordable.size:
        return int(cost.argmin())
    dearest = float(cost[affordable].max())
    return int(affordable[cost[affordable] >= dearest * (1 - _SAME_COST)][0])


def budget_text(budget: float) -> str:
    """Return a budget in words."""
    return "the cost of the best single model" if budget == 1 else f"{100 * budget:g}% of the best single model's cost"


def policy_weight(router: RouterResult, index: int, result: EvaluationResult) -> float:
    """Return the cost weight of an operating point in the policy's unit; NaN or inf where it is not from a weight."""
    scale = result.reference_cost if result.reference_cost > 0 else 1.0
    return float(router.curve.weights[index]) * scale


def weight_text(router: RouterResult, index: int, result: EvaluationResult) -> str:
    """Return what an operating point is, in words."""
    weight = policy_weight(router, index, result)
    if math.isfinite(weight):
        return f"cost weight {weight:.3g}"
    if math.isinf(weight):
        return "everything to the cheapest model"
    return "one fixed model" if router.kind != "flow" else f"operating point {index + 1}"
