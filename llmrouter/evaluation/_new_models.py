"""The protocol of new models: hide some in training, then add each from a few scored prompts."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmrouter.evaluation._bounds import ZeroRouter
from llmrouter.evaluation._choose_prompts import Chooser, Rows, Rule, choose_prompts
from llmrouter.evaluation._costs import CostAxis, Evaluable, make_evaluable
from llmrouter.evaluation._fit import predict_in_blocks, priced_tokens
from llmrouter.evaluation._metrics import aiq
from llmrouter.evaluation._protocol_result import Cell, ProtocolResult
from llmrouter.evaluation._provenance import log_test_look, table_hash, versions
from llmrouter.evaluation._replay import cheapest_model, replay, sweep_weights
from llmrouter.evaluation._tune import tune
from llmrouter.exceptions import ConfigError, DataError
from llmrouter.outcomes import OutcomeTable
from llmrouter.registry import create, parse_spec, resolve
from llmrouter.routers import BaseRouter, Router, cost_target, fit_pair
from llmrouter.types import FloatArray


@dataclass(frozen=True)
class _Fitted:
    """Fitted estimators: of quality, and of cost where it must be predicted."""

    quality: Router
    cost: Router | None


@dataclass(frozen=True)
class _Bench:
    """The data with the known models first and the hidden ones last, and what all draws share.

    `candidates` are the train rows on which every hidden model was observed: what can be scored.
    """

    data: Evaluable
    X_train: FloatArray
    X_test: FloatArray
    known: int
    cost_target: FloatArray | None
    cost_unit: str
    interval: tuple[float, float]
    candidates: Rows

    @property
    def known_train(self) -> OutcomeTable:
        """Train prompts without the hidden models."""
        return self.data.train.select_models(self.data.train.models[: self.known])


def new_models(
    table: OutcomeTable,
    X: FloatArray,
    *,
    router: str,
    hidden: Sequence[str],
    sizes: Sequence[int] = (20, 50, 100, 200, 400),
    draws: int = 10,
    choose: Rule | Chooser = "random",
    cost: CostAxis = "usd",
    seed: int = 0,
    look_log: Path | None = None,
) -> ProtocolResult:
    """Hide models in training, add each from N scored prompts, and measure how much of their worth comes back.

    The router is fitted, on quality and on cost, without the hidden models. For each size and draw, N train prompts
    are chosen and each hidden model is added with its outcomes on them (`add_column`), nothing else being refitted;
    then everything is replayed on the test prompts. All AIQs are taken over one cost interval, that of the Zero router
    over all models, hidden ones included.

    Parameters
    ----------
    table : OutcomeTable
        With the splits ``train`` and ``test``.
    X : array of shape (n, d)
        Embeddings in its rows.
    router : str
        Registry spec, e.g. ``knn:k=40``. Without parameters it is tuned by cross-validation on the train outcomes of
        the known models. A guard, which some routers bring along in `evaluate`, is left aside here.
    hidden : sequence of str
        Models to hide.
    sizes : sequence of int
        Scored prompts N; cut to the number there are.
    draws : int
        Draws of the scored prompts for each size; draw i has seed ``seed + i`` and all sizes share it.
    choose : str or callable
        Which prompts are scored, see `choose_prompts`.
    cost : str
        Cost axis, as in `evaluate`.
    seed : int
        Of the first draw.
    look_log : Path, optional
        File to which this look at the test split is appended.

    Returns
    -------
    ProtocolResult
        Figures ``aiq``, ``share_of_gain`` = (aiq - without) / (full - without) and ``quality`` (at cost weight 0),
        under the conditions ``{"scored": N}``, and ``{"scored": 0}`` and ``{"scored": "all"}``: without the hidden
        models, and with them in training from the start.

    Raises
    ------
    ConfigError
        If a hidden model is unknown, none or all are hidden, or a size or the number of draws is below 1.
    DataError
        If the router cannot take in a model, or the hidden models were never observed together on train.
    """
    sizes = sorted(set(sizes))
    if draws < 1 or not sizes or sizes[0] < 1:
        raise ConfigError(f"draws and sizes must be >= 1; got draws={draws} and sizes={sizes}")
    bench = _make_bench(table, X, hidden, cost)
    name, parameters = _parameters(router, bench, seed=seed)
    seeds = tuple(range(seed, seed + draws))
    rule = choose if isinstance(choose, str) else getattr(choose, "__name__", "function")
    settings = {
        "router": router,
        "parameters": parameters,
        "hidden": list(hidden),
        "choose": rule,
        "cost": cost,
        "seed": seed,
        "draws": draws,
    }
    if look_log is not None:
        log_test_look(look_log, {"protocol": "new-models", "data": table.name, **settings})
    everything = _fit(bench.data.train, bench, name, parameters)
    before = _fit(bench.known_train, bench, name, parameters)
    full, without = _replayed(everything, bench, None), _replayed(before, bench, np.empty(0, dtype=np.int64))
    cells = _cells(router, {"scored": 0}, [without], (seed,), (without[0], full[0]))
    for size in sizes:
        found = [_one_draw(before, bench, size, drawn, choose) for drawn in seeds]
        count = min(size, len(bench.candidates))
        cells += _cells(router, {"scored": count}, found, seeds, (without[0], full[0]))
    cells += _cells(router, {"scored": "all"}, [full], (seed,), (without[0], full[0]))
    described = {
        "name": table.name,
        "sha256": table_hash(table),
        "train_prompts": len(bench.data.train),
        "test_prompts": len(bench.data.test),
        "models": len(bench.data.test.models),
        "cost_interval": list(bench.interval),
    }
    return ProtocolResult("new-models", described, tuple(cells), settings, versions())


def _make_bench(table: OutcomeTable, X: FloatArray, hidden: Sequence[str], cost: CostAxis) -> _Bench:
    if len(X) != len(table):
        raise DataError(f"X must have {len(table)} rows, one a prompt of the table; got {len(X)}")
    data = make_evaluable(table, cost)
    models = data.test.models
    unknown = [model for model in hidden if model not in models]
    if unknown or not hidden or len(set(hidden)) >= len(models):
        raise ConfigError(
            f"hide some, not all, of {', '.join(models)}; got {', '.join(hidden) or 'none'}", path="hidden"
        )
    order = [*(model for model in models if model not in hidden), *dict.fromkeys(hidden)]
    columns = np.array([models.index(model) for model in order])
    data = dataclasses.replace(
        data,
        train=data.train.select_models(order),
        test=data.test.select_models(order),
        train_cost=data.train_cost[:, columns],
        test_cost=data.test_cost[:, columns],
    )
    known = len(order) - len(set(hidden))
    target, unit = (None, "constant") if data.constant_cost else cost_target(data.train)
    scored = np.isfinite(data.train.quality[:, known:])
    if target is not None:
        scored &= np.isfinite(target[:, known:])
    candidates = np.flatnonzero(scored.all(axis=1))
    if not candidates.size:
        raise DataError(f"no train prompt has an outcome of every hidden model ({', '.join(hidden)})")
    hull = ZeroRouter().curve(data.test.quality, data.test_cost, weights=np.zeros(1), cheapest=0).hull
    X = np.asarray(X, dtype=np.float32)
    return _Bench(
        data=data,
        X_train=X[data.train_rows],
        X_test=X[data.test_rows],
        known=known,
        cost_target=target,
        cost_unit=unit,
        interval=(float(hull.cost[0]), float(hull.cost[-1])),
        candidates=candidates,
    )


def _parameters(router: str, bench: _Bench, *, seed: int) -> tuple[str, dict[str, Any]]:
    """Return the router's name, and its parameters: as given, or tuned without the hidden models."""
    name, parameters = parse_spec(router)
    grid: Any = getattr(resolve("router", name), "grid", None)
    if not parameters and grid:
        known_cost = bench.data.train_cost[:, : bench.known] if bench.data.constant_cost else None
        tuned = tune(name, bench.known_train, bench.X_train, known_cost=known_cost, seed=seed)
        parameters = dict(tuned.parameters)
    return name, parameters


def _fit(train: OutcomeTable, bench: _Bench, name: str, parameters: dict[str, Any]) -> _Fitted:
    if bench.cost_target is None:
        return _Fitted(create("router", name, **parameters).fit(bench.X_train, train.quality), None)
    pair = fit_pair(train, bench.X_train, name=name, parameters=parameters)
    if pair.cost_unit != bench.cost_unit:
        raise DataError(
            f"{train.name or 'the table'}: cost is learned from {bench.cost_unit} with the hidden models and from "
            f"{pair.cost_unit} without them; give every model a price and tokens, or none"
        )
    return _Fitted(pair.quality, pair.cost)


def _one_draw(before: _Fitted, bench: _Bench, size: int, seed: int, rule: Rule | Chooser) -> tuple[float, float]:
    """Return (AIQ, quality at cost weight 0) after adding the hidden models from `size` scored prompts."""
    candidates = bench.candidates
    picked = choose_prompts(
        bench.known_train.select(candidates),
        bench.X_train[candidates],
        router=before.quality,
        n=size,
        seed=seed,
        rule=rule,
    )
    rows = candidates[picked]
    extended = copy.deepcopy(before)
    for column in range(bench.known, len(bench.data.train.models)):
        _add(extended.quality, bench.X_train[rows], bench.data.train.quality[rows], column)
        if extended.cost is not None and bench.cost_target is not None:
            _add(extended.cost, bench.X_train[rows], bench.cost_target[rows], column)
    return _replayed(extended, bench, rows)


def _add(router: Router, X: FloatArray, outcomes: FloatArray, column: int) -> None:
    """Add the model of `column`; the columns before it are the router's present models, whose outcomes are known."""
    if isinstance(router, BaseRouter):
        router.add_column(X, outcomes[:, column], known=outcomes[:, :column])
        return
    add = getattr(router, "add_column", None)
    if add is None:
        raise DataError(f"{type(router).__name__} cannot take in a model: it has no add_column")
    add(X, outcomes[:, column])


def _replayed(fitted: _Fitted, bench: _Bench, scored: Rows | None) -> tuple[float, float]:
    """Return (AIQ, quality at cost weight 0) on the test prompts.

    `scored` are the train rows on which the hidden models were observed, None for all of them. The swept weights and
    the cheapest model follow from what was observed, as they would in use.
    """
    data = bench.data
    quality = predict_in_blocks(fitted.quality, bench.X_test)
    models = quality.shape[1]
    test = data.test.select_models(data.test.models[:models])
    if fitted.cost is None:
        cost = data.test_cost[:, :models]
    else:
        cost = predict_in_blocks(fitted.cost, bench.X_test)
        if bench.cost_unit == "output_tokens":
            cost = priced_tokens(cost, test, train=data.train.select_models(test.models))
    train_cost, train_quality = data.train_cost[:, :models].copy(), data.train.quality[:, :models].copy()
    if scored is not None:
        unseen = np.setdiff1d(np.arange(len(train_cost)), scored)
        train_cost[unseen, bench.known :] = np.nan
        train_quality[unseen, bench.known :] = np.nan
    curve = replay(
        quality,
        cost,
        quality=test.quality,
        cost=data.test_cost[:, :models],
        weights=sweep_weights(train_cost),
        cheapest=cheapest_model(train_cost, train_quality),
    )
    return aiq(curve.hull, bench.interval), float(curve.mean_quality[0])


def _cells(
    router: str,
    condition: dict[str, object],
    found: Sequence[tuple[float, float]],
    seeds: tuple[int, ...],
    ends: tuple[float, float],
) -> list[Cell]:
    without, full = ends
    gain = full - without
    shares = [(value - without) / gain if gain > 0 else math.nan for value, _ in found]
    values = {"aiq": [value for value, _ in found], "share_of_gain": shares, "quality": [q for _, q in found]}
    return [Cell(router, figure, condition, tuple(numbers), seeds) for figure, numbers in values.items()]
