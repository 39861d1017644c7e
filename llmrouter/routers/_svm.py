"""Linear support vector machines with calibrated outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from llmrouter.exceptions import ConfigError
from llmrouter.index import VectorIndex
from llmrouter.routers._axes import LinearVariance, PrincipalAxes, are_qualities, observed_weight, sigmoid
from llmrouter.routers._base import BaseRouter, Learned
from llmrouter.types import FloatArray

_FOLDS = 3
_EPSILON = 0.1
_INTERCEPT_SCALING = 10.0


class SVMRouter(BaseRouter):
    """One linear support vector machine a model, its margins calibrated to expectations.

    RouterBench (arXiv 2403.12031) lists SVMs, fitted one a model with margin losses, among its predictive routers.
    Qualities: scikit-learn's `LinearSVC` with squared hinge loss; a soft target y stands as a success of weight y and
    a failure of weight 1 - y. Margins f become ``sigmoid(a f + b)`` (Platt 1999), with a and b fitted on margins of
    prompts held out in turn (3 folds), as in-sample margins are too large. Other outcomes: `LinearSVR` with the
    squared insensitive loss on standardised columns, calibrated by a line; cost is better left to `ridge`.

    With ``features`` > 0 the embedding is first mapped to so many random Fourier features of the Gaussian kernel
    ``exp(-gamma |x - y|^2)`` (Rahimi and Recht 2007), which makes the machine an approximate kernel machine.

    The standard error takes the penalised loss for a log posterior: Laplace's variance of the margin, scaled by the
    dispersion of the loss's slopes, carried through the calibration. Taking in a new model needs N scored prompts
    (`add_column`).

    Parameters
    ----------
    C : float
        Weight of the losses over the penalty ``|slopes|^2 / 2``.
    features : int
        Random Fourier features; 0 is linear in the embedding.
    gamma : float
        Inverse squared width of their kernel.
    seed : int
        Of the random features and the folds.

    Attributes
    ----------
    coef_, intercept_ : arrays of shape (d or features, m) and (m,)
        Of the margins.
    slope_, offset_ : arrays of shape (m,)
        The calibration a and b; in the outcome's unit where outcomes are not qualities.
    """

    cost_router: ClassVar[str | None] = "ridge"
    grid: ClassVar[tuple[Mapping[str, Any], ...]] = ({"C": 0.01}, {"C": 0.03}, {"C": 0.1})

    def __init__(self, C: float = 0.03, *, features: int = 0, gamma: float = 1.0, seed: int = 0) -> None:
        self.C = C
        self.features = features
        self.gamma = gamma
        self.seed = seed

    def _check_parameters(self) -> None:
        for name in ("C", "gamma"):
            if not 0 < getattr(self, name) < np.inf:
                raise ConfigError(f"{name} must be a finite number > 0; got {getattr(self, name)!r}")
        if not isinstance(self.features, int | np.integer) or self.features < 0:
            raise ConfigError(f"features must be a whole number >= 0; got {self.features!r}")

    def _learn(self, X: FloatArray, y: FloatArray, weight: FloatArray) -> None:
        self._check_parameters()
        self.quality_ = are_qualities(y, self.upper_)
        generator = np.random.default_rng(self.seed)
        self.frequencies_ = generator.normal(scale=np.sqrt(2.0 * self.gamma), size=(X.shape[1], self.features))
        self.phases_ = generator.uniform(0.0, 2.0 * np.pi, size=self.features)
        folds = generator.permutation(len(X)) % _FOLDS
        mapped = self._mapped(X)
        axes = PrincipalAxes.fit(mapped, weight)
        cells, models = observed_weight(y, weight), y.shape[1]
        self.coef_ = np.full((mapped.shape[1], models), np.nan)
        self.intercept_, self.slope_, self.offset_ = (np.full(models, np.nan) for _ in range(3))
        curvature, noise, level = np.zeros_like(y), np.ones(models), np.full(models, np.nan)
        centred = mapped - axes.centre
        for column in np.flatnonzero(cells.sum(axis=0) > 0):
            rows = np.flatnonzero(cells[:, column])
            machine = _Machine(centred[rows], y[rows, column], weight[rows], C=self.C, quality=self.quality_)
            coef, intercept = machine.fit(np.ones(len(rows), dtype=bool))
            held_out = machine.held_out(folds[rows])
            self.slope_[column], self.offset_[column], level[column] = machine.calibrate(held_out)
            self.coef_[:, column], self.intercept_[column] = coef, intercept - axes.centre @ coef
            curvature[rows, column], noise[column] = machine.curvature(centred[rows] @ coef + intercept)
        variance = LinearVariance.fit(
            axes, axes.coordinates(mapped), curvature=curvature, penalty=np.full(models, 1.0 / self.C)
        )
        # The intercept's uncertainty is the calibration's, which is added where the margin has become an expectation.
        self.variance_ = LinearVariance(variance.centre, variance.directions, variance.table * noise, 0.0 * noise)
        self.level_ = level

    def _mapped(self, X: FloatArray) -> FloatArray:
        if not self.features:
            return X.astype(np.float64)
        waves = np.cos(X.astype(np.float64) @ self.frequencies_ + self.phases_)
        return np.asarray(np.sqrt(2.0 / self.features) * waves)

    def _estimate(self, X: FloatArray) -> tuple[FloatArray, FloatArray]:
        mapped = self._mapped(X)
        value = self.slope_ * (mapped @ self.coef_ + self.intercept_) + self.offset_
        variance = self.slope_**2 * self.variance_.at(mapped) + self.level_
        if not self.quality_:
            return np.clip(value, self.lower_, self.upper_), np.sqrt(variance)
        mean = sigmoid(value)
        return mean, np.maximum(mean * (1.0 - mean), 1e-4) * np.sqrt(variance)

    def _learned(self) -> Learned:
        names = ("coef", "intercept", "slope", "offset", "level", "frequencies", "phases")
        return {name: getattr(self, f"{name}_") for name in names} | self.variance_.arrays(), {"quality": self.quality_}

    def _restore(self, arrays: Mapping[str, FloatArray], values: Mapping[str, Any], index: VectorIndex | None) -> None:
        del index
        self.quality_ = values["quality"]
        for name in ("coef", "intercept", "slope", "offset", "level", "frequencies", "phases"):
            setattr(self, f"{name}_", arrays[name])
        self.variance_ = LinearVariance.from_arrays(arrays)


class _Machine:
    """A support vector machine for one column's observed prompts."""

    def __init__(self, X: FloatArray, y: FloatArray, weight: FloatArray, *, C: float, quality: bool) -> None:
        self.X, self.y, self.weight, self.C, self.quality = X, y, weight, C, quality
        self.mean = float(np.average(y, weights=weight))
        spread = float(np.sqrt(np.average((y - self.mean) ** 2, weights=weight)))
        self.spread = spread if spread > 0 else 1.0

    def fit(self, rows: np.ndarray[Any, np.dtype[np.bool_]]) -> tuple[FloatArray, float]:
        """Return slopes (d,) and intercept of the machine fitted on `rows` (n,) of the prompts."""
        from sklearn.svm import LinearSVC, LinearSVR

        X, y, weight = self.X[rows], self.y[rows], self.weight[rows]
        common = {"C": self.C, "dual": False, "intercept_scaling": _INTERCEPT_SCALING, "max_iter": 2000, "tol": 1e-3}
        if not self.quality:
            target = (y - self.mean) / self.spread
            machine = LinearSVR(loss="squared_epsilon_insensitive", epsilon=_EPSILON, **common)
            machine.fit(X, target, sample_weight=weight)
            return machine.coef_.ravel(), float(np.ravel(machine.intercept_)[0])
        right, wrong = y > 0, y < 1
        if not right.any() or not wrong.any():
            return np.zeros(X.shape[1]), 0.0
        labels = np.repeat([1, 0], [right.sum(), wrong.sum()])
        shares = np.concatenate([(weight * y)[right], (weight * (1.0 - y))[wrong]])
        machine = LinearSVC(**common).fit(np.vstack([X[right], X[wrong]]), labels, sample_weight=shares)
        return machine.coef_.ravel(), float(machine.intercept_[0])

    def held_out(self, folds: np.ndarray[Any, np.dtype[np.int64]]) -> FloatArray:
        """Return the margins (n,) of machines that did not see the prompt."""
        margins = np.zeros(len(self.y))
        for fold in np.unique(folds):
            rest = folds != fold
            if rest.any():
                coef, intercept = self.fit(rest)
                margins[~rest] = self.X[~rest] @ coef + intercept
        return margins

    def calibrate(self, margins: FloatArray) -> tuple[float, float, float]:
        """Return the calibration's slope >= 0, its offset, and the variance of its level.

        Two prior prompts keep all finite: one prior prompt at the column's mean, and a slope drawn towards 0.
        """
        total = float(self.weight.sum())
        if not self.quality:
            centre = float(np.average(margins, weights=self.weight))
            across = self.weight @ (margins - centre) ** 2
            slope = max(float(self.weight @ ((margins - centre) * self.y) / (across + 1e-9)), 0.0)
            return slope, self.mean - slope * centre, self.spread**2 / total
        design = np.column_stack([margins, np.ones(len(margins))])
        prior = (self.mean * total + 0.5) / (total + 1.0)
        theta = np.array([0.0, np.log(prior / (1.0 - prior))])
        for _ in range(25):
            mean = sigmoid(design @ theta)
            error = design.T @ (self.weight * (mean - self.y)) + [1e-2 * theta[0], sigmoid(theta[1]) - prior]
            bend = self.weight * mean * (1.0 - mean)
            hessian = (design * bend[:, None]).T @ design + np.diag([1e-2, prior * (1.0 - prior)])
            theta = np.asarray(theta - np.clip(np.linalg.solve(hessian, error), -4.0, 4.0))
        if theta[0] < 0:  # margins that order prompts the wrong way say nothing
            return 0.0, float(np.log(prior / (1.0 - prior))), 1.0 / ((total + 1.0) * prior * (1.0 - prior))
        return float(theta[0]), float(theta[1]), 1.0 / float(bend.sum() + prior * (1.0 - prior))

    def curvature(self, margins: FloatArray) -> tuple[FloatArray, float]:
        """Return the loss's curvature at each prompt (n,), and the dispersion of its slopes, at in-sample margins."""
        if self.quality:
            short = np.maximum(1.0 - margins, 0.0), np.maximum(1.0 + margins, 0.0)
            bend: FloatArray = 2.0 * (self.y * (short[0] > 0) + (1.0 - self.y) * (short[1] > 0))
            squares: FloatArray = 4.0 * (self.y * short[0] ** 2 + (1.0 - self.y) * short[1] ** 2)
        else:
            miss = np.maximum(np.abs(margins - (self.y - self.mean) / self.spread) - _EPSILON, 0.0)
            bend, squares = 2.0 * (miss > 0), 4.0 * miss**2
        bends: FloatArray = self.weight * bend
        return bends, float((self.weight @ squares + 1e-3) / max(float(bends.sum()), 1e-12))
