"""Which models are worth combining: flows search over sets and sequences, whose number grows fast with the pool."""

from __future__ import annotations

import numpy as np

from llmrouter.flows._table import FlowTable
from llmrouter.types import FloatArray


def useful_models(table: FlowTable, weights: FloatArray, *, limit: int) -> list[int]:
    """Return the columns, at most `limit`, that routing by the estimates of a table chooses most, in ascending order.

    Parameters
    ----------
    table : FlowTable
        n training prompts.
    weights : array of shape (p,)
        Of a unit of cost; the shares are averaged over them.
    limit : int
        Largest number of columns. With no more models than that all are returned that were ever observed.
    """
    seen = np.isfinite(table.quality).any(axis=0) & np.isfinite(table.expected_quality).any(axis=0)
    if seen.sum() <= limit:
        return np.flatnonzero(seen).tolist()
    quality = np.where(np.isnan(table.expected_quality) | ~seen, -np.inf, table.expected_quality)
    cost = np.nan_to_num(table.expected_cost)
    share = np.zeros(len(table.models))
    for weight in weights.tolist():
        share += np.bincount((quality - weight * cost).argmax(axis=1), minlength=len(share))
    mean = np.where(seen, np.nanmean(np.where(seen, table.expected_quality, 0.0), axis=0), -np.inf)
    chosen = np.lexsort((-mean, -share, ~seen))[:limit]
    return sorted(chosen.tolist())
