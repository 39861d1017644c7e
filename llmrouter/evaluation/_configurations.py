"""LLMRouterBench's figures: gains over reference choices, and a router's configurations against everybody's best.

A configuration is an operating point as it is, without mixing. Li et al., "LLMRouterBench: A Massive Benchmark and
Unified Framework for LLM Routing", arXiv:2601.07206.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from llmrouter.exceptions import DataError
from llmrouter.types import FloatArray

# Two means of the same values, summed in another order, differ by less than this.
_SAME_QUALITY = 1e-12


def average_accuracy(quality: FloatArray, tasks: Sequence[str | None]) -> float:
    """Return AvgAcc: the mean over the tasks of the mean quality within each; prompts without a task are one task.

    Parameters
    ----------
    quality : array of shape (n,)
        Of the chosen answers; NaN is left out.
    tasks : sequence of str or None, length n
        Task of each prompt.

    Raises
    ------
    DataError
        If the lengths differ.
    """
    if quality.shape != (len(tasks),):
        raise DataError(f"quality must be ({len(tasks)},), one value a task label; got {quality.shape}")
    known = np.isfinite(quality)
    names = np.array(["" if task is None else f"={task}" for task in tasks])[known]
    if not names.size:
        return math.nan
    _, group = np.unique(names, return_inverse=True)
    return float((np.bincount(group, weights=quality[known]) / np.bincount(group)).mean())


def relative_gain(value: float, base: float) -> float:
    """Return ``value / base - 1`` (Gain@R, Gain@B and PerfGain, by what `base` is); NaN where `base` is not > 0."""
    return value / base - 1 if base > 0 else math.nan


def gap_to_oracle(value: float, oracle: float) -> float:
    """Return Gap@O: what is missing to the oracle, as a share of the oracle; NaN where the oracle is not > 0."""
    return 1 - value / oracle if oracle > 0 else math.nan


def cost_save(cost: FloatArray, quality: FloatArray, *, reference_cost: float, reference_quality: float) -> float:
    """Return CostSave: what the cheapest configuration at least as good as a reference saves of its cost.

    Parameters
    ----------
    cost, quality : array of shape (p,)
        Configurations.
    reference_cost, reference_quality : float
        Of the best single model.

    Returns
    -------
    float
        Negative if it is dearer; NaN if no configuration is as good (N/A in the paper), or the reference is free.
    """
    as_good = quality >= reference_quality - _SAME_QUALITY
    if not as_good.any() or not reference_cost > 0:
        return math.nan
    return float(1 - cost[as_good].min() / reference_cost)


def pareto_frontier(cost: FloatArray, quality: FloatArray) -> npt.NDArray[np.bool_]:
    """Return which configurations, shape (p,), no other one beats: none is cheaper and as good, or as cheap and better.

    Equal configurations are on the frontier together.
    """
    order = np.lexsort((-quality, cost))
    best_before = np.append(-np.inf, np.maximum.accumulate(quality[order])[:-1])
    on = np.zeros(len(cost), dtype=bool)
    on[order] = quality[order] > best_before
    kept = set(zip(cost[on].tolist(), quality[on].tolist(), strict=True))
    return np.array([point in kept for point in zip(cost.tolist(), quality.tolist(), strict=True)], dtype=bool)


def pareto_distances(configurations: Mapping[str, tuple[FloatArray, FloatArray]]) -> dict[str, float]:
    """Return ParetoDist of every router: the mean distance of its configurations to the joint Pareto frontier.

    The paper calls it a mean normalised distance and its code does not hold it. Here: cost and quality are each scaled
    to [0, 1] over all configurations of all routers; the frontier is the set of configurations that none beats; the
    distance is the Euclidean one to the nearest of them; equal configurations of one router count once.

    Parameters
    ----------
    configurations : mapping of str to (cost, quality)
        Arrays of shape (p,) for each router, p >= 1.

    Returns
    -------
    dict of str to float
        0 for a router all of whose configurations lie on the frontier; NaN for one without a known configuration.
    """
    points = {
        name: np.unique(pairs[np.isfinite(pairs).all(axis=1)], axis=0)
        for name, pairs in ((name, np.column_stack(given)) for name, given in configurations.items())
    }
    everything = np.concatenate(list(points.values())) if points else np.empty((0, 2))
    if not len(everything):
        return dict.fromkeys(configurations, math.nan)
    low, span = everything.min(axis=0), np.ptp(everything, axis=0)
    scale = np.where(span > 0, span, 1.0)
    frontier = (np.unique(everything[pareto_frontier(everything[:, 0], everything[:, 1])], axis=0) - low) / scale
    found = {}
    for name, own in points.items():
        distance = np.linalg.norm(((own - low) / scale)[:, None, :] - frontier[None, :, :], axis=2)
        found[name] = float(distance.min(axis=1).mean()) if len(own) else math.nan
    return found
