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
from llmrouter.routers._neighbours import NeighbourRouter
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
    table: OutcomeTable,
    X: FloatArray,
    *,
    name: str,
    parameters: Mapping[str, Any] | None = None,
    quality: FloatArray | None = None,
    weight: FloatArray | None = None,
) -> RouterPair:
    """Fit the router registered as `name` on quality and on cost.

    Neighbour routers share one index and the same parameters for both. A router that cannot estimate amounts names
    the one that does it in its place (`BaseRouter.cost_router`): the baselines take each model's mean.

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
    quality : array of shape (n, m), optional
        What the quality router learns in place of the table's quality, e.g. with pseudo-outcomes.
    weight : array of shape (n,), optional
        How much each prompt counts for quality; for cost all count alike.

    Raises
    ------
    DataError
        If no quality, or neither tokens nor costs were observed.
    """
    if not table.observed.any():
        raise DataError(f"{table.name or 'the table'} has no observed quality; nothing can be learned from it")
    target, unit = cost_target(table)
    router: Router = create("router", name, **dict(parameters or {}))
    router.fit(X, table.quality if quality is None else quality, weight)
    other = getattr(router, "cost_router", None)
    if isinstance(router, NeighbourRouter):
        same = {"k": router.k, "index": router.index}
        cost: NeighbourRouter = (
            type(router)(**_untrimmed(router.get_params())) if other is None else create("router", other, **same)
        )
        return RouterPair(router, cost.fit_shared(router.index_, target), unit, name if other is None else other)
    if other is None:
        return RouterPair(router, create("router", name, **dict(parameters or {})).fit(X, target), unit, name)
    return RouterPair(router, create("router", other).fit(X, target), unit, other)


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


def _untrimmed(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return a neighbour router's parameters for amounts, whose mean is what is paid: nothing is cut off."""
    return {name: 0.0 if name == "trim" else value for name, value in parameters.items()}
