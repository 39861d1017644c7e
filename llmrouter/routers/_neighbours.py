"""What every neighbour router shares: an index of the training prompts and their outcomes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np

from llmrouter.exceptions import ConfigError, DataError, NotFittedError
from llmrouter.index import Neighbors, VectorIndex, create_index
from llmrouter.routers._base import Learned, weighted_mean
from llmrouter.routers._online import OnlineBase
from llmrouter.routers._population import prudent_variance
from llmrouter.types import FloatArray


class NeighbourRouter(OnlineBase):
    """Looks up the stored prompts nearest to a new one; subclasses turn their outcomes into an estimate.

    A subclass has the constructor parameters `k` and `index` and implements `_estimate_found`. Two routers fitted on
    the same prompts may share an index (`fit_shared`) and a search (`estimate_found`). `partial_fit` appends prompts;
    of two routers that share an index the first appends them and the second takes them as they are, so both have to
    learn the same prompts before either predicts again.

    Attributes
    ----------
    index_ : VectorIndex
        Training embeddings under ids 0..n-1.
    y_ : array of shape (n, m)
        Training outcomes, NaN where not observed.
    weight_ : array of shape (n,)
        Weights of the training prompts.
    mean_, variance_ : arrays of shape (m,)
        Of each model over its observed prompts; NaN for a model that was never observed. Equal outcomes have the
        variance of one presumed prompt, so that they do not look certain.
    """

    shares_index: ClassVar[bool] = True
    """Whether it can be fitted over an index alone (`fit_shared`), without the embeddings."""

    k: int
    index: str

    def _estimate_found(self, found: Neighbors) -> tuple[FloatArray, FloatArray]:
        """Return expectation and standard error, each (n, m), from neighbours found already."""
        raise NotImplementedError

    def _check_parameters(self) -> None:
        if not isinstance(self.k, int | np.integer) or self.k < 1:
            raise ConfigError(f"k must be a whole number >= 1; got {self.k!r}")

    def fit_shared(self, index: VectorIndex, y: FloatArray, sample_weight: FloatArray | None = None) -> Self:
        """Like `fit`, over an index that already holds the embeddings under ids 0..n-1 (it is not copied)."""
        y = np.asarray(y, dtype=np.float64)
        if y.ndim != 2 or len(index) != len(y):
            raise DataError(f"y must be ({len(index)}, m) for an index of {len(index)} rows; got {y.shape}")
        weight = np.ones(len(y)) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
        self.n_features_in_ = index.dimension
        self._note_bounds(y)
        self._begin_columns(y.shape[1])
        self._store(index, y, weight)
        return self

    def neighbours(self, X: FloatArray) -> Neighbors:
        """Return the k stored prompts nearest to each row of X (n, d)."""
        return self._search(self._check_predict(X))

    def estimate_found(self, X: FloatArray, found: Neighbors) -> tuple[FloatArray, FloatArray]:
        """Return expectation and standard error, each (n, m), of prompts X (n, d) whose neighbours were found already.

        Only the first `k` neighbours are used, so that two routers may share one search.
        """
        X = self._check_predict(X)
        return self._complete(X, *self._estimate_found(found))

    def _learn(self, X: FloatArray, y: FloatArray, weight: FloatArray) -> None:
        self._check_parameters()
        index = create_index(self.index, X.shape[1], rows=len(X))
        index.add(np.arange(len(X), dtype=np.int64), X)
        self._store(index, y, weight)

    def _store(self, index: VectorIndex, y: FloatArray, weight: FloatArray) -> None:
        self._check_parameters()
        self.index_ = index
        self.y_ = y
        self.weight_ = weight
        self.mean_ = weighted_mean(y, weight)
        variance = weighted_mean((y - self.mean_) ** 2, weight)
        self.variance_ = prudent_variance(variance, self.mean_, weight @ np.isfinite(y), self.upper_)

    def _update(self, X: FloatArray, y: FloatArray, weight: FloatArray) -> None:
        known = len(self.y_)
        if len(self.index_) == known:
            self.index_.add(np.arange(known, known + len(X), dtype=np.int64), X)
        elif len(self.index_) != known + len(X):
            raise DataError(
                f"the shared index has {len(self.index_)} prompts, this router {known}, and {len(X)} were given; "
                "give both routers the same prompts in the same order"
            )
        self._store(self.index_, np.concatenate([self.y_, y]), np.concatenate([self.weight_, weight]))

    def _search(self, X: FloatArray) -> Neighbors:
        return self.index_.search(X, self.k)

    def _estimate(self, X: FloatArray) -> tuple[FloatArray, FloatArray]:
        return self._estimate_found(self._search(X))

    def _gather(self, found: Neighbors) -> tuple[FloatArray, FloatArray]:
        """Return outcomes (0 where not observed) and weights (0 there too) of the first k neighbours, (n, k, m)."""
        if not hasattr(self, "y_"):
            raise NotFittedError(f"{type(self).__name__} is not fitted; call fit first")
        ids = found.ids[:, : self.k]
        values = self.y_[ids]
        observed = np.isfinite(values)
        return np.where(observed, values, 0.0), self.weight_[ids][:, :, None] * observed

    def _learned(self) -> Learned:
        return {"y": self.y_, "weight": self.weight_}, {}

    def _restore(self, arrays: Mapping[str, FloatArray], values: Mapping[str, Any], index: VectorIndex | None) -> None:
        del values
        if index is None:
            raise DataError("a neighbour router needs its index; restore the artifact's index folder")
        self._store(index, arrays["y"], arrays["weight"])
