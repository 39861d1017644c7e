"""Metrics of a cost-quality curve: the non-decreasing convex hull and what is read off it.

A router's operating points (mean cost, mean quality) are joined by mixing: sending a share of the prompts to one point
and the rest to another reaches every point on the line between them. The best that can be had at each cost is the
upper hull of the points, and as nobody has to spend more for less, its non-decreasing part [1]_.

Outside the points' range the hull goes on like this: to the right flat (money left unspent); to the left on the line
to (0, 0), that is by not answering a share of the prompts at all. A curve that holds the point "everything to the
cheapest model", as every curve of `llmrouter.evaluation.evaluate` does, never needs the left part in practice.

Undefined values are NaN, never an exception: see `undefined_reasons`.

References
----------
.. [1] Hu et al., "RouterBench: A Benchmark for Multi-LLM Routing System", arXiv:2403.12031.
.. [2] Jitkrittum et al., "Universal Model Routing for Efficient LLM Inference", arXiv:2502.08773.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np

from llmrouter.exceptions import DataError
from llmrouter.types import FloatArray

# Two means of the same values, summed in another order, differ by less than this.
_SAME_QUALITY = 1e-12


class Hull(NamedTuple):
    """Vertices of a non-decreasing convex hull, strictly increasing in both coordinates; empty if nothing was observed.

    Attributes
    ----------
    cost : array of shape (v,)
        Mean cost a prompt.
    quality : array of shape (v,)
        Mean quality at that cost.
    """

    cost: FloatArray
    quality: FloatArray


def hull_vertices(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the hull vertices of finite (cost, quality) points; the plain-Python core of `non_decreasing_hull`."""
    chain: list[tuple[float, float]] = []
    for cost, quality in sorted(points, key=lambda point: (point[0], -point[1])):
        if chain and quality <= chain[-1][1]:
            continue  # a cheaper (or equally dear) point is at least as good
        while len(chain) >= 2:
            (cost_a, quality_a), (cost_b, quality_b) = chain[-2], chain[-1]
            if (cost_b - cost_a) * (quality - quality_a) < (quality_b - quality_a) * (cost - cost_a):
                break
            chain.pop()
        chain.append((cost, quality))
    return chain


def area(vertices: list[tuple[float, float]], low: float, high: float) -> float:
    """Return the integral of the hull over the costs [low, high]; the plain-Python core of `aiq`."""
    first_cost, first_quality = vertices[0]
    total = 0.0
    if low < first_cost:
        slope = first_quality / first_cost
        total += slope * (min(high, first_cost) ** 2 - low**2) / 2
    for (cost_a, quality_a), (cost_b, quality_b) in itertools.pairwise(vertices):
        start, stop = max(cost_a, low), min(cost_b, high)
        if start < stop:
            slope = (quality_b - quality_a) / (cost_b - cost_a)
            total += (stop - start) * (quality_a + slope * ((start + stop) / 2 - cost_a))
    last_cost, last_quality = vertices[-1]
    if high > last_cost:
        total += last_quality * (high - max(low, last_cost))
    return total


def non_decreasing_hull(cost: FloatArray, quality: FloatArray) -> Hull:
    """Return the non-decreasing convex hull of operating points.

    Parameters
    ----------
    cost : array of shape (p,)
        Mean costs, >= 0.
    quality : array of shape (p,)
        Mean qualities. A point with a NaN coordinate is left out.

    Raises
    ------
    DataError
        If the shapes differ, or a cost is negative or a coordinate infinite.
    """
    cost, quality = np.asarray(cost, dtype=np.float64), np.asarray(quality, dtype=np.float64)
    if cost.ndim != 1 or cost.shape != quality.shape:
        raise DataError(f"cost and quality must be 1-d of one length; got {cost.shape} and {quality.shape}")
    known = ~(np.isnan(cost) | np.isnan(quality))
    cost, quality = cost[known], quality[known]
    if (cost < 0).any() or np.isinf(cost).any() or np.isinf(quality).any():
        raise DataError("costs must be finite and >= 0 and qualities finite; use NaN for what was not observed")
    vertices = hull_vertices(list(zip(cost.tolist(), quality.tolist(), strict=True)))
    return Hull(np.array([c for c, _ in vertices]), np.array([q for _, q in vertices]))


def quality_at_cost(hull: Hull, cost: FloatArray | float) -> FloatArray:
    """Return the quality the hull reaches at each cost, in the shape of `cost`; NaN for an empty hull."""
    wanted = np.asarray(cost, dtype=np.float64)
    if hull.cost.size == 0:
        return np.full(wanted.shape, np.nan)
    value = np.interp(wanted, hull.cost, hull.quality)
    if hull.cost[0] > 0:
        value = np.where(wanted < hull.cost[0], hull.quality[0] * wanted / hull.cost[0], value)
    return np.asarray(value)


def cost_at_quality(hull: Hull, quality: float) -> float:
    """Return the smallest cost at which the hull has at least `quality`: inf if it never has, NaN for an empty hull.

    The line to (0, 0) left of the hull does not count: an unanswered prompt is no answer of lower quality.
    """
    if hull.cost.size == 0 or math.isnan(quality):
        return math.nan
    if quality <= hull.quality[0] + _SAME_QUALITY:
        return float(hull.cost[0])
    if quality > hull.quality[-1] + _SAME_QUALITY:
        return math.inf
    return float(np.interp(quality, hull.quality, hull.cost))


def aiq(hull: Hull, interval: tuple[float, float]) -> float:
    """Return the average improvement in quality: the mean height of the hull over a cost interval.

    This is the RouterBench paper's definition. The interval is given by the caller; this project takes the cost
    interval of the Zero router's hull on the evaluated prompts for all routers, so that they are measured over one
    range of costs (with each router's own interval a router that cannot be cheap would gain by it).

    Parameters
    ----------
    hull : Hull
        Of the router's operating points.
    interval : tuple of float
        Smallest and largest cost.

    Returns
    -------
    float
        In the unit of quality; NaN if the hull is empty or the interval has no length.
    """
    low, high = interval
    if hull.cost.size == 0 or not high > low:
        return math.nan
    return area(list(zip(hull.cost.tolist(), hull.quality.tolist(), strict=True)), low, high) / (high - low)


def aiq_code(hull: Hull, max_cost: float) -> float:
    """Return AIQ as RouterBench's released code computes it, which is not what the paper says.

    The hull is extended flat to `max_cost`, the largest hull cost of all routers compared, and integrated from the
    router's own cheapest point (not from 0), then divided by `max_cost`. It is systematically lower than `aiq`, and
    depends on which routers are compared: never set one beside the other.

    Returns
    -------
    float
        NaN if the hull is empty or `max_cost` is 0.
    """
    if hull.cost.size == 0 or not max_cost > 0:
        return math.nan
    vertices = list(zip(hull.cost.tolist(), hull.quality.tolist(), strict=True))
    return area(vertices, float(hull.cost[0]), max(max_cost, float(hull.cost[-1]))) / max_cost


def cost_share_to_match(hull: Hull, *, quality: float, cost: float) -> float:
    """Return the smallest cost at which the hull has `quality`, as a share of `cost`.

    Returns
    -------
    float
        inf if the quality is never reached; NaN if `cost` is 0 or unknown, or the hull is empty.
    """
    return cost_at_quality(hull, quality) / cost if cost > 0 else math.nan


def qnc(hull: Hull, model_cost: FloatArray, model_quality: FloatArray) -> float:
    """Return the quality-neutral cost [2]_: the cost of matching the most accurate model, as a share of its cost.

    Parameters
    ----------
    hull : Hull
        Of the router's operating points.
    model_cost, model_quality : array of shape (m,)
        Means of the single models on the same prompts. Of equally accurate models the cheapest counts.

    Returns
    -------
    float
        inf if the router never matches it; NaN if that model costs nothing or no model was observed. May exceed 1.
    """
    known = ~(np.isnan(model_cost) | np.isnan(model_quality))
    if not known.any():
        return math.nan
    quality = float(model_quality[known].max())
    cost = float(model_cost[known][model_quality[known] >= quality].min())
    return cost_share_to_match(hull, quality=quality, cost=cost)


def undefined_reasons(hull: Hull, interval: tuple[float, float], *, best_cost: float, best_quality: float) -> list[str]:
    """Return why `aiq` or `qnc` is NaN or infinite, one sentence each; empty if both are finite.

    `best_cost` and `best_quality` are those of the most accurate model.
    """
    if hull.cost.size == 0:
        return ["no operating point was observed, so no metric is defined"]
    reasons = []
    if not interval[1] > interval[0]:
        reasons.append(
            "AIQ is undefined: the cheapest model is also the best (or there is one model, or all cost the same), so "
            "the Zero router's hull is a single point and the cost interval has no length"
        )
    if not best_cost > 0:
        reasons.append("QNC is undefined: the most accurate model costs nothing")
    elif cost_at_quality(hull, best_quality) == math.inf:
        reasons.append("QNC is infinite: the quality of the most accurate model is never reached")
    return reasons
