"""Choose the kNN router's neighbourhood on the training prompts by cross-validation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from llmrouter.evaluation._bounds import ZeroRouter
from llmrouter.evaluation._fit import priced_tokens
from llmrouter.evaluation._metrics import aiq
from llmrouter.evaluation._replay import cheapest_model, replay, sweep_weights
from llmrouter.exceptions import DataError
from llmrouter.index import Neighbors, VectorIndex, create_index
from llmrouter.outcomes import OutcomeTable
from llmrouter.routers import KNNRouter, cost_target
from llmrouter.types import FloatArray

FOLDS = 5
NEIGHBOURS: tuple[int, ...] = (5, 10, 20, 40, 60, 100, 150, 200, 300)
SHRINKAGES: tuple[float, ...] = (0.0, 5.0, 20.0)


@dataclass(frozen=True)
class Tuning:
    """Outcome of a search.

    Attributes
    ----------
    parameters : mapping
        The chosen constructor parameters.
    score : float
        Their mean over the folds of the objective.
    objective : str
        ``aiq``, or ``quality`` (at cost weight 0) where AIQ is undefined on a fold.
    scores : tuple of mapping
        Every setting tried, with its score.
    folds : int
        Number of folds.
    """

    parameters: Mapping[str, Any]
    score: float
    objective: str
    scores: tuple[Mapping[str, Any], ...]
    folds: int


@dataclass(frozen=True)
class _Fold:
    """One fold: the rest is stored, the held-out prompts are searched once for all settings."""

    index: VectorIndex
    found: Neighbors
    rest: npt.NDArray[np.int64]
    held_out: npt.NDArray[np.int64]


def _make_folds(X: FloatArray, complete: npt.NDArray[np.bool_], *, k: int, seed: int) -> list[_Fold]:
    """Deal the complete rows into folds; incomplete ones can be learned from but not replayed: never held out."""
    order = np.random.default_rng(seed).permutation(np.flatnonzero(complete))
    folds = []
    for part in np.array_split(order, FOLDS):
        held_out = np.sort(part)
        rest = np.setdiff1d(np.arange(len(X)), held_out)
        index = create_index("exact", X.shape[1])
        index.add(np.arange(len(rest), dtype=np.int64), X[rest])
        folds.append(_Fold(index, index.search(X[held_out], min(k, len(rest))), rest, held_out))
    return folds


def _estimate(fold: _Fold, y: FloatArray, parameters: Mapping[str, Any]) -> FloatArray:
    return KNNRouter(**parameters).fit_shared(fold.index, y[fold.rest]).predict_from(fold.found)[0]


def _score(
    fold: _Fold, train: OutcomeTable, known_cost: FloatArray | None, parameters: Mapping[str, Any]
) -> tuple[float, float]:
    """Return (AIQ, quality at cost weight 0) on the held-out prompts."""
    costs = train.cost_usd if known_cost is None else known_cost
    quality, cost = train.quality[fold.held_out], costs[fold.held_out]
    expected_quality = _estimate(fold, train.quality, parameters)
    if known_cost is None:
        target, unit = cost_target(train)
        expected_cost = _estimate(fold, target, parameters)
        if unit == "output_tokens":
            expected_cost = priced_tokens(expected_cost, train.select(fold.held_out), train=train.select(fold.rest))
    else:
        expected_cost = cost
    weights = sweep_weights(costs[fold.rest])
    cheapest = cheapest_model(costs[fold.rest], train.quality[fold.rest])
    curve = replay(expected_quality, expected_cost, quality=quality, cost=cost, weights=weights, cheapest=cheapest)
    zero = ZeroRouter().curve(quality, cost, weights=weights, cheapest=cheapest).hull
    return aiq(curve.hull, (float(zero.cost[0]), float(zero.cost[-1]))), float(curve.mean_quality[0])


def tune_knn(
    train: OutcomeTable,
    X: FloatArray,
    *,
    known_cost: FloatArray | None = None,
    seed: int = 0,
    neighbours: Sequence[int] = NEIGHBOURS,
    shrinkages: Sequence[float] = SHRINKAGES,
) -> Tuning:
    """Choose `k` and `shrinkage` of the kNN router by 5-fold cross-validation.

    Parameters
    ----------
    train : OutcomeTable
        n training prompts.
    X : array of shape (n, d)
        Their embeddings.
    known_cost : array of shape (n, m), optional
        Costs that need no prediction (list prices, calls); without it the logged cost is predicted and replayed.
    seed : int
        Of the folds.
    neighbours, shrinkages : sequence
        The grid; `neighbours` is capped by the number of prompts left in a fold.

    Returns
    -------
    Tuning
        The setting of highest mean AIQ over the folds (of mean quality at cost weight 0, where a fold's AIQ is
        undefined); of equals the smallest `k`, then the smallest `shrinkage`.

    Raises
    ------
    DataError
        If fewer prompts than folds have an outcome of every model.
    """
    X = np.asarray(X, dtype=np.float32)
    costs = train.cost_usd if known_cost is None else known_cost
    complete: npt.NDArray[np.bool_] = np.all(np.isfinite(train.quality) & np.isfinite(costs), axis=1)
    if complete.sum() < FOLDS:
        raise DataError(
            f"tuning knn needs at least {FOLDS} train prompts with an outcome of every model; "
            f"{int(complete.sum())} have one. Give the parameters instead, e.g. knn:k=40"
        )
    smallest_rest = len(X) - math.ceil(int(complete.sum()) / FOLDS)
    sizes = sorted({min(k, smallest_rest) for k in neighbours})
    folds = _make_folds(X, complete, k=max(sizes), seed=seed)
    settings = [{"k": k, "shrinkage": shrinkage} for k in sizes for shrinkage in shrinkages]
    measured = np.array([[_score(fold, train, known_cost, setting) for fold in folds] for setting in settings])
    objective = "aiq" if np.isfinite(measured[:, :, 0]).all() else "quality"
    scores = measured[:, :, 0 if objective == "aiq" else 1].mean(axis=1)
    best = int(scores.argmax())
    return Tuning(
        parameters=settings[best],
        score=float(scores[best]),
        objective=objective,
        scores=tuple({**setting, "score": score} for setting, score in zip(settings, scores.tolist(), strict=True)),
        folds=FOLDS,
    )
