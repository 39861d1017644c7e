"""Held-out estimates on the training prompts: every prompt is estimated by routers that were not fitted on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from llmrouter.evaluation._fit import predict_in_blocks, priced_tokens
from llmrouter.index import VectorIndex, create_index
from llmrouter.outcomes import OutcomeTable
from llmrouter.registry import create, resolve
from llmrouter.routers import NeighbourRouter, Router, cost_target
from llmrouter.types import FloatArray, IntArray

FOLDS = 5


@dataclass(frozen=True)
class Fold:
    """One fold: fitted on `rest`, judged on `held_out`; both are rows of the training table.

    `index` holds the embeddings of `rest` under ids 0, 1, ... and is shared by neighbour routers.
    """

    rest: IntArray
    held_out: IntArray
    index: VectorIndex


@dataclass(frozen=True)
class CrossFit:
    """Held-out estimates on n training prompts and m models.

    Attributes
    ----------
    quality, std, cost : array of shape (n, m)
        Expected quality, its standard error, and expected cost on the axis of the evaluation; NaN on prompts that
        belong to no fold.
    folds : tuple of Fold
        Who was estimated by whom.
    """

    quality: FloatArray
    std: FloatArray
    cost: FloatArray
    folds: tuple[Fold, ...]

    @property
    def rows(self) -> IntArray:
        """Return the estimated prompts, sorted."""
        return np.sort(np.concatenate([fold.held_out for fold in self.folds]))


def make_folds(X: FloatArray, eligible: npt.NDArray[np.bool_], *, seed: int, folds: int = FOLDS) -> tuple[Fold, ...]:
    """Deal the eligible prompts into folds at random; the others are only learned from.

    Parameters
    ----------
    X : array of shape (n, d)
        Embeddings of the training prompts.
    eligible : array of shape (n,), bool
        Prompts that can be judged.
    seed, folds : int
        Of the permutation; number of folds.
    """
    order = np.random.default_rng(seed).permutation(np.flatnonzero(eligible))
    made = []
    for part in np.array_split(order, folds):
        held_out = np.sort(part)
        rest = np.setdiff1d(np.arange(len(X)), held_out)
        index = create_index("auto", X.shape[1], rows=len(rest))
        index.add(np.arange(len(rest), dtype=np.int64), X[rest])
        made.append(Fold(rest, held_out, index))
    return tuple(made)


def fit_on(fold: Fold, name: str, parameters: Mapping[str, Any], X: FloatArray, y: FloatArray) -> Router:
    """Return the named router fitted on the rest of a fold; neighbour routers share the fold's index."""
    router: Router = create("router", name, **dict(parameters))
    if isinstance(router, NeighbourRouter) and router.shares_index:
        return router.fit_shared(fold.index, y[fold.rest])
    return router.fit(X[fold.rest], y[fold.rest])


def cost_router_of(name: str, parameters: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Return name and parameters of the router that estimates cost beside the named one."""
    other = getattr(resolve("router", name), "cost_router", None)
    return (name, parameters) if other is None else (other, {})


def held_out_cost(
    fold: Fold, train: OutcomeTable, *, known_cost: FloatArray | None, estimate: Callable[[FloatArray], FloatArray]
) -> FloatArray:
    """Return the expected cost of the held-out prompts of a fold, shape (held out, m).

    `estimate` takes what the cost router learns, (n, m), and returns its expectation of the held-out prompts.
    """
    if known_cost is not None:
        return known_cost[fold.held_out]
    target, unit = cost_target(train)
    expected = estimate(target)
    if unit == "output_tokens":
        return priced_tokens(expected, train.select(fold.held_out), train=train.select(fold.rest))
    return expected


def estimator(
    fold: Fold, X: FloatArray, *, name: str, parameters: Mapping[str, Any]
) -> Callable[[FloatArray], FloatArray]:
    """Return a function that fits the named router on outcomes (n, m) and estimates the held-out prompts."""
    return lambda y: predict_in_blocks(fit_on(fold, name, parameters, X, y), X[fold.held_out])


def cross_fit(
    train: OutcomeTable,
    X: FloatArray,
    *,
    name: str,
    parameters: Mapping[str, Any],
    known_cost: FloatArray | None = None,
    seed: int = 0,
    folds: int = FOLDS,
) -> CrossFit:
    """Estimate every training prompt by a router fitted on the others.

    Parameters
    ----------
    train : OutcomeTable
        n training prompts; those without any observed quality are learned from only.
    X : array of shape (n, d)
        Their embeddings.
    name, parameters : str, mapping
        Registry name and constructor parameters of the router.
    known_cost : array of shape (n, m), optional
        Costs that need no prediction.
    seed, folds : int
        Of the folds; their number.
    """
    shape = train.quality.shape
    quality, std, cost = np.full(shape, np.nan), np.full(shape, np.nan), np.full(shape, np.nan)
    made = make_folds(X, np.asarray(train.observed.any(axis=1), dtype=bool), seed=seed, folds=folds)
    for fold in made:
        router = fit_on(fold, name, parameters, X, train.quality)
        for rows in _blocks(fold.held_out):
            quality[rows], std[rows] = _estimate(router, X[rows])
        cost_name, cost_parameters = cost_router_of(name, parameters)
        estimate = estimator(fold, X, name=cost_name, parameters=cost_parameters)
        cost[fold.held_out] = held_out_cost(fold, train, known_cost=known_cost, estimate=estimate)
    return CrossFit(quality, std, cost, made)


def _estimate(router: Router, X: FloatArray) -> tuple[FloatArray, FloatArray]:
    return router.predict(X), router.predict_std(X)


def _blocks(rows: IntArray, size: int = 256) -> Iterator[IntArray]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
