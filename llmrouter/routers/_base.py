"""The contract of routers, and a base class that gives them scikit-learn's protocol without its import."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import numpy as np

from llmrouter.exceptions import DataError, NotFittedError
from llmrouter.index import VectorIndex
from llmrouter.routers._added import AddedColumn
from llmrouter.routers._first_layout import upgraded_state
from llmrouter.routers._prior import PriorColumns
from llmrouter.routers._steady import steadied
from llmrouter.types import FloatArray, IntArray

Learned = tuple[dict[str, FloatArray], dict[str, Any]]


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

    def state(self) -> Learned:
        """Return what was learned as (arrays, JSON values), for an artifact."""
        ...

    @classmethod
    def from_state(
        cls, arrays: Mapping[str, FloatArray], values: Mapping[str, Any], *, index: VectorIndex | None = None
    ) -> Self:
        """Rebuild a fitted router from `state()`, with its index where it has one."""
        ...


class BaseRouter(PriorColumns):
    """What every router shares: scikit-learn's parameter protocol, input checks, added columns, state.

    Follows scikit-learn's conventions (constructors store, `fit` checks, learned names end in ``_``), so that its
    tools work on routers, without importing scikit-learn in a serving process.

    A subclass implements four hooks: `_learn` (fit on checked arrays), `_estimate` (mean and standard error of its
    own columns), `_learned` (its state) and `_restore`. Columns added after `fit` are handled here, alike for all
    (see `add_column`); a subclass whose method has its own way to take in a model overrides `_new_column`.

    Attributes
    ----------
    n_features_in_, n_models_ : int
        Dimension d of the embeddings; columns m, added ones included.
    lower_, upper_ : float
        Bounds of predictions: [0, 1] where all training outcomes lie there, [0, inf) where none is negative.
    """

    cost_router: ClassVar[str | None] = None
    """Registry name of the router that estimates cost beside this one; None for the same algorithm."""
    grid: ClassVar[tuple[Mapping[str, Any], ...]] = ()
    """Settings that tuning by cross-validation tries; empty where there is nothing to tune."""
    guarded: ClassVar[bool] = False
    """Whether it is served under a guard (see `llmrouter.policy.UtilityPolicy`) that is chosen with it on train."""

    n_features_in_: int
    n_models_: int
    lower_: float
    upper_: float
    columns_: IntArray
    added_: list[AddedColumn]

    # What a subclass implements

    def _learn(self, X: FloatArray, y: FloatArray, weight: FloatArray) -> None:
        """Fit on float32 X (n, d), float64 y (n, m) with NaN, and weights (n,) >= 0."""
        raise NotImplementedError

    def _estimate(self, X: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return expectation and standard error of the fitted columns, each (n, m); NaN for an unobserved model."""
        raise NotImplementedError

    def _mean(self, X: FloatArray) -> FloatArray:
        """Return the expectation alone, (n, m); overridden where that is quicker."""
        return self._estimate(X)[0]

    def _learned(self) -> Learned:
        """Return what `_learn` learned as (arrays, JSON values)."""
        raise NotImplementedError

    def _restore(self, arrays: Mapping[str, FloatArray], values: Mapping[str, Any], index: VectorIndex | None) -> None:
        """Take back what `_learned` returned."""
        raise NotImplementedError

    # Fitting and predicting

    def fit(self, X: FloatArray, y: FloatArray, sample_weight: FloatArray | None = None) -> Self:
        """Learn from logged outcomes.

        Parameters
        ----------
        X : array of shape (n, d)
            Embeddings, rows of unit length for retrieval encoders.
        y : array of shape (n, m)
            Outcomes, NaN where not observed.
        sample_weight : array of shape (n,), optional
            Weight of each prompt.

        Raises
        ------
        DataError
            If shapes disagree or a value is not usable; the message says which.
        ConfigError
            If a constructor parameter is out of range.
        """
        X, y, weight = self._check_fit(X, y, sample_weight)
        self._learn(X, y, weight)
        return self

    def estimate(self, X: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return expectation and standard error, each of shape (n, m), in one pass over the rows of X (n, d)."""
        return self.estimate_checked(self._check_predict(X))

    def estimate_checked(self, X: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the same for rows that are known to be right, such as those another router has checked."""
        return self._complete(X, *self._estimate(X))

    def predict(self, X: FloatArray) -> FloatArray:
        """Return the expected outcome, shape (n, m); NaN for a model that was never observed."""
        X = self._check_predict(X)
        mean = self._mean(X)
        return mean if self._plain else self._complete(X, mean, np.zeros_like(mean))[0]

    def predict_std(self, X: FloatArray) -> FloatArray:
        """Return the standard error of that expectation, shape (n, m)."""
        return self.estimate(X)[1]

    def score(self, X: FloatArray, y: FloatArray, sample_weight: FloatArray | None = None) -> float:
        """Return the coefficient of determination, the mean over the models observed in y (n, m), as scikit-learn does.

        NaN outcomes are left out; a model whose outcomes are all alike counts 1 where they are met exactly, else 0.

        Raises
        ------
        DataError
            If shapes disagree, or nothing was observed.
        """
        predicted = self.predict(X)
        y = _as_floats(y, np.float64, "y")
        weight = _checked_weight(sample_weight, len(predicted))
        if y.shape != predicted.shape:
            raise DataError(f"y must be {predicted.shape}, one column a model; got {y.shape}")
        left = weighted_mean((y - predicted) ** 2, weight)
        spread = weighted_mean((y - weighted_mean(y, weight)) ** 2, weight)
        if not np.isfinite(left).any():
            raise DataError("y has no observed outcome to score against")
        explained = 1.0 - left / np.where(spread > 0, spread, 1.0)
        return float(np.nanmean(np.where(spread > 0, explained, np.where(left > 0, 0.0, explained))))

    # Models that come and go

    def add_column(
        self,
        X: FloatArray,
        y: FloatArray,
        sample_weight: FloatArray | None = None,
        *,
        known: FloatArray | None = None,
    ) -> Self:
        """Take in one more model from N scored prompts, refitting nothing else.

        Every router can do this. Unless its method has a way of its own (its docstring says so), the new column is a
        Gaussian process whose prior is drawn from the models known already, so that a few prompts place the model
        and many describe it (see `llmrouter.routers._added`). Needs the embeddings of the scored prompts and the
        fitted router, nothing of the original training data.

        Parameters
        ----------
        X : array of shape (N, d)
            Embeddings of the scored prompts.
        y : array of shape (N,)
            The new model's outcomes on them; NaN ones are left out.
        sample_weight : array of shape (N,), optional
            Weight of each prompt.
        known : array of shape (N, m), optional
            Outcomes of the router's present models on the same prompts, NaN where not observed. Where the scored
            prompts come from the log these are at hand, and they tell a lucky draw of prompts from a good model
            (see `llmrouter.routers._steady`): about as good as twice the scored prompts.

        Raises
        ------
        NotFittedError
            Before `fit`.
        DataError
            If shapes disagree, or nothing was observed.
        """
        X = self._check_predict(X)
        y = np.asarray(y, dtype=np.float64)
        if y.shape != (len(X),):
            raise DataError(f"y must be ({len(X)},), one outcome of the new model for each prompt; got {y.shape}")
        weight = _checked_weight(sample_weight, len(X))
        keep = np.isfinite(y) & (weight > 0)
        if not keep.any():
            raise DataError("the new model has no observed outcome; score it on at least one prompt")
        if np.isinf(y).any() or (y[keep] < self.lower_).any() or (y[keep] > self.upper_).any():
            raise DataError(
                f"y must lie in [{self.lower_:g}, {self.upper_:g}] as the outcomes in training did; "
                f"got [{y[keep].min():g}, {y[keep].max():g}]"
            )
        own = self._mean(X[keep])
        target = y[keep]
        if known is not None:
            known = np.asarray(known, dtype=np.float64)
            if known.shape != (len(X), self.n_models_):
                raise DataError(
                    f"known must be ({len(X)}, {self.n_models_}), the present models' outcomes; got {known.shape}"
                )
            target = steadied(target, weight[keep], known[keep], self.predict(X[keep]))
        self._new_column(X[keep], target, weight[keep], own)
        self.columns_ = np.append(self.columns_, self._own_columns + len(self.added_) - 1)
        self.n_models_ += 1
        return self

    def drop_column(self, column: int) -> Self:
        """Forget one model: columns after it move up by one. Refits nothing.

        Raises
        ------
        DataError
            If there is no such column, or it is the last one.
        """
        if not hasattr(self, "columns_"):
            raise _not_fitted(self)
        if not 0 <= column < self.n_models_:
            raise DataError(f"column {column} is unknown; there are {self.n_models_}, counted from 0")
        if self.n_models_ == 1:
            raise DataError("cannot drop the only model of a router")
        self.columns_ = np.delete(self.columns_, column)
        self.n_models_ -= 1
        return self

    def _new_column(self, X: FloatArray, y: FloatArray, weight: FloatArray, own: FloatArray) -> None:
        """Append one column to `added_`; `own` (N, m) is what the fitted columns expect of the prompts X."""
        self.added_.append(AddedColumn.fit(X, y, weight, own, bounds=(self.lower_, self.upper_)))

    def _complete(self, X: FloatArray, mean: FloatArray, std: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the estimates with added columns and without dropped ones."""
        if self._plain:
            return mean, std
        added = [column.estimate(X, mean) for column in self.added_]
        means = np.concatenate([mean, *(column[0][:, None] for column in added)], axis=1)
        stds = np.concatenate([std, *(column[1][:, None] for column in added)], axis=1)
        return means[:, self.columns_], stds[:, self.columns_]

    @property
    def _own_columns(self) -> int:
        return self._fitted_models

    @property
    def _adds_apart(self) -> bool:
        """Whether columns added after `fit` are Gaussian processes beside the router's own."""
        return getattr(self._new_column, "__func__", None) is BaseRouter._new_column

    @property
    def _plain(self) -> bool:
        return not self.added_ and len(self.columns_) == self._fitted_models

    # State

    def state(self) -> Learned:
        """Return what was learned as (arrays, JSON values); an index is saved beside them by the artifact."""
        if not hasattr(self, "columns_"):
            raise _not_fitted(self)
        arrays, values = self._learned()
        for number, column in enumerate(self.added_):
            arrays |= {f"added.{number}.{name}": array for name, array in column.arrays().items()}
        header = {
            "parameters": self.get_params(),
            "n_features_in": self.n_features_in_,
            "fitted_models": self._fitted_models,
            "bounds": [None if np.isinf(bound) else bound for bound in (self.lower_, self.upper_)],
            "columns": self.columns_.tolist(),
            "added": [column.values() for column in self.added_],
        }
        return arrays, {**header, "learned": values}

    @classmethod
    def from_state(
        cls, arrays: Mapping[str, FloatArray], values: Mapping[str, Any], *, index: VectorIndex | None = None
    ) -> Self:
        """Rebuild a fitted router from `state()`, with its index where it has one."""
        router = cls(**values["parameters"])
        if "learned" not in values:
            values = upgraded_state(arrays, values, index)
        lower, upper = values["bounds"]
        router.n_features_in_ = values["n_features_in"]
        router.lower_ = -np.inf if lower is None else lower
        router.upper_ = np.inf if upper is None else upper
        router._begin_columns(values["fitted_models"])
        router._restore(arrays, values["learned"], index)
        router.columns_ = np.asarray(values["columns"], dtype=np.int64)
        router.n_models_ = len(router.columns_)
        for number, described in enumerate(values["added"]):
            prefix = f"added.{number}."
            own = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
            router.added_.append(AddedColumn.from_parts(own, described))
        return router

    def _begin_columns(self, models: int) -> None:
        self._fitted_models = self.n_models_ = models
        self.added_ = []
        self.columns_ = np.arange(models)

    # Checks

    def _check_fit(
        self, X: FloatArray, y: FloatArray, sample_weight: FloatArray | None
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        if y is None:
            raise DataError(f"{type(self).__name__} requires y to be passed, but the target y is None")
        X = _as_floats(X, np.float32, "X")
        y = _as_floats(y, np.float64, "y")
        if X.ndim != 2 or y.ndim != 2 or len(X) != len(y):
            raise DataError(f"X must be (n, d) and y (n, m) with the same n; got {X.shape} and {y.shape}")
        if len(X) == 0:
            raise DataError("cannot fit a router on 0 prompts (0 samples)")
        if X.shape[1] == 0:
            raise DataError(f"0 feature(s) (shape={X.shape}) while a minimum of 1 is required: X has no columns")
        if not np.isfinite(X).all():
            raise DataError("X has NaN or infinite values; embeddings must be finite")
        if np.isinf(y).any():
            raise DataError("y has infinite values; use NaN for what was not observed")
        weight = _checked_weight(sample_weight, len(X))
        if not weight.any():
            raise DataError("sample_weight is zero for every prompt; leave it out, or give some prompts a weight > 0")
        self.n_features_in_ = X.shape[1]
        self._note_bounds(y)
        self._begin_columns(y.shape[1])
        return X, y, weight

    def _note_bounds(self, y: FloatArray) -> None:
        observed = y[np.isfinite(y)]
        self.lower_ = 0.0 if not observed.size or observed.min() >= 0 else -np.inf
        self.upper_ = 1.0 if self.lower_ == 0.0 and (not observed.size or observed.max() <= 1) else np.inf

    def _check_predict(self, X: FloatArray) -> FloatArray:
        if not hasattr(self, "columns_"):
            raise _not_fitted(self)
        X = _as_floats(X, np.float32, "X")
        if X.ndim != 2:
            raise DataError(
                f"X must be (n, {self.n_features_in_}); got {X.shape}. "
                "Reshape your data: one prompt is X[None], an array of one row"
            )
        if X.shape[1] != self.n_features_in_:
            raise DataError(
                f"X has {X.shape[1]} features, but {type(self).__name__} is expecting {self.n_features_in_} features "
                f"as input: X must be (n, {self.n_features_in_}), from the encoder the router was fitted with"
            )
        if not np.isfinite(X).all():
            raise DataError("X has NaN or infinite values; embeddings must be finite")
        return X

    # scikit-learn's parameter protocol

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

    def __sklearn_is_fitted__(self) -> bool:
        """Tell scikit-learn whether `fit` was called."""
        return hasattr(self, "columns_")

    def __sklearn_tags__(self) -> Any:
        """Tell scikit-learn what this is: a multi-output regressor that needs a 2-d target."""
        from sklearn.utils import InputTags, RegressorTags, Tags, TargetTags

        target = TargetTags(required=True, multi_output=True, single_output=False)
        # poor_score: no estimator of success chances fits any regression problem at all
        return Tags("regressor", target, regressor_tags=RegressorTags(poor_score=True), input_tags=InputTags())


def _not_fitted(router: object) -> NotFittedError:
    """Return the error for `router`; where scikit-learn is loaded it is scikit-learn's own error of that name too."""
    message = f"{type(router).__name__} is not fitted; call fit first"
    theirs = sys.modules.get("sklearn.exceptions")
    if theirs is None:
        return NotFittedError(message)
    both: type[NotFittedError] = type("NotFittedError", (NotFittedError, theirs.NotFittedError), {})
    return both(message)


def _as_floats(values: Any, dtype: type[np.floating[Any]], name: str) -> FloatArray:
    if type(values) is np.ndarray and values.dtype == dtype:  # what an encoder gives: nothing to convert
        return values
    if hasattr(values, "toarray"):
        raise DataError(f"{name} is a sparse matrix; pass a dense array")
    try:
        array = np.asarray(values)
        if np.iscomplexobj(array):
            raise DataError(f"{name}: Complex data not supported; pass real numbers")
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused as such
            return np.asarray(array, dtype=dtype)
    except DataError:
        raise
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} must hold numbers: {error}") from error


def _checked_weight(sample_weight: FloatArray | None, n: int) -> FloatArray:
    weight = np.ones(n) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
    if weight.shape != (n,) or not np.isfinite(weight).all() or (weight < 0).any():
        raise DataError(f"sample_weight must be {n} finite values >= 0; got shape {weight.shape}")
    return weight


def weighted_mean(y: FloatArray, weight: FloatArray) -> FloatArray:
    """Return the weighted mean of each column of `y` (n, m) over what was observed; NaN for an unobserved column."""
    observed = np.isfinite(y)
    total = (weight[:, None] * observed).sum(axis=0)
    summed = (weight[:, None] * np.where(observed, y, 0.0)).sum(axis=0)
    mean: FloatArray = np.divide(summed, total, out=np.full(y.shape[1], np.nan), where=total > 0)
    return mean
