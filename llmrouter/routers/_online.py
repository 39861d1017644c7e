"""Routers that learn on: the contract, and the checks that all of them share."""

from __future__ import annotations

from typing import Protocol, Self, runtime_checkable

import numpy as np

from llmrouter.exceptions import DataError
from llmrouter.routers._base import BaseRouter, Router, _checked_weight
from llmrouter.types import FloatArray


@runtime_checkable
class OnlineRouter(Router, Protocol):
    """A router that takes in outcomes and models one after another, without a refit of the rest."""

    def partial_fit(self, X: FloatArray, y: FloatArray, sample_weight: FloatArray | None = None) -> Self:
        """Learn from more outcomes: X of shape (n, d), y of shape (n, m) with NaN where a model was not asked."""
        ...

    def add_column(self, X: FloatArray, y: FloatArray, sample_weight: FloatArray | None = None) -> Self:
        """Take in one more model from its outcomes y (N,) on the prompts X (N, d)."""
        ...

    def drop_column(self, column: int) -> Self:
        """Forget one model."""
        ...


class OnlineBase(BaseRouter):
    """Base of the routers with `partial_fit`; a subclass implements `_update`."""

    def _update(self, X: FloatArray, y: FloatArray, weight: FloatArray) -> None:
        """Learn from checked prompts X (n, d), their outcomes y (n, own columns) and weights (n,)."""
        raise NotImplementedError

    def partial_fit(self, X: FloatArray, y: FloatArray, sample_weight: FloatArray | None = None) -> Self:
        """Learn from more outcomes, keeping what was learned; before `fit` this is `fit`.

        Parameters
        ----------
        X : array of shape (n, d)
            Embeddings.
        y : array of shape (n, m)
            Outcomes in the columns of `predict`, NaN for a model that was not asked.
        sample_weight : array of shape (n,), optional
            Weight of each prompt.

        Raises
        ------
        DataError
            If shapes disagree, an outcome lies outside the bounds noted by `fit`, or it belongs to a column that
            was added as a Gaussian process (drop it and add it again with all of its prompts).
        """
        if not hasattr(self, "columns_"):
            return self.fit(X, y, sample_weight)
        X = self._check_predict(X)
        y = np.asarray(y, dtype=np.float64)
        if y.shape != (len(X), self.n_models_):
            raise DataError(f"y must be ({len(X)}, {self.n_models_}), one column for each model; got {y.shape}")
        if np.isinf(y).any() or (y < self.lower_).any() or (y > self.upper_).any():
            raise DataError(
                f"y must lie in [{self.lower_:g}, {self.upper_:g}] as the outcomes in training did; "
                f"got [{np.nanmin(y):g}, {np.nanmax(y):g}]; fit again if the bounds have changed"
            )
        weight = _checked_weight(sample_weight, len(X))
        keep = weight > 0
        own = self.columns_ < self._own_columns
        if np.isfinite(y[:, ~own]).any():
            raise DataError(
                "y has outcomes of a model that was added after fit; this router keeps such a column apart: drop it "
                "and add it again with all of its scored prompts"
            )
        full = np.full((len(X), self._own_columns), np.nan)
        full[:, self.columns_[own]] = y[:, own]
        self._update(X[keep], full[keep], weight[keep])
        return self
