"""The contract of routers, and a base class that gives them scikit-learn's parameter protocol without its import."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np

from llmrouter.exceptions import DataError, NotFittedError
from llmrouter.index import VectorIndex
from llmrouter.types import FloatArray


@runtime_checkable
class Router(Protocol):
    """A multi-output regressor: one column a model, NaN where a model was not observed."""

    def fit(self, X: FloatArray, y: FloatArray, sample_weight: FloatArray | None = None) -> Self:
        """Learn from embeddings X of shape (n, d) and outcomes y of shape (n, m)."""
        ...

    def predict(self, X: FloatArray) -> FloatArray:
        """Return the expected outcome, shape (n, m)."""
        ...

    def predict_std(self, X: FloatArray) -> FloatArray:
        """Return the standard error of that expectation, shape (n, m)."""
        ...

    def state(self) -> tuple[dict[str, FloatArray], dict[str, Any]]:
        """Return what was learned as (arrays, JSON values), for an artifact."""
        ...

    @classmethod
    def from_state(
        cls, arrays: Mapping[str, FloatArray], values: Mapping[str, Any], *, index: VectorIndex | None = None
    ) -> Self:
        """Rebuild a fitted router from `state()`, with its index where it has one."""
        ...


class BaseRouter:
    """`get_params`, `set_params`, input checks and the model-wise mean, shared by every router.

    Follows scikit-learn's conventions (constructors store, `fit` checks, learned names end in ``_``), so that its
    tools work on routers, without importing scikit-learn in a serving process.
    """

    n_features_in_: int
    n_models_: int

    @classmethod
    def _parameter_names(cls) -> list[str]:
        signature = inspect.signature(cls.__init__)
        return sorted(
            name
            for name, parameter in signature.parameters.items()
            if name != "self" and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        )

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the constructor's parameters by name."""
        del deep  # routers hold no nested estimators
        return {name: getattr(self, name) for name in self._parameter_names()}

    def set_params(self, **params: Any) -> Self:
        """Set constructor parameters by name and return self.

        Raises
        ------
        ValueError
            If a name is not a parameter.
        """
        known = self._parameter_names()
        for name, value in params.items():
            if name not in known:
                raise ValueError(f"Invalid parameter {name!r} for {type(self).__name__}; one of {known}")
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        """Return the constructor call."""
        listed = ", ".join(f"{name}={value!r}" for name, value in self.get_params().items())
        return f"{type(self).__name__}({listed})"

    def _check_fit(
        self, X: FloatArray, y: FloatArray, sample_weight: FloatArray | None
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        X = np.asarray(X, dtype=np.float32)
        y = np.asarray(y, dtype=np.float64)
        if X.ndim != 2 or y.ndim != 2 or len(X) != len(y):
            raise DataError(f"X must be (n, d) and y (n, m) with the same n; got {X.shape} and {y.shape}")
        if len(X) == 0:
            raise DataError("cannot fit a router on 0 prompts")
        if not np.isfinite(X).all():
            raise DataError("X has NaN or infinite values; embeddings must be finite")
        if np.isinf(y).any():
            raise DataError("y has infinite values; use NaN for what was not observed")
        weight = np.ones(len(X)) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
        if weight.shape != (len(X),) or not np.isfinite(weight).all() or (weight < 0).any():
            raise DataError(f"sample_weight must be {len(X)} finite values >= 0; got shape {weight.shape}")
        self.n_features_in_ = X.shape[1]
        self.n_models_ = y.shape[1]
        return X, y, weight

    def _check_predict(self, X: FloatArray) -> FloatArray:
        if not hasattr(self, "n_features_in_"):
            raise NotFittedError(f"{type(self).__name__} is not fitted; call fit first")
        X = np.asarray(X, dtype=np.float32)
        if X.ndim != 2 or X.shape[1] != self.n_features_in_:
            raise DataError(f"X must be (n, {self.n_features_in_}); got {X.shape}")
        if not np.isfinite(X).all():
            raise DataError("X has NaN or infinite values; embeddings must be finite")
        return X


def weighted_mean(y: FloatArray, weight: FloatArray) -> FloatArray:
    """Return the weighted mean of each column of `y` (n, m) over what was observed; NaN for an unobserved column."""
    observed = np.isfinite(y)
    total = (weight[:, None] * observed).sum(axis=0)
    summed = (weight[:, None] * np.where(observed, y, 0.0)).sum(axis=0)
    mean: FloatArray = np.divide(summed, total, out=np.full(y.shape[1], np.nan), where=total > 0)
    return mean
