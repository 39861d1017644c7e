"""Costs from tokens and list prices, where the source logged none."""

from __future__ import annotations

import dataclasses

import numpy as np

from llmrouter.outcomes._table import OutcomeTable
from llmrouter.types import TOKENS_PER_PRICE_UNIT


def fill_costs(table: OutcomeTable) -> OutcomeTable:
    """Return `table` with unknown costs computed as tokens x list price, cell by cell.

    A logged cost is never changed; a cell without both token counts, or of a model without a price, stays NaN.
    """
    unpriced = (np.nan, np.nan)
    prices = np.asarray([unpriced if p is None else (p.input, p.output) for p in table.prices], dtype=np.float64)
    input_price, output_price = prices.reshape(-1, 2).T
    computed = (table.input_tokens * input_price + table.output_tokens * output_price) / TOKENS_PER_PRICE_UNIT
    return dataclasses.replace(table, cost_usd=np.where(np.isnan(table.cost_usd), computed, table.cost_usd))
