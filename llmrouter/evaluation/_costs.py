"""What a call costs: the cost axes, and the rows and models of a table on which all costs are known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from llmrouter.exceptions import ConfigError, DataError
from llmrouter.outcomes import OutcomeTable
from llmrouter.types import FloatArray

CostAxis = Literal["usd", "list_price", "calls"]

UNITS: dict[str, str] = {
    "usd": "US dollars a prompt",
    "list_price": "list price of the model used, US dollars per million tokens (mean of input and output price)",
    "calls": "share of the prompts sent to the strongest model",
}


@dataclass(frozen=True)
class Evaluable:
    """A table on which every model can be replayed on every test prompt.

    Attributes
    ----------
    train, test : OutcomeTable
        The two splits, with the same models. `train` may hold NaN; `test` may not.
    train_cost, test_cost : array of shape (n_train, m) and (n_test, m)
        On the chosen axis.
    axis : str
        The cost axis.
    strongest : str or None
        The model whose calls count 1 on the axis ``calls``.
    train_rows, test_rows : array of int
        Rows of the original table.
    left_out_models : tuple of str
        Models observed (with their cost) on too few test prompts.
    left_out_rows : int
        Test prompts dropped because a model was not observed on them.
    """

    train: OutcomeTable
    test: OutcomeTable
    train_cost: FloatArray
    test_cost: FloatArray
    axis: str
    strongest: str | None
    train_rows: npt.NDArray[np.int64]
    test_rows: npt.NDArray[np.int64]
    left_out_models: tuple[str, ...]
    left_out_rows: int

    @property
    def constant_cost(self) -> bool:
        """Whether a model costs the same on every prompt, so that there is nothing to predict."""
        return self.axis != "usd"


def column_means(values: FloatArray) -> FloatArray:
    """Return the mean of each column over what was observed, shape (m,); NaN for an unobserved column."""
    observed = np.isfinite(values)
    count = observed.sum(axis=0)
    total = np.where(observed, values, 0.0).sum(axis=0)
    return np.asarray(np.divide(total, count, out=np.full(values.shape[1], np.nan), where=count > 0))


def workable_axes(table: OutcomeTable) -> tuple[str, ...]:
    """Return the cost axes for which the table has data for at least two models (or for its only one)."""
    enough = min(2, len(table.models))
    priced = sum(price is not None for price in table.prices)
    costed = int(np.isfinite(table.cost_usd).any(axis=0).sum())
    scored = int(table.observed.any(axis=0).sum())
    found = {"usd": costed, "list_price": priced, "calls": scored}
    return tuple(axis for axis in get_args(CostAxis) if found[axis] >= enough)


def strongest_model(train: OutcomeTable) -> int:
    """Return the column of the dearest model on `train`: by logged cost, else by list price, else the best one.

    It is the one whose calls RouteLLM counts; tables without any cost know only the quality.
    """
    for means in (
        column_means(train.cost_usd),
        np.array([np.nan if price is None else price.input + price.output for price in train.prices]),
    ):
        if np.isfinite(means).all() and means.max() > means.min():
            return int(means.argmax())
    quality = column_means(train.quality)
    return int(np.nan_to_num(quality, nan=-1.0).argmax())


def cost_matrix(table: OutcomeTable, axis: str, *, strongest: int) -> FloatArray:
    """Return the cost of each model on each prompt, shape (n, m); NaN where unknown."""
    if axis == "usd":
        return np.array(table.cost_usd, dtype=np.float64)
    if axis == "list_price":
        per_model = np.array([np.nan if price is None else (price.input + price.output) / 2 for price in table.prices])
    else:
        per_model = np.zeros(len(table.models))
        per_model[strongest] = 1.0
    return np.tile(per_model, (len(table), 1))


def make_evaluable(table: OutcomeTable, axis: str, *, min_coverage: float = 0.9) -> Evaluable:
    """Split a table and keep what can be replayed on the chosen cost axis.

    Models observed (quality and cost) on less than `min_coverage` of the test prompts are left out; then test prompts
    on which a remaining model was not observed are dropped. Both are reported in the result.

    Raises
    ------
    ConfigError
        If there is no such axis.
    DataError
        If a split is empty, the table lacks the axis (the message names those that work), or nothing is left.
    """
    if axis not in get_args(CostAxis):
        raise ConfigError(f"unknown cost axis {axis!r}; one of {', '.join(get_args(CostAxis))}")
    workable = workable_axes(table)
    name = table.name or "the table"
    if axis not in workable:
        raise DataError(
            f"{name} has no data for the cost axis {axis!r}; "
            + (f"use {' or '.join(workable)}" if workable else "it has no outcomes at all")
        )
    for split in ("train", "test"):
        table.split(split)  # raises, naming the splits there are
    splits = np.array(table.splits)
    train_rows, test_rows = np.flatnonzero(splits == "train"), np.flatnonzero(splits == "test")
    known = table.observed & np.isfinite(cost_matrix(table, axis, strongest=0))
    coverage = known[test_rows].mean(axis=0)
    kept = [model for model, share in zip(table.models, coverage.tolist(), strict=True) if share >= min_coverage]
    if not kept:
        best = table.models[int(coverage.argmax())]
        raise DataError(
            f"{name}: no model has quality and {axis} on {min_coverage:.0%} of the test prompts "
            f"(most: {best} with {coverage.max():.0%}); a log of one model a prompt cannot be replayed"
        )
    narrow = table.select_models(kept)
    complete = known[np.ix_(test_rows, np.array([table.models.index(model) for model in kept]))].all(axis=1)
    if not complete.any():
        raise DataError(f"{name}: no test prompt has an outcome of every model ({', '.join(kept)}); compare fewer")
    test_rows_kept = test_rows[complete]
    train, test = narrow.select(train_rows), narrow.select(test_rows_kept)
    strongest = strongest_model(train)
    return Evaluable(
        train=train,
        test=test,
        train_cost=cost_matrix(train, axis, strongest=strongest),
        test_cost=cost_matrix(test, axis, strongest=strongest),
        axis=axis,
        strongest=kept[strongest] if axis == "calls" else None,
        train_rows=train_rows,
        test_rows=test_rows_kept,
        left_out_models=tuple(model for model in table.models if model not in kept),
        left_out_rows=int((~complete).sum()),
    )
