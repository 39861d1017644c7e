"""One more model for a fitted router before it answered anything: a prior with a wide error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np

from llmrouter.exceptions import DataError
from llmrouter.routers._added import AddedColumn
from llmrouter.types import FloatArray, IntArray

PRESUMED_PROMPTS = 2.0
"""What a prior weighs, in prompts, in a router that counts outcomes and cannot hold an expectation apart."""
_MOST_PROMPTS = 64


class PriorColumns:
    """Adds columns of which nothing was observed; a part of `BaseRouter`."""

    lower_: float
    upper_: float
    n_models_: int
    columns_: IntArray
    added_: list[AddedColumn]
    _fitted_models: int

    if TYPE_CHECKING:

        def _mean(self, X: FloatArray) -> FloatArray: ...
        def _check_predict(self, X: FloatArray) -> FloatArray: ...
        def add_column(self, X: FloatArray, y: FloatArray, sample_weight: FloatArray | None = None) -> Any:
            """See `BaseRouter.add_column`."""

        @property
        def _adds_apart(self) -> bool: ...

    def add_prior_column(self, X: FloatArray, *, level: float, std: float, weights: FloatArray | None = None) -> Self:
        """Take in a model of which nothing was observed.

        The column expects the known models' common shape about `level`, with the standard error `std` everywhere. A
        router with a way of its own to take in a model (clusters, bandits, latent factors, baselines) counts the
        expectation as `PRESUMED_PROMPTS` outcomes, and its own error holds.

        Parameters
        ----------
        X : array of shape (N, d)
            Prompts of the kind that `level` is a mean over.
        level : float
            Expected mean outcome, within the bounds of the outcomes in training.
        std : float
            Standard error, > 0.
        weights : array of shape (m,), optional
            How much the new model is like each present one, >= 0; None is alike. A present column that was itself added
            after `fit` has no part in the shape.

        Raises
        ------
        NotFittedError
            Before `fit`.
        DataError
            If there is no prompt, or a number is out of range.
        """
        X = self._check_predict(X)
        if not len(X):
            raise DataError("a prior needs prompts to spread over; give at least one embedding")
        if not (np.isfinite(std) and std > 0):
            raise DataError(f"std must be a finite number > 0; got {std!r}")
        if not (np.isfinite(level) and self.lower_ <= level <= self.upper_):
            raise DataError(f"level must lie in [{self.lower_:g}, {self.upper_:g}]; got {level!r}")
        column = AddedColumn.prior(
            self._mean(X),
            X.shape[1],
            level=level,
            std=std,
            weights=self._of_own_columns(weights),
            bounds=(self.lower_, self.upper_),
        )
        if not self._adds_apart:
            rows = np.linspace(0, len(X) - 1, min(len(X), _MOST_PROMPTS)).astype(np.int64)
            expected, _ = column.estimate(X[rows], self._mean(X[rows]))
            self.add_column(X[rows], expected, np.full(len(rows), PRESUMED_PROMPTS / len(rows)))
            return self
        self.added_.append(column)
        self.columns_ = np.append(self.columns_, self._fitted_models + len(self.added_) - 1)
        self.n_models_ += 1
        return self

    def _of_own_columns(self, weights: FloatArray | None) -> FloatArray | None:
        """Return weights over the fitted columns, of sum 1; None where equal ones are meant."""
        if weights is None:
            return None
        weights = np.asarray(weights, dtype=np.float64)
        if weights.shape != (self.n_models_,) or not np.isfinite(weights).all() or (weights < 0).any():
            raise DataError(f"weights must be {self.n_models_} finite values >= 0, one a model; got {weights!r}")
        own = np.zeros(self._fitted_models)
        fitted = self.columns_ < self._fitted_models
        own[self.columns_[fitted]] = weights[fitted]
        total = float(own.sum())
        return own / total if total > 0 else None
