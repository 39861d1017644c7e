"""Expected rewards of logged requests, each by a model that was not fitted on it: what doubly robust methods need."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from llmrouter.exceptions import DataError
from llmrouter.registry import create, parse_spec
from llmrouter.routers import Router, weighted_mean
from llmrouter.types import FloatArray, IntArray

DEFAULT_ROUTER = "linear-bandit"
"""Of `benchmarks.learning.missing_arms` the one that expected best what was not seen."""
FOLDS = 5
_BLOCK = 512


def cross_fitted(
    X: FloatArray,
    y: FloatArray,
    *,
    router: str = DEFAULT_ROUTER,
    weight: FloatArray | None = None,
    groups: Sequence[str | None] | None = None,
    history: tuple[FloatArray, FloatArray] | None = None,
    folds: int = FOLDS,
    seed: int = 0,
) -> FloatArray:
    """Return held-out expectations of every cell, shape (n, m).

    Parameters
    ----------
    X : array of shape (n, d)
        Embeddings.
    y : array of shape (n, m)
        Rewards, NaN where not observed.
    router : str
        Registry spec of the regressor.
    weight : array of shape (n,), optional
        Of each row in fitting.
    groups : sequence of str or None, length n, optional
        Rows of one group (e.g. of the same text) fall into one fold, so that none is estimated by its own copy; None
        stands alone.
    history : (array of shape (k, d), array of shape (k, m)), optional
        Embeddings and rewards of other requests, e.g. earlier ones, that every fold learns from too.
    folds : int
        At least 2.
    seed : int
        Deals the groups into folds.

    Returns
    -------
    array of shape (n, m)
        A model that a fold never saw gets the mean of the cells that were observed there.

    Raises
    ------
    DataError
        If nothing was observed, or there are fewer rows than folds.
    """
    if not np.isfinite(y).any():
        raise DataError("no reward was observed; nothing can be expected of anything")
    if folds < 2 or len(X) < folds:
        raise DataError(f"cross-fitting needs at least 2 folds and as many rows; got {folds} folds, {len(X)} rows")
    fold = _dealt(len(X), groups, folds=folds, seed=seed)
    once = np.ones(len(X)) if weight is None else weight
    past_X, past_y = (X[:0], y[:0]) if history is None else history
    past_rows = np.isfinite(past_y).any(axis=1)
    past_X, past_y = past_X[past_rows], past_y[past_rows]
    expected = np.full(y.shape, np.nan)
    for number in range(folds):
        inside = fold == number
        rest = ~inside & np.isfinite(y).any(axis=1) & (once > 0)
        if not inside.any():
            continue
        seen = np.concatenate([y[rest], past_y])
        if not len(seen):  # everything observed is in this fold
            expected[inside] = float(np.nanmean(y))
            continue
        learned = fitted(
            np.concatenate([X[rest], past_X]),
            seen,
            router=router,
            weight=np.concatenate([once[rest], np.ones(len(past_y))]),
        )
        expected[inside] = _completed(learned, X[inside], seen)
    return expected


def fitted(X: FloatArray, y: FloatArray, *, router: str = DEFAULT_ROUTER, weight: FloatArray | None = None) -> Router:
    """Return the regressor of a registry spec, fitted on rewards y (n, m) with NaN."""
    name, parameters = parse_spec(router)
    made: Router = create("router", name, **parameters)
    return made.fit(X, y, weight)


def in_blocks(router: Router, X: FloatArray) -> FloatArray:
    """Return ``router.predict(X)``, shape (n, m), in blocks of rows to bound the memory."""
    return np.concatenate([router.predict(X[start : start + _BLOCK]) for start in range(0, len(X), _BLOCK)])


def _completed(router: Router, X: FloatArray, seen: FloatArray) -> FloatArray:
    expected = in_blocks(router, X)
    level = weighted_mean(seen, np.ones(len(seen)))
    level = np.where(np.isfinite(level), level, float(np.nanmean(seen)))
    completed: FloatArray = np.where(np.isfinite(expected), expected, level)
    return completed


def _dealt(n: int, groups: Sequence[str | None] | None, *, folds: int, seed: int) -> IntArray:
    order = np.random.default_rng(seed).permutation(n)
    alone: IntArray = np.empty(n, dtype=np.int64)
    alone[order] = np.arange(n) % folds
    if groups is None:
        return alone
    if len(groups) != n:
        raise DataError(f"groups must name a group for each of {n} rows; got {len(groups)}")
    shared = [
        number if group is None else zlib.crc32(f"{seed}:{group}".encode("utf-8", "replace")) % folds
        for number, group in zip(alone.tolist(), groups, strict=True)
    ]
    return np.array(shared, dtype=np.int64)
