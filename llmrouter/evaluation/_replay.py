"""Replay: what a router would have cost and achieved, prompt by prompt, on a table where every model was observed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from llmrouter.evaluation._costs import column_means
from llmrouter.evaluation._metrics import Hull, non_decreasing_hull
from llmrouter.exceptions import DataError
from llmrouter.types import FloatArray

SWEEP_POINTS = 73
# Utilities equal to this many digits are ties, as in `llmrouter.policy.UtilityPolicy`: offline and online agree.
_UTILITY_DIGITS = 12


@dataclass(frozen=True)
class Guard:
    """Leave the best single model only where the lower confidence bound of the gain is positive.

    The same rule as `llmrouter.policy.UtilityPolicy` with a guard: model a is taken before the best single model b (by
    training means, at the weight in force) only if ``utility_a - utility_b - z sqrt(std_a^2 + std_b^2) > 0``.

    Attributes
    ----------
    z : float
        How many standard errors.
    mean_quality, mean_cost : array of shape (m,)
        Training means by model; NaN for one never observed.
    """

    z: float
    mean_quality: FloatArray
    mean_cost: FloatArray

    def best_single(self, weight: float) -> int:
        """Return the model of highest mean utility at a weight of cost, the cheaper of equals."""
        utility = np.nan_to_num(self.mean_quality - weight * self.mean_cost, nan=-np.inf)
        return int(np.lexsort((self.mean_cost, -np.round(utility, _UTILITY_DIGITS)))[0])


@dataclass(frozen=True)
class Curve:
    """Operating points of one router on n prompts.

    Attributes
    ----------
    cost, quality : array of shape (p, n)
        Cost and quality of each prompt at each operating point.
    weights : array of shape (p,)
        The weight of a unit of cost at that point; inf for "everything to the cheapest model", NaN where the point
        does not come from a weight.
    choices : array of shape (p, n), int16, or None
        Column of the chosen model; None where the point is an average over models.
    """

    cost: FloatArray
    quality: FloatArray
    weights: FloatArray
    choices: npt.NDArray[np.int16] | None

    @cached_property
    def mean_cost(self) -> FloatArray:
        """Mean cost a prompt, shape (p,)."""
        return np.asarray(self.cost.mean(axis=1))

    @cached_property
    def mean_quality(self) -> FloatArray:
        """Mean quality a prompt, shape (p,)."""
        return np.asarray(self.quality.mean(axis=1))

    @cached_property
    def hull(self) -> Hull:
        """Non-decreasing convex hull of the points."""
        return non_decreasing_hull(self.mean_cost, self.mean_quality)

    @property
    def peak(self) -> int:
        """Index of the point with the highest mean quality, the cheapest of equals."""
        best = np.flatnonzero(self.mean_quality >= self.mean_quality.max())
        return int(best[self.mean_cost[best].argmin()])

    def shares(self, point: int, *, models: int) -> FloatArray:
        """Return the share of the prompts each of the m models gets at an operating point, shape (m,)."""
        if self.choices is None:
            return np.full(models, np.nan)
        return np.asarray(np.bincount(self.choices[point], minlength=models) / self.choices.shape[1])


def sweep_weights(train_cost: FloatArray) -> FloatArray:
    """Return the weights of cost to sweep: 0 and 73 values of logspace(-3, 3), over the range of the mean train costs.

    Parameters
    ----------
    train_cost : array of shape (n, m)
        Costs of the training prompts. Where all models cost the same on average, 0 is the only weight.
    """
    means = column_means(train_cost)
    means = means[np.isfinite(means)]
    spread = float(means.max() - means.min()) if means.size else 0.0
    if spread <= 0:
        return np.zeros(1)
    return np.concatenate([np.zeros(1), np.logspace(-3, 3, SWEEP_POINTS) / spread])


def cheapest_model(train_cost: FloatArray, train_quality: FloatArray) -> int:
    """Return the column of the lowest mean train cost, the better of equally cheap models."""
    cost = np.nan_to_num(column_means(train_cost), nan=np.inf)
    quality = np.nan_to_num(column_means(train_quality), nan=-1.0)
    return int(np.lexsort((-quality, cost))[0])


def choose(
    expected_quality: FloatArray,
    expected_cost: FloatArray,
    weights: FloatArray,
    *,
    guard: Guard | None = None,
    expected_std: FloatArray | None = None,
) -> npt.NDArray[np.int16]:
    """Return the model of highest ``quality - weight * cost`` for each weight and prompt.

    Parameters
    ----------
    expected_quality, expected_cost : array of shape (n, m)
        Estimates. A model with a NaN estimate is not chosen while another has none.
    weights : array of shape (p,)
        Of a unit of cost.
    guard : Guard, optional
        Needs `expected_std`.
    expected_std : array of shape (n, m), optional
        Standard errors of `expected_quality`.

    Returns
    -------
    array of shape (p, n), int16
        Columns; ties go to the model that is cheaper for the prompt, then to the first.
    """
    unknown = np.isnan(expected_quality) | np.isnan(expected_cost)
    order = np.argsort(np.where(unknown, np.inf, expected_cost), axis=1, kind="stable")
    quality = np.take_along_axis(np.where(unknown, -np.inf, expected_quality), order, axis=1)
    cost = np.take_along_axis(np.where(unknown, 0.0, expected_cost), order, axis=1)
    rows = np.arange(len(order))
    std = None if guard is None or expected_std is None else np.take_along_axis(expected_std, order, axis=1)
    chosen = np.empty((len(weights), len(order)), dtype=np.int16)
    for index, weight in enumerate(weights.tolist()):
        utility = np.round(quality - weight * cost, _UTILITY_DIGITS)
        if guard is not None and std is not None:
            utility = _guarded(utility, std, order, single=guard.best_single(weight), z=guard.z)
        chosen[index] = order[rows, utility.argmax(axis=1)]
    return chosen


def _guarded(
    utility: FloatArray, std: FloatArray, order: npt.NDArray[np.int64], *, single: int, z: float
) -> FloatArray:
    """Rule out what is not surely better than the best single model; columns are in the order of each prompt."""
    rows = np.arange(len(order))
    place = (order == single).argmax(axis=1)
    base, base_std = utility[rows, place, None], std[rows, place, None]
    sure = utility - base - z * np.hypot(std, base_std) > 0
    sure[rows, place] = True
    return np.where(sure | ~np.isfinite(base), utility, -np.inf)


def curve_of_choices(
    choices: npt.NDArray[np.int16], weights: FloatArray, *, quality: FloatArray, cost: FloatArray
) -> Curve:
    """Return the curve of fixed choices (p, n) on observed outcomes (n, m)."""
    rows = np.arange(len(quality))
    return Curve(cost=cost[rows, choices], quality=quality[rows, choices], weights=weights, choices=choices)


def replay(
    expected_quality: FloatArray,
    expected_cost: FloatArray,
    *,
    quality: FloatArray,
    cost: FloatArray,
    weights: FloatArray,
    cheapest: int,
    guard: Guard | None = None,
    expected_std: FloatArray | None = None,
) -> Curve:
    """Sweep the weight of cost over estimates and read the outcomes off a table where every model was observed.

    Parameters
    ----------
    expected_quality, expected_cost : array of shape (n, m)
        What the router expects.
    quality, cost : array of shape (n, m)
        What happened, without NaN.
    weights : array of shape (p,)
        Of a unit of cost, see `sweep_weights`.
    cheapest : int
        The model of the added point "everything to the cheapest model".
    guard, expected_std : Guard and array of shape (n, m), optional
        See `choose`.

    Returns
    -------
    Curve
        With p + 1 points, the added one last.

    Raises
    ------
    DataError
        If the shapes differ or an outcome is missing.
    """
    if not expected_quality.shape == expected_cost.shape == quality.shape == cost.shape:
        raise DataError(
            "estimates and outcomes must have one shape (n, m); got "
            f"{expected_quality.shape}, {expected_cost.shape}, {quality.shape}, {cost.shape}"
        )
    if not (np.isfinite(quality).all() and np.isfinite(cost).all()):
        raise DataError("replay needs an outcome of every model on every prompt; drop rows with NaN first")
    choices = choose(expected_quality, expected_cost, weights, guard=guard, expected_std=expected_std)
    everything_cheap = np.full((1, len(quality)), cheapest, dtype=np.int16)
    return curve_of_choices(
        np.concatenate([choices, everything_cheap]), np.append(weights, np.inf), quality=quality, cost=cost
    )
