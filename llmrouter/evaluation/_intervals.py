"""Paired bootstrap over prompts: how far an AIQ, or a difference of two, depends on which prompts were drawn.

Every resample draws the test prompts with replacement and recomputes everything on them: each router's curve and
hull, and the Zero router's cost interval. All routers see the same resamples, so differences are paired. What is not
resampled is the training set; the intervals speak of these fitted routers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from llmrouter.evaluation._metrics import area, hull_vertices
from llmrouter.evaluation._replay import Curve
from llmrouter.exceptions import ConfigError
from llmrouter.types import FloatArray

# Resamples held in memory at once: bounds the (resamples, prompts) count matrix.
_CHUNK = 200


@dataclass(frozen=True)
class Interval:
    """A percentile interval.

    Attributes
    ----------
    estimate : float
        The value on the prompts themselves.
    low, high : float
        Ends of the interval; NaN if it is undefined in every resample.
    level : float
        Coverage aimed at, e.g. 0.95.
    undefined : int
        Resamples in which the value was undefined (the Zero router's interval had no length); left out.
    """

    estimate: float
    low: float
    high: float
    level: float
    undefined: int = 0


def _aiq_samples(mean_cost: FloatArray, mean_quality: FloatArray, lows: FloatArray, highs: FloatArray) -> FloatArray:
    """Return the AIQ in each of b resamples of curves given as (b, p) means."""
    result = np.full(len(mean_cost), np.nan)
    rows = zip(mean_cost.tolist(), mean_quality.tolist(), lows.tolist(), highs.tolist(), strict=True)
    for index, (costs, qualities, low, high) in enumerate(rows):
        if high > low:
            vertices = hull_vertices(list(zip(costs, qualities, strict=True)))
            result[index] = area(vertices, low, high) / (high - low)
    return result


def _zero_bounds(mean_cost: FloatArray, mean_quality: FloatArray) -> tuple[FloatArray, FloatArray]:
    hulls = [
        hull_vertices(list(zip(costs, qualities, strict=True)))
        for costs, qualities in zip(mean_cost.tolist(), mean_quality.tolist(), strict=True)
    ]
    return np.array([hull[0][0] for hull in hulls]), np.array([hull[-1][0] for hull in hulls])


def _distinct(curve: Curve) -> tuple[FloatArray, FloatArray]:
    """Return the (p, n) costs and qualities without repeated operating points: neighbouring weights often agree."""
    # by what they cost and achieve: a flow may keep the same models after other calls
    _, first = np.unique(np.concatenate([curve.cost, curve.quality], axis=1), axis=0, return_index=True)
    return curve.cost[first], curve.quality[first]


def _resampled_shares(n: int, *, resamples: int, seed: int) -> Iterator[FloatArray]:
    """Yield how often each of n prompts is drawn, divided by n, as chunks of shape (resamples in the chunk, n)."""
    if resamples < 1:
        raise ConfigError(f"resamples must be at least 1; got {resamples}")
    random = np.random.default_rng(seed)
    for start in range(0, resamples, _CHUNK):
        drawn = random.integers(0, n, size=(min(_CHUNK, resamples - start), n))
        yield np.stack([np.bincount(row, minlength=n) for row in drawn]) / n


def bootstrap_aiq(
    curves: Mapping[str, Curve], zero: Curve, *, resamples: int = 1000, seed: int = 0
) -> dict[str, FloatArray]:
    """Return the AIQ of every curve in every resample of the prompts.

    Parameters
    ----------
    curves : mapping of str to Curve
        All on the same n prompts.
    zero : Curve
        Of the Zero router, whose hull gives the cost interval of each resample.
    resamples : int
        Number of resamples b.
    seed : int
        Of the draws.

    Returns
    -------
    dict of str to array of shape (b,)
        Row i of every array belongs to the same resample; NaN where the interval has no length.
    """
    points = {name: _distinct(curve) for name, curve in curves.items()}
    parts: dict[str, list[FloatArray]] = {name: [] for name in curves}
    for share in _resampled_shares(zero.cost.shape[1], resamples=resamples, seed=seed):
        lows, highs = _zero_bounds(share @ zero.cost.T, share @ zero.quality.T)
        for name, (cost, quality) in points.items():
            parts[name].append(_aiq_samples(share @ cost.T, share @ quality.T, lows, highs))
    return {name: np.concatenate(chunks) for name, chunks in parts.items()}


def bootstrap_means(values: Mapping[str, FloatArray], *, resamples: int = 1000, seed: int = 0) -> dict[str, FloatArray]:
    """Return the mean of every row of values in every resample of the prompts, the resamples of `bootstrap_aiq`.

    Parameters
    ----------
    values : mapping of str to array of shape (n,)
        One value a prompt, all on the same prompts.
    resamples, seed : int
        As in `bootstrap_aiq`: with the same two, row i belongs to the same resample there and here.

    Returns
    -------
    dict of str to array of shape (b,)
    """
    if not values:
        return {}
    stacked = np.stack(list(values.values()), axis=1)
    shares = _resampled_shares(len(stacked), resamples=resamples, seed=seed)
    means = np.concatenate([share @ stacked for share in shares])
    return dict(zip(values, means.T, strict=True))


def percentile_interval(samples: FloatArray, estimate: float, *, level: float = 0.95) -> Interval:
    """Return the percentile interval of bootstrap samples of shape (b,); NaN samples are left out and counted."""
    if not 0 < level < 1:
        raise ConfigError(f"level must lie strictly between 0 and 1; got {level}")
    known = samples[np.isfinite(samples)]
    undefined = len(samples) - len(known)
    if not len(known):
        return Interval(estimate, math.nan, math.nan, level, undefined)
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return Interval(estimate, low, high, level, undefined)
