"""What a router saves when it keeps a share of the best single model's quality, with bootstrap intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmrouter.evaluation._intervals import bootstrap_means
from llmrouter.evaluation._metrics import cost_at_quality, non_decreasing_hull
from llmrouter.evaluation._replay import Curve
from llmrouter.evaluation._result import EvaluationResult, RouterResult
from llmrouter.types import FloatArray

# Shares of the best single model's quality to keep.
KEPT = (1.0, 0.99, 0.97, 0.95, 0.9)


@dataclass(frozen=True)
class Saving:
    """Cost of keeping a share of the best single model's quality, as a share of its cost.

    Attributes
    ----------
    kept : float
        Share of the quality that is kept.
    share : float
        Share of the cost; inf for never, NaN where the best single model is free.
    low, high : float
        Ends of a paired bootstrap interval; NaN without resamples.
    reached : float
        Share of the resamples in which the quality is reached; NaN without resamples.
    """

    kept: float
    share: float
    low: float = math.nan
    high: float = math.nan
    reached: float = math.nan


def shares_of_cost(
    cost: FloatArray, quality: FloatArray, *, single_cost: float, single_quality: float, kept: Sequence[float]
) -> list[float]:
    """Return the share of the best single model's cost at which points (p,) reach each share of its quality."""
    if not single_cost > 0:
        return [math.nan] * len(kept)
    hull = non_decreasing_hull(cost, quality)
    return [cost_at_quality(hull, share * single_quality) / single_cost for share in kept]


def savings(router: RouterResult, result: EvaluationResult, *, kept: Sequence[float] = KEPT) -> list[Saving]:
    """Return what keeping shares of the quality of the best single model (by train) costs on the router's hull.

    The resamples are those of the other intervals; each recomputes the hull and the best single model's own cost and
    quality. The point on the hull is chosen by its test outcomes.
    """
    column = result.models.index(result.best_single)
    curve = router.curve
    estimates = shares_of_cost(
        curve.mean_cost,
        curve.mean_quality,
        single_cost=float(result.model_cost[column]),
        single_quality=float(result.model_quality[column]),
        kept=kept,
    )
    samples = _resampled(curve, result, column=column, kept=kept)
    level = float(result.settings.get("level", 0.95))
    found = []
    for place, (share, estimate) in enumerate(zip(kept, estimates, strict=True)):
        values = samples[:, place]
        values = values[~np.isnan(values)]
        if not values.size:
            found.append(Saving(share, estimate))
            continue
        # No interpolation: it would make NaN of a step from a number to inf.
        low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf").tolist()
        found.append(Saving(share, estimate, low, high, float(np.isfinite(values).mean())))
    return found


def _resampled(curve: Curve, result: EvaluationResult, *, column: int, kept: Sequence[float]) -> FloatArray:
    """Return the shares of cost in every resample, shape (b, kept); b is 0 without resamples."""
    resamples = int(result.settings.get("resamples") or 0)
    if not resamples:
        return np.empty((0, len(kept)))
    pairs = [(curve.cost[index], curve.quality[index]) for index in range(len(curve.cost))]
    values = {f"cost {index}": cost for index, (cost, _) in enumerate(pairs)}
    values |= {f"quality {index}": quality for index, (_, quality) in enumerate(pairs)}
    values |= {"single cost": result.cost[:, column], "single quality": result.quality[:, column]}
    means = bootstrap_means(values, resamples=resamples, seed=int(result.settings["seed"]))
    costs = np.stack([means[f"cost {index}"] for index in range(len(pairs))], axis=1)
    qualities = np.stack([means[f"quality {index}"] for index in range(len(pairs))], axis=1)
    singles = zip(means["single cost"].tolist(), means["single quality"].tolist(), strict=True)
    return np.array(
        [
            shares_of_cost(costs[row], qualities[row], single_cost=cost, single_quality=quality, kept=kept)
            for row, (cost, quality) in enumerate(singles)
        ]
    )
