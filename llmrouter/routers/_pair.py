"""One algorithm fitted twice: on quality, and on output tokens (or on cost where a table has no tokens)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from llmrouter.exceptions import DataError
from llmrouter.outcomes import OutcomeTable
from llmrouter.registry import create
from llmrouter.routers._base import Router
from llmrouter.routers._baselines import MeanRouter
from llmrouter.routers._knn import KNNRouter
from llmrouter.types import FloatArray

CostUnit = Literal["output_tokens", "usd"]


@dataclass(frozen=True)
class RouterPair:
    """A quality router and a cost router over the columns of one table.

    `cost_unit` says what the cost router predicts: ``output_tokens``, to be priced at serving time, or ``usd``, the
    cost of the whole call. `cost_name` is the registry name of the cost router.
    """

    quality: Router
    cost: Router
    cost_unit: CostUnit
    cost_name: str


def fit_pair(
    table: OutcomeTable, X: FloatArray, *, name: str, parameters: Mapping[str, Any] | None = None
) -> RouterPair:
    """Fit the router registered as `name` on quality and on cost.

    The kNN family shares one index and the same parameters for both. Every other router estimates cost by itself
    too, except the baselines, which do not read the prompt and take each model's mean.

    Parameters
    ----------
    table : OutcomeTable
        Training prompts, n rows.
    X : array of shape (n, d)
        Their embeddings.
    name : str
        Registry name.
    parameters : mapping, optional
        Constructor parameters.

    Raises
    ------
    DataError
        If no quality, or neither tokens nor costs were observed.
    """
    if not table.observed.any():
        raise DataError(f"{table.name or 'the table'} has no observed quality; nothing can be learned from it")
    target, unit = cost_target(table)
    quality: Router = create("router", name, **dict(parameters or {}))
    quality.fit(X, table.quality)
    if isinstance(quality, KNNRouter):
        cost: Router = KNNRouter(**quality.get_params()).fit_shared(quality.index_, target)
        return RouterPair(quality, cost, unit, name)
    return RouterPair(quality, MeanRouter().fit(X, target), unit, "mean")


def cost_target(table: OutcomeTable) -> tuple[FloatArray, CostUnit]:
    """Return what the cost router learns, shape (n, m), and its unit.

    Output tokens where every model has a list price and observed tokens; else the logged cost.
    """
    priced = all(price is not None for price in table.prices)
    if priced and np.isfinite(table.output_tokens).any(axis=0).all():
        return table.output_tokens, "output_tokens"
    if np.isfinite(table.cost_usd).any():
        return table.cost_usd, "usd"
    if priced and np.isfinite(table.output_tokens).any():
        return table.output_tokens, "output_tokens"
    raise DataError(
        f"{table.name or 'the table'} has neither costs nor tokens with list prices; add cost_usd, or output_tokens "
        "and a price for every model"
    )
