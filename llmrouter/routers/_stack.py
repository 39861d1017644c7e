"""The stack: a calibrated combination of routers, the default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from llmrouter.exceptions import ConfigError
from llmrouter.index import VectorIndex
from llmrouter.registry import create, parse_spec, resolve
from llmrouter.routers._base import BaseRouter, Learned, weighted_mean
from llmrouter.routers._neighbours import NeighbourRouter
from llmrouter.types import FloatArray, IntArray

_BLENDS = (0.0, 0.5, 1.0)
_GRID = 64
_LEAST_PROMPTS = 50
_PRIOR_PROMPTS = 30.0
_LEAST_WEIGHT = 0.02


class StackRouter(BaseRouter):
    """Combine routers by how well each predicts prompts it was not fitted on.

    Stacked regression (Wolpert 1992; Breiman 1996), with non-negative weights::

        combined = mean_m + sum_k w_k (prediction_k - mean_m)
        expected = (1 - blend) combined + blend isotonic_m(combined)

    1. Every member is fitted on all folds but one and predicts that one; the weights, shared by all models, minimise
       the squared error of these out-of-fold predictions (non-negative least squares, drawn towards equal weights by a
       prior worth 30 prompts). Weights below one in sum pull towards each model's mean.
    2. Each model's predictions are calibrated by isotonic regression on the same out-of-fold predictions; how far
       (`blend`: not at all, half way, fully) is chosen for all models by cross-validation, since isotonic steps are
       themselves noisy. Amounts (tokens, dollars) are not calibrated.
    3. The members are refitted on all prompts.

    The standard error combines those of the members, weighted, with their disagreement.

    With fewer than 50 prompts there is nothing to choose weights on, and members are averaged. Taking in a new model
    needs N scored prompts (`add_column`); neither members nor weights are refitted.

    Parameters
    ----------
    members : str
        Registry specs separated by ``;``, e.g. ``"forest;ridge"``.
    folds : int
        Of the cross-validation inside `fit`.
    seed : int
        Of the folds.

    Attributes
    ----------
    weights_ : mapping of str to float
        Of the members; those of no weight are not kept.
    blend_ : float
        Share of the isotonic calibration.
    """

    cost_router: ClassVar[str | None] = "kernel-ridge"
    guarded: ClassVar[bool] = True

    def __init__(
        self,
        members: str = "forest;kernel-ridge;ridge;uniroute",
        *,
        folds: int = 5,
        seed: int = 0,
    ) -> None:
        self.members = members
        self.folds = folds
        self.seed = seed

    def _learn(self, X: FloatArray, y: FloatArray, weight: FloatArray) -> None:
        specs = self._checked_specs()
        self.mean_ = weighted_mean(y, weight)
        used = np.flatnonzero((weight > 0) & np.isfinite(y).any(axis=1))
        share = np.full(len(specs), 1.0 / len(specs))
        self.blend_, self.table_ = 0.0, np.empty((0, y.shape[1]))
        if len(used) >= _LEAST_PROMPTS:
            held_out = self._held_out(specs, X[used], y[used], weight[used])
            share = self._choose_weights(held_out, y[used], weight[used])
            combined = self._combine(held_out, share)
            if np.isfinite(self.upper_):
                self._calibrate(combined, y[used], weight[used])
        kept = share >= _LEAST_WEIGHT * share.sum()
        self.weights_ = {spec: float(value) for spec, value, keep in zip(specs, share, kept, strict=True) if keep}
        self.members_ = {spec: _make(spec).fit(X, y, weight) for spec in self.weights_}
        self._prepare()

    def _checked_specs(self) -> list[str]:
        specs = [spec.strip() for spec in self.members.split(";") if spec.strip()]
        if not specs:
            raise ConfigError("members must name at least one router, e.g. 'forest;ridge'")
        if len(set(specs)) != len(specs):
            raise ConfigError(f"members must be distinct; got {self.members!r}")
        for spec in specs:
            kind = resolve("router", parse_spec(spec)[0])
            if not issubclass(kind, BaseRouter) or issubclass(kind, StackRouter | NeighbourRouter):
                raise ConfigError(f"{spec!r} cannot be a member: a stack takes routers without an index of their own")
        if not isinstance(self.folds, int | np.integer) or self.folds < 2:
            raise ConfigError(f"folds must be a whole number >= 2; got {self.folds!r}")
        return specs

    def _folds(self, n: int) -> list[IntArray]:
        order = np.random.default_rng(self.seed).permutation(n)
        return [np.sort(part) for part in np.array_split(order, self.folds)]

    def _held_out(self, specs: list[str], X: FloatArray, y: FloatArray, weight: FloatArray) -> list[FloatArray]:
        """Return each member's out-of-fold predictions, (n, m)."""
        predictions = [np.tile(self.mean_, (len(X), 1)) for _ in specs]
        for part in self._folds(len(X)):
            rest = np.setdiff1d(np.arange(len(X)), part)
            for prediction, spec in zip(predictions, specs, strict=True):
                prediction[part] = _make(spec).fit(X[rest], y[rest], weight[rest]).predict(X[part])
        # a model that the rest of a fold never saw stands at its mean
        return [np.where(np.isnan(prediction), self.mean_, prediction) for prediction in predictions]

    def _choose_weights(self, held_out: list[FloatArray], y: FloatArray, weight: FloatArray) -> FloatArray:
        from scipy.optimize import nnls

        unit = np.ones_like(self.mean_)
        if not np.isfinite(self.upper_):
            unit = np.maximum(np.abs(np.nan_to_num(self.mean_)), 1e-12)
        seen = np.isfinite(y)
        root = np.sqrt(np.broadcast_to(weight[:, None], y.shape)[seen])
        columns = np.stack([root * ((prediction - self.mean_) / unit)[seen] for prediction in held_out], axis=1)
        target = root * ((y - self.mean_) / unit)[seen]
        gram, aligned = columns.T @ columns, columns.T @ target
        prior = _PRIOR_PROMPTS * float(np.trace(gram)) / len(held_out) / len(y)
        gram[np.diag_indices(len(held_out))] += prior + 1e-12
        factor = np.linalg.cholesky(gram)
        share, _ = nnls(factor.T, np.linalg.solve(factor, aligned + prior / len(held_out)))
        return np.asarray(share)

    def _combine(self, predictions: list[FloatArray], share: FloatArray) -> FloatArray:
        combined = np.tile(self.mean_, (len(predictions[0]), 1))
        for value, prediction in zip(share, predictions, strict=True):
            combined += value * (prediction - self.mean_)
        return np.asarray(np.clip(combined, self.lower_, self.upper_))

    def _calibrate(self, combined: FloatArray, y: FloatArray, weight: FloatArray) -> None:
        """Choose how far to follow isotonic regression, by its error on prompts it was not fitted on."""
        calibrated = np.array(combined)
        for part in self._folds(len(y)):
            rest = np.setdiff1d(np.arange(len(y)), part)
            table = _isotonic_table(combined[rest], y[rest], weight[rest])
            calibrated[part] = _look_up(table, combined[part])
        cells = np.where(np.isfinite(y), weight[:, None], 0.0)
        errors = []
        for blend in _BLENDS:
            mixed = (1.0 - blend) * combined + blend * calibrated
            errors.append(float((cells * np.nan_to_num(mixed - y) ** 2).sum()))
        self.blend_ = _BLENDS[int(np.argmin(errors))]
        if self.blend_ > 0:
            self.table_ = _isotonic_table(combined, y, weight)

    def _prepare(self) -> None:
        share = np.array(list(self.weights_.values()))
        total = float(share.sum())
        self._share = share[:, None, None]
        self._part = self._share / total if total > 0 else self._share
        self._rest = self.mean_ * (1.0 - total)
        # no expectation is known to better than a thousandth, however alike the outcomes were
        self._least_variance = 1e-6 if np.isfinite(self.upper_) else (1e-3 * self.mean_) ** 2

    def _calibrated(self, combined: FloatArray) -> FloatArray:
        combined = np.minimum(np.maximum(combined, self.lower_), self.upper_)
        if self.blend_ == 0.0:
            return combined
        return (1.0 - self.blend_) * combined + self.blend_ * _look_up(self.table_, combined)

    def _mean(self, X: FloatArray) -> FloatArray:
        means = [member.predict(X) for member in self.members_.values()]
        return self._calibrated(self._combined(np.array(means).reshape(len(means), len(X), len(self._rest))))

    def _estimate(self, X: FloatArray) -> tuple[FloatArray, FloatArray]:
        estimates = [member.estimate_checked(X) for member in self.members_.values()]
        # All members at once: for one request the steps cost more than the numbers.
        means = np.array([mean for mean, _ in estimates]).reshape(len(estimates), len(X), len(self._rest))
        stds = np.array([std for _, std in estimates]).reshape(means.shape)
        first = np.add.reduce(self._part * means)
        second = np.add.reduce(self._part * (means * means + stds * stds))
        variance = np.maximum(second - first * first, self._least_variance)
        return self._calibrated(self._combined(means)), np.sqrt(np.broadcast_to(variance, (len(X), len(self._rest))))

    def _combined(self, means: FloatArray) -> FloatArray:
        # A sum of members, not a matrix product: a column must not depend on which others there are.
        return np.asarray(np.add.reduce(self._share * means) + self._rest)

    def _learned(self) -> Learned:
        arrays: dict[str, FloatArray] = {"mean": self.mean_, "table": self.table_}
        described: list[dict[str, Any]] = []
        for number, (spec, member) in enumerate(self.members_.items()):
            inner, values = member.state()
            arrays |= {f"member.{number}.{name}": array for name, array in inner.items()}
            described.append({"spec": spec, "weight": self.weights_[spec], "values": values})
        return arrays, {"members": described, "blend": self.blend_}

    def _restore(self, arrays: Mapping[str, FloatArray], values: Mapping[str, Any], index: VectorIndex | None) -> None:
        del index
        self.mean_, self.table_, self.blend_ = arrays["mean"], arrays["table"], values["blend"]
        self.weights_, self.members_ = {}, {}
        for number, entry in enumerate(values["members"]):
            prefix = f"member.{number}."
            inner = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
            kind = resolve("router", parse_spec(entry["spec"])[0])
            self.weights_[entry["spec"]] = entry["weight"]
            self.members_[entry["spec"]] = kind.from_state(inner, entry["values"])
        self._prepare()


class FullStackRouter(StackRouter):
    """The stack over every kind of estimator that needs no index; slower to fit and to serve than `stack`.

    For the leaderboard: it shows what a larger committee would add. It has no guard, whose choice would take five
    more fits. Taking in a new model needs N scored prompts (`add_column`), as for `stack`.
    """

    guarded: ClassVar[bool] = False

    def __init__(
        self,
        members: str = (
            "forest;forest:trees=200,depth=14,seed=1;kernel-ridge;kernel-ridge:landmarks=1000,length=0.2;"
            "ridge;uniroute;logistic;mlp"
        ),
        *,
        folds: int = 5,
        seed: int = 0,
    ) -> None:
        super().__init__(members, folds=folds, seed=seed)


def _make(spec: str) -> BaseRouter:
    name, parameters = parse_spec(spec)
    router: BaseRouter = create("router", name, **parameters)
    return router


def _isotonic_table(predicted: FloatArray, y: FloatArray, weight: FloatArray) -> FloatArray:
    """Return each model's isotonic regression of y on predictions in [0, 1], read off an even grid, (_GRID + 1, m)."""
    from sklearn.isotonic import IsotonicRegression

    grid = np.linspace(0.0, 1.0, _GRID + 1)
    table = np.tile(grid[:, None], (1, y.shape[1]))
    for column in range(y.shape[1]):
        seen: npt.NDArray[np.bool_] = np.isfinite(y[:, column]) & (weight > 0)
        if seen.sum() >= _LEAST_PROMPTS:
            fitted = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip")
            fitted.fit(predicted[seen, column], y[seen, column], sample_weight=weight[seen])
            table[:, column] = fitted.predict(grid)
    return table


def _look_up(table: FloatArray, values: FloatArray) -> FloatArray:
    """Return the table's values, linear between grid points, at `values` (n, m) in [0, 1]."""
    unseen = np.isnan(values)
    some = bool(unseen.any())
    place = (np.where(unseen, 0.0, values) if some else values) * _GRID
    low = np.minimum(place.astype(np.int64), _GRID - 1)
    cell = low * table.shape[1] + np.arange(table.shape[1])
    left = table.take(cell)
    found: FloatArray = left + (place - low) * (table.take(cell + table.shape[1]) - left)
    return np.where(unseen, np.nan, found) if some else found
