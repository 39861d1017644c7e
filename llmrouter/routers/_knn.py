"""k nearest neighbours over logged outcomes, in the utility form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from llmrouter.exceptions import ConfigError, DataError, NotFittedError
from llmrouter.index import Neighbors, VectorIndex, create_index
from llmrouter.routers._base import BaseRouter, weighted_mean
from llmrouter.types import FloatArray


class KNNRouter(BaseRouter):
    """Predict each model's outcome as the mean over the k most similar stored prompts.

    The utility form of "Rethinking Predictive Modeling for LLM Routing" (arXiv 2505.12601) and RouterBench
    (arXiv 2403.12031): quality and cost are separate unweighted neighbour means, and the policy combines them. Small
    neighbourhoods are noisy, so the mean is shrunk towards the model's mean over all training prompts:
    ``(sum of observed neighbours + shrinkage * model mean) / (observed neighbours + shrinkage)``.

    Parameters
    ----------
    k : int
        Neighbours; cut to the number of training prompts.
    shrinkage : float
        Weight of the model's own mean, in units of prompts; 0 is the plain neighbour mean.
    index : str
        Name of the vector index (registry kind ``index``) or ``auto``.

    Attributes
    ----------
    index_ : VectorIndex
        Training embeddings under ids 0..n-1; routers fitted on the same prompts may share one (`fit_shared`).
    y_ : array of shape (n, m)
        Training outcomes, NaN where not observed.
    mean_, variance_ : arrays of shape (m,)
        Of each model over its observed prompts; NaN for a model that was never observed.
    """

    def __init__(self, k: int = 40, *, shrinkage: float = 0.0, index: str = "auto") -> None:
        self.k = k
        self.shrinkage = shrinkage
        self.index = index

    def fit(self, X: FloatArray, y: FloatArray, sample_weight: FloatArray | None = None) -> Self:
        """Store the training prompts.

        Parameters
        ----------
        X : array of shape (n, d)
            Embeddings, rows of unit length.
        y : array of shape (n, m)
            Outcomes, NaN where not observed.
        sample_weight : array of shape (n,), optional
            Weight of each prompt in every mean.

        Raises
        ------
        DataError
            If shapes disagree or X is not finite.
        ConfigError
            If `k` or `shrinkage` is out of range.
        """
        X, y, weight = self._check_fit(X, y, sample_weight)
        index = create_index(self.index, X.shape[1], rows=len(X))
        index.add(np.arange(len(X), dtype=np.int64), X)
        return self._store(index, y, weight)

    def fit_shared(self, index: VectorIndex, y: FloatArray, sample_weight: FloatArray | None = None) -> Self:
        """Like `fit`, over an index that already holds the embeddings under ids 0..n-1 (it is not copied)."""
        y = np.asarray(y, dtype=np.float64)
        if y.ndim != 2 or len(index) != len(y):
            raise DataError(f"y must be ({len(index)}, m) for an index of {len(index)} rows; got {y.shape}")
        weight = np.ones(len(y)) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
        self.n_features_in_ = index.dimension
        self.n_models_ = y.shape[1]
        return self._store(index, y, weight)

    def _store(self, index: VectorIndex, y: FloatArray, weight: FloatArray) -> Self:
        if not isinstance(self.k, int | np.integer) or self.k < 1:
            raise ConfigError(f"k must be a whole number >= 1; got {self.k!r}")
        if not self.shrinkage >= 0:
            raise ConfigError(f"shrinkage must be >= 0; got {self.shrinkage!r}")
        self.index_ = index
        self.y_ = y
        self.weight_ = weight
        self.mean_ = weighted_mean(y, weight)
        self.variance_ = weighted_mean((y - self.mean_) ** 2, weight)
        return self

    def neighbours(self, X: FloatArray) -> Neighbors:
        """Return the k stored prompts nearest to each row of X."""
        X = self._check_predict(X)
        return self.index_.search(X, self.k)

    def predict(self, X: FloatArray) -> FloatArray:
        """Return the expected outcome, shape (n, m); NaN for a model that was never observed."""
        return self._shrunk_mean(*self._gather(self.neighbours(X)))

    def predict_std(self, X: FloatArray) -> FloatArray:
        """Return the standard error of that expectation, shape (n, m)."""
        return self.predict_from(self.neighbours(X))[1]

    def predict_from(self, found: Neighbors) -> tuple[FloatArray, FloatArray]:
        """Return expectation and standard error, each (n, m), from neighbours found already.

        Only the first `k` of them are used, so that two routers may share one search. The variance of the
        neighbourhood is shrunk towards the model's overall variance by ``shrinkage + 1`` prompts: a handful of equal
        outcomes does not make an estimate certain.
        """
        values, weight = self._gather(found)
        mean = self._shrunk_mean(values, weight)
        total = weight.sum(axis=1)
        squares = (weight * (values - mean[:, None, :]) ** 2).sum(axis=1)
        prior = self.shrinkage + 1.0
        variance = (squares + prior * self.variance_) / (total + prior)
        return mean, np.sqrt(variance / np.maximum(total + self.shrinkage, 1.0))

    def _gather(self, found: Neighbors) -> tuple[FloatArray, FloatArray]:
        """Return outcomes (0 where not observed) and weights (0 there too) of the first k neighbours, (n, k, m)."""
        if not hasattr(self, "y_"):
            raise NotFittedError("KNNRouter is not fitted; call fit first")
        ids = found.ids[:, : self.k]
        values = self.y_[ids]
        observed = np.isfinite(values)
        return np.where(observed, values, 0.0), self.weight_[ids][:, :, None] * observed

    def _shrunk_mean(self, values: FloatArray, weight: FloatArray) -> FloatArray:
        summed = (weight * values).sum(axis=1)
        strength = weight.sum(axis=1)
        if self.shrinkage:
            summed += self.shrinkage * np.nan_to_num(self.mean_)
            strength += self.shrinkage
        mean: FloatArray = np.where(strength > 0, summed / np.where(strength > 0, strength, 1.0), self.mean_)
        mean[:, ~np.isfinite(self.mean_)] = np.nan
        return mean

    def state(self) -> tuple[dict[str, FloatArray], dict[str, Any]]:
        """Return (arrays, JSON values); the index is saved beside them by the artifact."""
        return {"y": self.y_, "weight": self.weight_}, {"parameters": self.get_params()}

    @classmethod
    def from_state(
        cls, arrays: Mapping[str, FloatArray], values: Mapping[str, Any], *, index: VectorIndex | None = None
    ) -> Self:
        """Rebuild a fitted router from `state()` and its index."""
        if index is None:
            raise DataError("a kNN router needs its index")
        router = cls(**values["parameters"])
        return router.fit_shared(index, arrays["y"], arrays["weight"])
