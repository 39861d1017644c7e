"""Fit a router on the train split and let it estimate quality and cost of the test prompts."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmrouter.evaluation._costs import Evaluable, column_means
from llmrouter.outcomes import OutcomeTable
from llmrouter.registry import create
from llmrouter.routers import Router, fit_pair
from llmrouter.types import TOKENS_PER_PRICE_UNIT, FloatArray

# Prompts estimated at once; a neighbour router gathers (prompts, k, models) values.
_BLOCK = 256


@dataclass(frozen=True)
class FittedEstimates:
    """What a fitted router expects of the test prompts.

    Attributes
    ----------
    quality, std, cost : array of shape (n_test, m)
        Expected quality, its standard error, and expected cost on the axis of the evaluation.
    cost_from : str
        ``output_tokens`` (priced), ``usd`` (the logged cost) or ``constant`` (a model costs the same on every prompt).
    fit_s : float
        Seconds to fit both regressors.
    decide_us : float
        Microseconds a prompt to estimate quality and cost, in batches, without encoding.
    """

    quality: FloatArray
    std: FloatArray
    cost: FloatArray
    cost_from: str
    fit_s: float
    decide_us: float


def predict_in_blocks(router: Router, X: FloatArray) -> FloatArray:
    """Return `router.predict(X)`, shape (n, m), computed in blocks of rows to bound the memory."""
    return np.concatenate([router.predict(X[start : start + _BLOCK]) for start in range(0, len(X), _BLOCK)])


def std_in_blocks(router: Router, X: FloatArray) -> FloatArray:
    """Return `router.predict_std(X)`, shape (n, m), computed in blocks of rows to bound the memory."""
    return np.concatenate([router.predict_std(X[start : start + _BLOCK]) for start in range(0, len(X), _BLOCK)])


def priced_tokens(output_tokens: FloatArray, table: OutcomeTable, *, train: OutcomeTable) -> FloatArray:
    """Return the expected cost in US dollars, shape (n, m), of expected completion lengths.

    The prompt's own tokens are counted before the call and so are taken from `table`; where a log lacks them, the
    model's mean on `train` stands in.
    """
    known = np.isfinite(table.input_tokens)
    input_tokens = np.where(known, table.input_tokens, np.nan_to_num(column_means(train.input_tokens)))
    input_price = np.array([np.nan if price is None else price.input for price in table.prices])
    output_price = np.array([np.nan if price is None else price.output for price in table.prices])
    return np.asarray((input_tokens * input_price + output_tokens * output_price) / TOKENS_PER_PRICE_UNIT)


def fit_and_estimate(data: Evaluable, X: FloatArray, *, name: str, parameters: Mapping[str, Any]) -> FittedEstimates:
    """Fit the router registered as `name` on the train split and estimate the test split.

    Parameters
    ----------
    data : Evaluable
        The two splits.
    X : array of shape (n, d)
        Embeddings in the rows of the original table.
    name, parameters : str, mapping
        Registry name and constructor parameters.
    """
    X_train, X_test = X[data.train_rows], X[data.test_rows]
    if data.constant_cost:
        started = time.perf_counter()
        router: Router = create("router", name, **dict(parameters)).fit(X_train, data.train.quality)
        fitted = time.perf_counter()
        quality = predict_in_blocks(router, X_test)
        cost, cost_from = np.array(data.test_cost), "constant"
    else:
        started = time.perf_counter()
        pair = fit_pair(data.train, X_train, name=name, parameters=parameters)
        fitted = time.perf_counter()
        router = pair.quality
        quality, cost = predict_in_blocks(router, X_test), predict_in_blocks(pair.cost, X_test)
        cost_from = pair.cost_unit
        if cost_from == "output_tokens":
            cost = priced_tokens(cost, data.test, train=data.train)
    done = time.perf_counter()
    std = std_in_blocks(router, X_test)
    return FittedEstimates(quality, std, cost, cost_from, fitted - started, 1e6 * (done - fitted) / len(X_test))
