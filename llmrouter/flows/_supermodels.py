"""Supermodels: sets of models all of which are called, of whose answers the best is kept (arXiv 2410.10347).

The quality of a supermodel is E[max] of its models' qualities, each taken to be normal around its estimate with the
standard deviation by which the model's own answer would still move that estimate. As in the paper the expectation is a
mean over quasi-random samples, here the same for all sets and cut to [0, 1]: maxima over a common sample are
submodular, which makes the paper's pruning exact.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from llmrouter.types import FloatArray

SAMPLES = 128
_UTILITY_DIGITS = 12


def normal_samples(models: int, *, samples: int = SAMPLES, seed: int = 0) -> FloatArray:
    """Return quasi-random standard normal samples, shape (models, samples), each row of unit variance.

    Scrambled Sobol points, as in the paper's code, and their mirror images: the quality of a single model is exactly
    its estimate.
    """
    from scipy.stats import norm, qmc

    points = qmc.Sobol(d=models, scramble=True, seed=np.random.default_rng(seed)).random(samples // 2)
    normal = norm.ppf(points).T
    mirrored = np.concatenate([normal, -normal], axis=1)
    return np.asarray(mirrored / mirrored.std(axis=1, keepdims=True))


def sampled_qualities(estimate: FloatArray, deviation: FloatArray, samples: FloatArray) -> FloatArray:
    """Return possible qualities, shape (n, m, samples), of estimates and deviations (n, m); -inf for a NaN estimate.

    Deviations are cut, alike on both sides, so that no quality leaves [0, 1]: nobody should pay for the chance of an
    answer better than a perfect one.
    """
    room = np.clip(np.minimum(estimate, 1 - estimate), 0.0, None)[:, :, None]
    drawn = estimate[:, :, None] + np.clip(deviation[:, :, None] * samples, -room, room)
    return np.where(np.isnan(drawn), -np.inf, drawn)


def additions(
    called: Sequence[int], *, models: int, combinable: Sequence[int], max_calls: int
) -> list[tuple[int, ...]]:
    """Return the sets of models that may be called on top of those called, smallest first, each in ascending order.

    Parameters
    ----------
    called : sequence of int
        Called already; with an empty addition (stop) only if there are any.
    models : int
        Number of columns m; any of them may be called alone.
    combinable : sequence of int
        Models that may be called together with others of them.
    max_calls : int
        Largest size of a supermodel, the called ones included.
    """
    room = max_calls - len(called)
    if room <= 0:
        return [()]
    free = [j for j in combinable if j not in called] if set(called) <= set(combinable) else []
    singles = free if called else range(models)
    found: list[tuple[int, ...]] = [()] if called else []
    found += [(j,) for j in singles]
    for size in range(2, room + 1):
        found += itertools.combinations(free, size)
    return found


@dataclass(frozen=True)
class SupermodelTable:
    """All supermodels of n prompts after the same calls.

    Attributes
    ----------
    quality : array of shape (n, s)
        E[max] over the called models and the addition.
    cost : array of shape (n, s)
        Expected cost of the addition.
    first : array of shape (n, s), int16
        The addition's cheapest model, to be called first; -1 for stopping.
    """

    quality: FloatArray
    cost: FloatArray
    first: npt.NDArray[np.int16]

    def decide(self, weights: FloatArray) -> npt.NDArray[np.int16]:
        """Return the next model (p, n) for each weight of cost, -1 for stopping; ties go to what costs less."""
        order = np.argsort(self.cost, axis=1, kind="stable")
        quality = np.take_along_axis(self.quality, order, axis=1)
        cost = np.take_along_axis(self.cost, order, axis=1)
        first = np.take_along_axis(self.first, order, axis=1)
        rows = np.arange(len(order))
        decided = np.empty((len(weights), len(order)), dtype=np.int16)
        for index, weight in enumerate(weights.tolist()):
            utility = np.round(quality - weight * cost, _UTILITY_DIGITS)
            decided[index] = first[rows, utility.argmax(axis=1)]
        return decided


def tabulate(
    sampled: FloatArray, expected_cost: FloatArray, *, called: Sequence[int], sets: Sequence[tuple[int, ...]]
) -> SupermodelTable:
    """Compute all supermodels of n prompts.

    Parameters
    ----------
    sampled : array of shape (n, m, samples)
        See `sampled_qualities`.
    expected_cost : array of shape (n, m)
        Of each call. A model with a NaN cost is never added.
    called : sequence of int
        Models called already.
    sets : sequence of tuple of int
        Additions, see `additions`.
    """
    n = len(sampled)
    quality, cost = np.empty((n, len(sets))), np.zeros((n, len(sets)))
    first = np.full((n, len(sets)), -1, dtype=np.int16)
    unknown = np.isnan(expected_cost) | np.isneginf(sampled[:, :, 0])
    in_hand = sampled[:, list(called)].max(axis=1) if called else None
    for index, added in enumerate(sets):
        columns = list(added)
        best = in_hand
        for column in columns:
            best = sampled[:, column] if best is None else np.maximum(best, sampled[:, column])
        quality[:, index] = -np.inf if best is None else best.mean(axis=1)
        if columns:
            costs = expected_cost[:, columns]
            bad = unknown[:, columns].any(axis=1)
            quality[bad, index] = -np.inf
            cost[:, index] = np.where(bad, 0.0, np.nan_to_num(costs.sum(axis=1)))
            first[:, index] = np.array(columns)[np.where(np.isnan(costs), np.inf, costs).argmin(axis=1)]
    return SupermodelTable(quality, cost, first)


def best_addition(
    sampled: FloatArray,
    expected_cost: FloatArray,
    *,
    called: Sequence[int],
    open_models: Sequence[int],
    combinable: Sequence[int],
    weight: float,
    max_calls: int,
    budget: float,
) -> tuple[int, ...]:
    """Return the best set of models to add for one prompt, by the paper's pruned search; () is to stop.

    A set is not extended once its last model's gain is below its weighted cost: by submodularity no larger set holding
    that model can be the best one (the paper's Lemma 1).

    Parameters
    ----------
    sampled : array of shape (m, samples)
        Possible qualities of each model.
    expected_cost : array of shape (m,)
        Of each call.
    called, open_models, combinable : sequence of int
        Called already; may be called now, alone or (where also combinable) with others.
    weight : float
        Weight of a unit of cost.
    max_calls : int
        Largest size of a supermodel, the called ones included.
    budget : float
        Additions may not cost more than this together.
    """
    together = [j for j in open_models if j in combinable] if set(called) <= set(combinable) else []
    in_hand = sampled[list(called)].max(axis=0) if called else None
    best = start = _Set((), in_hand, -math.inf if in_hand is None else float(in_hand.mean()), 0.0)
    frontier = [start]
    for size in range(1, max_calls - len(called) + 1):
        pool = open_models if size == 1 and not called else together
        larger = [grown for parent in frontier for grown in _grow(parent, sampled, expected_cost, pool, weight, budget)]
        best = min([best, *larger], key=lambda grown: grown.key(weight))
        frontier = [grown for grown in larger if grown.added[-1] in combinable]
    return best.added


class _Set(NamedTuple):
    """A supermodel under consideration: what it adds, the maximum of its sampled qualities, its mean, its cost."""

    added: tuple[int, ...]
    maximum: FloatArray | None
    quality: float
    cost: float

    def key(self, weight: float) -> tuple[float, float]:
        """Return what to minimise: the negative utility, then the cost."""
        return -round(self.quality - weight * self.cost, _UTILITY_DIGITS), self.cost


def _grow(
    parent: _Set, sampled: FloatArray, expected_cost: FloatArray, pool: Sequence[int], weight: float, budget: float
) -> list[_Set]:
    """Return the sets with one model more that are within the budget and not pruned."""
    last = parent.added[-1] if parent.added else -1
    # A cost nobody knows (NaN) is not within any budget.
    columns = [
        j for j in pool if j > last and parent.cost + expected_cost[j] <= budget and not np.isneginf(sampled[j, 0])
    ]
    if not columns:
        return []
    joined = sampled[columns] if parent.maximum is None else np.maximum(parent.maximum, sampled[columns])
    costs = expected_cost[columns].tolist()
    return [
        _Set((*parent.added, j), maximum, quality, parent.cost + cost)
        for j, maximum, quality, cost in zip(columns, joined, joined.mean(axis=1).tolist(), costs, strict=True)
        if parent.maximum is None or quality - parent.quality >= weight * cost
    ]
