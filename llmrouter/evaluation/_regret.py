"""Regret: the utility lost against a choice that knows every outcome."""

from __future__ import annotations

import math

import numpy as np

from llmrouter.exceptions import DataError
from llmrouter.types import FloatArray


def check_choices(
    chosen_quality: FloatArray, chosen_cost: FloatArray, *, quality: FloatArray, cost: FloatArray
) -> None:
    """Raise DataError unless the choices are (n,) and the outcomes (n, m)."""
    choices_fit = chosen_quality.shape == chosen_cost.shape == quality.shape[:1]
    if quality.ndim != 2 or quality.shape != cost.shape or not choices_fit:
        raise DataError(
            f"quality and cost must be (n, m) and the choices (n,); got {quality.shape}, {cost.shape}, "
            f"{chosen_quality.shape}, {chosen_cost.shape}"
        )


def regret(
    chosen_quality: FloatArray, chosen_cost: FloatArray, *, quality: FloatArray, cost: FloatArray, cost_weight: float
) -> float:
    """Return the mean utility of the oracle's choices minus that of the choices made.

    Utility is ``quality - cost_weight * cost``; the oracle takes the model of the highest true utility.

    Parameters
    ----------
    chosen_quality, chosen_cost : array of shape (n,)
        What the choices achieved and cost.
    quality, cost : array of shape (n, m)
        Outcomes of every model; a model with a NaN outcome is no choice for that prompt.
    cost_weight : float
        Of a unit of cost, >= 0 and finite.

    Returns
    -------
    float
        >= 0 for choices among the m models; NaN without prompts, or where a prompt has no outcome.

    Raises
    ------
    DataError
        If the shapes do not fit, or the weight is negative or not finite.
    """
    if not (math.isfinite(cost_weight) and cost_weight >= 0):
        raise DataError(f"cost_weight must be finite and >= 0; got {cost_weight}")
    check_choices(chosen_quality, chosen_cost, quality=quality, cost=cost)
    if not quality.size:
        return math.nan
    utility = quality - cost_weight * cost
    best = np.where(np.isnan(utility), -np.inf, utility).max(axis=1)
    lost = best - (chosen_quality - cost_weight * chosen_cost)
    return float(lost.mean()) if np.isfinite(lost).all() else math.nan
