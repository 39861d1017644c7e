"""Choose a router's parameters, and its guard, on the training prompts by cross-validation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from llmrouter.evaluation._bounds import ZeroRouter
from llmrouter.evaluation._costs import column_means
from llmrouter.evaluation._crossfit import FOLDS, CrossFit, Fold, cost_router_of, estimator, held_out_cost, make_folds
from llmrouter.evaluation._metrics import aiq
from llmrouter.evaluation._replay import Guard, cheapest_model, replay, sweep_weights
from llmrouter.exceptions import DataError
from llmrouter.outcomes import OutcomeTable
from llmrouter.registry import create, resolve
from llmrouter.routers import NeighbourRouter
from llmrouter.types import FloatArray

GUARDS: tuple[float | None, ...] = (None, 0.0, 0.1, 0.25, 0.5, 1.0)
"""Guards tried, as z of a lower confidence bound; None leaves the best single model freely."""
UNTUNED_GUARD = 0.25
"""Where nothing can be replayed: the strongest that was chosen on any of the project's full-information data sets."""
_MOST_LOSS = 0.001
"""AIQ given up at most for the safer of two guards."""


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


def tune(
    name: str,
    train: OutcomeTable,
    X: FloatArray,
    *,
    known_cost: FloatArray | None = None,
    seed: int = 0,
    grid: Sequence[Mapping[str, Any]] | None = None,
) -> Tuning:
    """Choose the parameters of a router by 5-fold cross-validation on the training prompts.

    Parameters
    ----------
    name : str
        Registry name.
    train : OutcomeTable
        n training prompts.
    X : array of shape (n, d)
        Their embeddings.
    known_cost : array of shape (n, m), optional
        Costs that need no prediction (list prices, calls); without it the logged cost is predicted and replayed.
    seed : int
        Of the folds.
    grid : sequence of mapping, optional
        Settings to try; by default the router's own `grid`. A number of neighbours is capped by what a fold leaves.

    Returns
    -------
    Tuning
        The setting of highest mean AIQ over the folds (of mean quality at cost weight 0, where a fold's AIQ is
        undefined); of equals the first.

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
            f"tuning {name} needs at least {FOLDS} train prompts with an outcome of every model; "
            f"{int(complete.sum())} have one. Give the parameters instead, e.g. knn:k=40"
        )
    folds = make_folds(X, complete, seed=seed)
    kind = resolve("router", name)
    settings = _settings(kind.grid if grid is None else grid, most=min(len(fold.rest) for fold in folds))
    if issubclass(kind, NeighbourRouter) and kind.shares_index:
        estimates = [_neighbour_estimates(name, settings, fold, train, X, known_cost) for fold in folds]
    else:
        estimates = [_estimates(name, settings, fold, train, X, known_cost) for fold in folds]
    measured = np.array(
        [
            [_score(fold, train, costs, *of_fold[number]) for fold, of_fold in zip(folds, estimates, strict=True)]
            for number in range(len(settings))
        ]
    )
    scores, objective = _objective(measured)
    best = int(scores.argmax())
    return Tuning(
        parameters=settings[best],
        score=float(scores[best]),
        objective=objective,
        scores=tuple({**setting, "score": score} for setting, score in zip(settings, scores.tolist(), strict=True)),
        folds=FOLDS,
    )


def tune_guard(
    crossed: CrossFit, train: OutcomeTable, *, known_cost: FloatArray | None = None
) -> tuple[float | None, tuple[Mapping[str, Any], ...]]:
    """Choose the guard on held-out estimates: the strongest that costs less than 0.001 of mean AIQ.

    A guard leaves the train-chosen best single model only where the lower confidence bound of the gain is positive.
    It protects where estimates are uncertain, at a price where they are good; the strongest one that is nearly free
    is taken.

    Returns
    -------
    tuple
        The guard (z, or None for none), and every guard tried with its score. Where nothing can be replayed (no
        prompt has an outcome of every model), `UNTUNED_GUARD` without scores.
    """
    costs = train.cost_usd if known_cost is None else known_cost
    complete = np.all(np.isfinite(train.quality) & np.isfinite(costs), axis=1)
    judged = [fold.held_out[complete[fold.held_out]] for fold in crossed.folds]
    if min(len(rows) for rows in judged) == 0:
        return UNTUNED_GUARD, ()
    measured = []
    for z in GUARDS:
        row = []
        for fold, rows in zip(crossed.folds, judged, strict=True):
            guard = None if z is None else guard_from(z, train.quality[fold.rest], costs[fold.rest])
            row.append(
                _replayed(
                    crossed.quality[rows],
                    crossed.cost[rows],
                    quality=train.quality[rows],
                    cost=costs[rows],
                    rest=(train.quality[fold.rest], costs[fold.rest]),
                    guard=guard,
                    std=crossed.std[rows],
                )
            )
        measured.append(row)
    scores, _ = _objective(np.array(measured))
    tried = tuple({"guard": z, "score": score} for z, score in zip(GUARDS, scores.tolist(), strict=True))
    enough = [z for z, score in zip(GUARDS, scores.tolist(), strict=True) if score >= scores.max() - _MOST_LOSS]
    return enough[-1], tried


def guard_from(z: float, train_quality: FloatArray, train_cost: FloatArray) -> Guard:
    """Return the guard of strength `z` whose best single model is chosen on these training outcomes, (n, m) each."""
    return Guard(z, column_means(train_quality), column_means(train_cost))


def _settings(grid: Sequence[Mapping[str, Any]], *, most: int) -> list[dict[str, Any]]:
    """Return the distinct settings with numbers of neighbours cut to what there is; the defaults for an empty grid."""
    capped = [{key: min(value, most) if key == "k" else value for key, value in setting.items()} for setting in grid]
    return [setting for number, setting in enumerate(capped) if setting not in capped[:number]] or [{}]


Estimated = tuple[FloatArray, FloatArray]


def _estimates(
    name: str,
    settings: Sequence[Mapping[str, Any]],
    fold: Fold,
    train: OutcomeTable,
    X: FloatArray,
    known_cost: FloatArray | None,
) -> list[Estimated]:
    """Return expected quality and cost of the held-out prompts for each setting.

    Cost is estimated once, with default parameters: settings are compared by what they do for quality.
    """
    cost_name, parameters = cost_router_of(name, {})
    estimate = estimator(fold, X, name=cost_name, parameters=parameters)
    cost = held_out_cost(fold, train, known_cost=known_cost, estimate=estimate)
    return [(estimator(fold, X, name=name, parameters=setting)(train.quality), cost) for setting in settings]


def _neighbour_estimates(
    name: str,
    settings: Sequence[Mapping[str, Any]],
    fold: Fold,
    train: OutcomeTable,
    X: FloatArray,
    known_cost: FloatArray | None,
) -> list[Estimated]:
    """Like `_estimates`, by one search for all settings; cost is estimated by the same neighbours as quality."""
    queries = X[fold.held_out]
    most = max(create("router", name, **setting).k for setting in settings)
    found = fold.index.search(queries, most)

    def by_neighbours(setting: Mapping[str, Any]) -> Callable[[FloatArray], FloatArray]:
        def estimate(y: FloatArray) -> FloatArray:
            router: NeighbourRouter = create("router", name, **setting).fit_shared(fold.index, y[fold.rest])
            return router.estimate_found(queries, found)[0]

        return estimate

    estimates = []
    for setting in settings:
        cost_name, parameters = cost_router_of(name, setting)
        own = cost_name == name
        estimate = by_neighbours(setting) if own else estimator(fold, X, name=cost_name, parameters=parameters)
        cost = held_out_cost(fold, train, known_cost=known_cost, estimate=estimate)
        estimates.append((by_neighbours(setting)(train.quality), cost))
    return estimates


def _score(
    fold: Fold, train: OutcomeTable, costs: FloatArray, expected_quality: FloatArray, expected_cost: FloatArray
) -> tuple[float, float]:
    """Return (AIQ, quality at cost weight 0) on the held-out prompts."""
    return _replayed(
        expected_quality,
        expected_cost,
        quality=train.quality[fold.held_out],
        cost=costs[fold.held_out],
        rest=(train.quality[fold.rest], costs[fold.rest]),
    )


def _replayed(
    expected_quality: FloatArray,
    expected_cost: FloatArray,
    *,
    quality: FloatArray,
    cost: FloatArray,
    rest: tuple[FloatArray, FloatArray],
    guard: Guard | None = None,
    std: FloatArray | None = None,
) -> tuple[float, float]:
    weights = sweep_weights(rest[1])
    cheapest = cheapest_model(rest[1], rest[0])
    curve = replay(
        expected_quality,
        expected_cost,
        quality=quality,
        cost=cost,
        weights=weights,
        cheapest=cheapest,
        guard=guard,
        expected_std=std,
    )
    zero = ZeroRouter().curve(quality, cost, weights=weights, cheapest=cheapest).hull
    return aiq(curve.hull, (float(zero.cost[0]), float(zero.cost[-1]))), float(curve.mean_quality[0])


def _objective(measured: FloatArray) -> tuple[FloatArray, str]:
    """Return the mean score of each setting and what it is, from (settings, folds, 2) pairs of AIQ and quality."""
    objective = "aiq" if np.isfinite(measured[:, :, 0]).all() else "quality"
    return measured[:, :, 0 if objective == "aiq" else 1].mean(axis=1), objective
