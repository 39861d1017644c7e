"""Linear routers: ridge regression and multi-output logistic regression."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from llmrouter.exceptions import ConfigError
from llmrouter.index import VectorIndex
from llmrouter.routers._axes import (
    LinearVariance,
    PrincipalAxes,
    are_qualities,
    extremes,
    observed_weight,
    patterns,
    sigmoid,
    to_unit_interval,
)
from llmrouter.routers._base import BaseRouter, Learned
from llmrouter.routers._logistic_fit import LogisticProblem, choose_penalty, minimise
from llmrouter.types import FloatArray

PENALTIES: tuple[float, ...] = tuple(float(value) for value in np.logspace(-1.0, 4.0, 26))
LOGISTIC_PENALTIES: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0)


def check_penalty(penalty: float | None) -> None:
    """Refuse what is neither None nor a number > 0."""
    if penalty is None:
        return
    number = isinstance(penalty, int | float | np.integer | np.floating) and not isinstance(penalty, bool)
    if not number or not 0 < penalty < np.inf:
        raise ConfigError(f"penalty must be a finite number > 0, or None to choose it; got {penalty!r}")


class LinearRouter(BaseRouter):
    """What linear routers share: one intercept and d slopes a model, and the variance of the fitted function.

    Attributes
    ----------
    coef_ : array of shape (d, m)
        Slopes; NaN for a model that was never observed.
    intercept_ : array of shape (m,)
    penalty_ : array of shape (m,)
        The penalty used, in the unit of the parameter `penalty`.
    variance_ : LinearVariance
    """

    coef_: FloatArray
    intercept_: FloatArray
    penalty_: FloatArray
    variance_: LinearVariance

    def _values(self, X: FloatArray) -> FloatArray:
        """Return the linear functions, shape (n, m), of embeddings X (n, d)."""
        return np.asarray(X.astype(np.float64) @ self.coef_ + self.intercept_)

    def _learned(self) -> Learned:
        arrays = {"coef": self.coef_, "intercept": self.intercept_, "penalty": self.penalty_}
        return arrays | self.variance_.arrays(), {}

    def _restore(self, arrays: Mapping[str, FloatArray], values: Mapping[str, Any], index: VectorIndex | None) -> None:
        del values, index
        self.coef_, self.intercept_, self.penalty_ = arrays["coef"], arrays["intercept"], arrays["penalty"]
        self.variance_ = LinearVariance.from_arrays(arrays)


class RidgeRouter(LinearRouter):
    """Least squares with an L2 penalty, in closed form.

    One eigendecomposition of the centred Gram matrix serves all columns observed on the same prompts and all
    penalties (columns with other missing prompts have their own: nothing is filled in)::

        slopes = V (L + a I)^-1 V' X'y,    a = penalty * mean squared length of the centred embeddings

    The penalty, one for all columns, is chosen by generalised cross-validation (Golub, Heath and Wahba 1979):
    the smallest ``rss / (1 - degrees of freedom / n)^2``, which treats a weight of 2 as two prompts. Linear
    estimators of quality and cost are the baseline of CARROT (arXiv 2502.03261) and of arXiv 2505.12601. The solution
    scales with its column, so tokens and dollars need no standardising; their predictions are kept at or above the
    smallest amount observed, since a long extrapolation below it would make a model look free.

    The standard error is that of the Bayesian posterior with a Gaussian prior on the slopes (see `LinearVariance`),
    the noise variance estimated from the residuals with one prior prompt. Taking in a new model needs N scored
    prompts (`add_column`).

    Parameters
    ----------
    penalty : float, optional
        In prompts: the prior weighs as much as this many; None chooses it.
    """

    def __init__(self, penalty: float | None = None) -> None:
        self.penalty = penalty

    def _learn(self, X: FloatArray, y: FloatArray, weight: FloatArray) -> None:
        check_penalty(self.penalty)
        models = y.shape[1]
        cells = observed_weight(y, weight)
        quality = are_qualities(y, self.upper_)
        groups = [
            (columns, _Group.fit(X[rows], y[np.ix_(rows, columns)], weight[rows]))
            for rows, columns in patterns(cells > 0)
        ]
        penalty = _common_penalty([group for _, group in groups]) if self.penalty is None else float(self.penalty)
        self.coef_ = np.full((X.shape[1], models), np.nan)
        self.intercept_, noise = np.full(models, np.nan), np.full(models, np.nan)
        for columns, group in groups:
            self.coef_[:, columns], self.intercept_[columns], noise[columns] = group.solve(penalty, quality=quality)
        self.penalty_ = np.full(models, penalty)
        axes = PrincipalAxes.fit(X, weight)
        variance = LinearVariance.fit(
            axes, axes.coordinates(X), curvature=cells, penalty=np.full(models, penalty * axes.unit)
        )
        self.variance_ = variance.scaled(noise)
        amounts = self.lower_ == 0.0 and not quality
        self.least_ = extremes(y)[0] if amounts else np.full(models, self.lower_)

    def _estimate(self, X: FloatArray) -> tuple[FloatArray, FloatArray]:
        mean = np.minimum(np.maximum(self._values(X), self.least_), self.upper_)
        return mean, np.sqrt(self.variance_.at(X))

    def _learned(self) -> Learned:
        arrays, values = super()._learned()
        return arrays | {"least": self.least_}, values

    def _restore(self, arrays: Mapping[str, FloatArray], values: Mapping[str, Any], index: VectorIndex | None) -> None:
        super()._restore(arrays, values, index)
        self.least_ = arrays["least"]


@dataclass(frozen=True)
class _Group:
    """Columns observed on the same prompts, reduced to what ridge regression of any penalty needs.

    Attributes
    ----------
    axes : PrincipalAxes
        Of their prompts.
    level : array of shape (m,)
        Weighted means of the columns.
    aligned : array of shape (d, m)
        Products of the centred columns with the coordinates of the prompts.
    squares : array of shape (m,)
        Weighted sums of squares of the centred columns.
    """

    axes: PrincipalAxes
    level: FloatArray
    aligned: FloatArray
    squares: FloatArray

    @classmethod
    def fit(cls, X: FloatArray, y: FloatArray, weight: FloatArray) -> _Group:
        """Reduce embeddings X (n, d) and complete columns y (n, m) under weights (n,)."""
        axes = PrincipalAxes.fit(X, weight)
        level = weight @ y / axes.total
        centred = y - level
        aligned = axes.directions.T @ ((X.astype(np.float64) - axes.centre).T @ (weight[:, None] * centred))
        return cls(axes, level, aligned, weight @ centred**2)

    def residual(self, penalty: float) -> tuple[FloatArray, float]:
        """Return the residual sums of squares (m,) and the degrees of freedom, the intercept's included."""
        strength = self.axes.values + penalty * self.axes.unit
        explained = ((2.0 * strength - self.axes.values) / strength**2) @ self.aligned**2
        return np.maximum(self.squares - explained, 0.0), 1.0 + float((self.axes.values / strength).sum())

    def solve(self, penalty: float, *, quality: bool) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return slopes (d, m), intercepts (m,) and noise variances (m,)."""
        strength = self.axes.values + penalty * self.axes.unit
        coef = self.axes.directions @ (self.aligned / strength[:, None])
        residual, freedom = self.residual(penalty)
        prior = 0.1 if quality else 0.1 * np.maximum(self.level**2, 1e-12)
        noise = (residual + prior) / (max(self.axes.total - freedom, 0.1 * self.axes.total) + 1.0)
        return coef, self.level - self.axes.centre @ coef, noise


def _common_penalty(groups: Sequence[_Group]) -> float:
    """Return the penalty of least generalised cross-validation score over all columns together.

    Columns of different units are compared by the logarithm of their score, each counted by its prompts: a column
    observed on few prompts would choose its own penalty badly.
    """
    scores = []
    for penalty in PENALTIES:
        score = 0.0
        for group in groups:
            residual, freedom = group.residual(penalty)
            # Beyond nine tenths of the prompts the score would divide two small numbers.
            left = 1.0 - freedom / group.axes.total if freedom < 0.9 * group.axes.total else 1e-3
            kept = np.maximum(residual, 1e-12 * np.maximum(group.squares, 1e-300))
            score += group.axes.total * float((np.log(kept) - 2.0 * np.log(left)).sum())
        scores.append(score)
    return PENALTIES[int(np.argmin(scores))]


class LogisticRouter(LinearRouter):
    """Multi-output logistic regression on soft targets, all models at once.

    Minimises cross entropy over the observed cells with an L2 penalty on the slopes::

        P(model m is right on x) = sigmoid(intercept_m + (own_m + common) . x)
        penalty / 2 * (sum_m |own_m|^2 + |common|^2 / sharing)

    With ``sharing`` 0 the columns are separate logistic regressions of ``C = 1 / penalty``, the linear baseline of
    routing papers (arXiv 2505.12601, 2502.03261). Above 0 what makes a prompt hard for all is learned from all: it
    matters where each prompt was seen by one model only, and shrinks the differences between models more than their
    common level, which is what choosing among them needs. Intercepts are not penalised (but for one prior prompt at the
    pooled mean).

    The standard error is Laplace's: that of the logit under the Gaussian around the optimum (see `LinearVariance`;
    columns taken one by one), times the slope of the sigmoid. Outcomes that are not qualities are measured on their
    column's observed range; cost is better left to `ridge`. Taking in a new model needs N scored prompts
    (`add_column`).

    Parameters
    ----------
    penalty : float, optional
        On embeddings of unit length 1 to 30 is usual; None chooses one value for all columns by Takeuchi's
        information criterion on the training prompts.
    sharing : float
        Prior variance of the common slopes over that of a model's own.
    """

    cost_router: ClassVar[str | None] = "ridge"
    grid: ClassVar[tuple[Mapping[str, Any], ...]] = ({"penalty": None}, {"penalty": 5.0}, {"penalty": 10.0})

    def __init__(self, penalty: float | None = None, *, sharing: float = 1.0) -> None:
        self.penalty = penalty
        self.sharing = sharing

    def _learn(self, X: FloatArray, y: FloatArray, weight: FloatArray) -> None:
        check_penalty(self.penalty)
        if not 0 <= self.sharing < np.inf:
            raise ConfigError(f"sharing must be a finite number >= 0; got {self.sharing!r}")
        target, self.offset_, self.unit_ = to_unit_interval(y, quality=are_qualities(y, self.upper_))
        problem = LogisticProblem.make(X, target, weight, sharing=float(self.sharing))
        if self.penalty is None:
            penalty, theta = choose_penalty(problem, LOGISTIC_PENALTIES)
        else:
            penalty, theta = float(self.penalty), minimise(problem, float(self.penalty))
        never = problem.cells.sum(axis=0) == 0
        self.penalty_ = np.full(y.shape[1], penalty)
        self.coef_ = np.where(never, np.nan, problem.axes.directions @ theta[:-1])
        self.intercept_ = theta[-1] - problem.axes.centre @ self.coef_
        predicted = problem.predictions(theta)
        curvature = problem.cells * predicted * (1.0 - predicted)
        self.variance_ = LinearVariance.fit(problem.axes, problem.Z, curvature=curvature, penalty=self.penalty_)

    def _estimate(self, X: FloatArray) -> tuple[FloatArray, FloatArray]:
        mean = sigmoid(self._values(X))
        slope = np.maximum(mean * (1.0 - mean), 1e-4)
        return self.offset_ + self.unit_ * mean, self.unit_ * slope * np.sqrt(self.variance_.at(X))

    def _learned(self) -> Learned:
        arrays, values = super()._learned()
        return arrays | {"offset": self.offset_, "unit": self.unit_}, values

    def _restore(self, arrays: Mapping[str, FloatArray], values: Mapping[str, Any], index: VectorIndex | None) -> None:
        super()._restore(arrays, values, index)
        self.offset_, self.unit_ = arrays["offset"], arrays["unit"]
