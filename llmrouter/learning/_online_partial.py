"""Routers that learn on by themselves: copies of the artifact's, having taken in the window."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence

import numpy as np

from llmrouter.engine import TrainedRouters
from llmrouter.learning._online_window import Row, vectors_of
from llmrouter.routers import NeighbourRouter, OnlineRouter
from llmrouter.types import FloatArray


def learns_on(trained: TrainedRouters) -> bool:
    """Return whether the quality router takes in single outcomes (`partial_fit`)."""
    return isinstance(trained.quality, OnlineRouter)


def learned_on(trained: TrainedRouters, rows: Sequence[Row], weight: FloatArray) -> TrainedRouters:
    """Return copies of the routers that have learned the rows too, quality and, where it can, cost.

    Parameters
    ----------
    trained : TrainedRouters
        Stays as it is.
    rows : sequence of Row
        Outcomes of models that the artifact knows, in the order of the log.
    weight : array of shape (n,)
        Weights > 0.

    Raises
    ------
    DataError
        If a router refuses an outcome (see `OnlineRouter.partial_fit`).
    """
    quality, cost = copy.deepcopy((trained.quality, trained.cost))  # together: they may share an index
    X = vectors_of(rows)
    observed = np.full((len(rows), len(trained.models)), np.nan)
    amounts = observed.copy()
    in_dollars = trained.cost_unit == "usd"
    for number, row in enumerate(rows):
        column = trained.models.index(row.model)
        observed[number, column] = row.outcome.quality
        amount = row.outcome.cost_usd if in_dollars else row.outcome.output_tokens
        if amount is not None and row.outcome.status == "ok":
            amounts[number, column] = amount
    if isinstance(quality, OnlineRouter):
        quality.partial_fit(X, observed, weight)
    if isinstance(cost, OnlineRouter):
        cost.partial_fit(X, amounts, weight)
    prompt_ids, index = trained.prompt_ids, trained.index
    if isinstance(quality, NeighbourRouter):  # its index has grown by the rows, and shows them as neighbours
        prompt_ids = (*prompt_ids, *(row.outcome.request_id for row in rows)) if prompt_ids else ()
        index = None
    return dataclasses.replace(trained, quality=quality, cost=cost, prompt_ids=prompt_ids, index=index)
