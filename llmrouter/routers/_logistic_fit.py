"""Penalised logistic regression of many columns at once, on soft targets with missing cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from llmrouter.routers._axes import PrincipalAxes, observed_weight, sigmoid
from llmrouter.types import FloatArray

_ITERATIONS = 200
_PRIOR_PROMPTS = 1.0
"""Prior prompts with every column's intercept at the pooled mean: keep it finite where all outcomes are alike."""


@dataclass(frozen=True)
class LogisticProblem:
    """A multi-output logistic regression in the principal coordinates of its embeddings.

    The loss is ``sum cells * cross entropy + penalty / 2 * (sum_m |own_m|^2 + |common|^2 / sharing)`` over slopes
    ``own_m + common``, with free intercepts.

    Attributes
    ----------
    axes : PrincipalAxes
    Z : array of shape (n, d)
        Coordinates of the prompts.
    y, cells : arrays of shape (n, m)
        Targets in [0, 1], 0 where not observed; weight of every cell, 0 there.
    prior : float
        Pooled mean of the targets.
    sharing : float
        Prior variance of the common slopes over that of a column's own; 0 for columns that share nothing.
    """

    axes: PrincipalAxes
    Z: FloatArray
    y: FloatArray
    cells: FloatArray
    prior: float
    sharing: float

    @classmethod
    def make(cls, X: FloatArray, y: FloatArray, weight: FloatArray, *, sharing: float = 0.0) -> LogisticProblem:
        """Set up from embeddings X (n, d), targets y (n, m) in [0, 1] with NaN, and weights (n,)."""
        cells = observed_weight(y, weight)
        filled = np.nan_to_num(y)
        prior = float((cells * filled).sum() / max(float(cells.sum()), 1e-12))
        axes = PrincipalAxes.fit(X, weight)
        return cls(axes, axes.coordinates(X), filled, cells, min(max(prior, 0.02), 0.98), sharing)

    @property
    def level(self) -> FloatArray:
        """Logit of each column's mean, with the prior prompts, shape (m,)."""
        total = self.cells.sum(axis=0) + _PRIOR_PROMPTS
        mean = ((self.cells * self.y).sum(axis=0) + self.prior * _PRIOR_PROMPTS) / total
        return np.asarray(np.log(mean / (1.0 - mean)))

    def with_prior_prompt(self) -> LogisticProblem:
        """Return the same with the prior prompts as one more row, at the centre, for losses of another form."""
        models = self.y.shape[1]
        return replace(
            self,
            Z=np.vstack([self.Z, np.zeros(self.Z.shape[1])]),
            y=np.vstack([self.y, np.full(models, self.prior)]),
            cells=np.vstack([self.cells, np.full(models, _PRIOR_PROMPTS)]),
        )

    def predictions(self, theta: FloatArray) -> FloatArray:
        """Return the probabilities, shape (n, m), of parameters theta (d + 1, m), intercepts last."""
        return sigmoid(self.Z @ theta[:-1] + theta[-1])

    def log_loss(self, theta: FloatArray) -> tuple[float, FloatArray]:
        """Return the loss without the penalty, and its gradient (d + 1, m)."""
        logit = self.Z @ theta[:-1] + theta[-1]
        error = self.cells * (sigmoid(logit) - self.y)
        gradient = np.empty_like(theta)
        gradient[:-1] = self.Z.T @ error
        gradient[-1] = error.sum(axis=0) + _PRIOR_PROMPTS * (sigmoid(theta[-1]) - self.prior)
        value = float((self.cells * (np.logaddexp(0.0, logit) - self.y * logit)).sum())
        value += _PRIOR_PROMPTS * float((np.logaddexp(0.0, theta[-1]) - self.prior * theta[-1]).sum())
        return value, gradient


def minimise(
    problem: LogisticProblem, penalty: float, *, start: FloatArray | None = None, tolerance: float = 1e-12
) -> FloatArray:
    """Return the parameters (d + 1, m), intercepts last, of least loss.

    L-BFGS in coordinates scaled by an approximate Hessian, in which a dozen steps suffice. `start` (d + 1, m)
    is where to begin, else with no slopes; `tolerance` is the relative gain of a step below which to stop.
    """
    from scipy.optimize import minimize

    models = problem.y.shape[1]
    scale, strength = _scales(problem, penalty)
    first = np.zeros_like(scale)
    first[-1, :models] = problem.level
    if start is not None:
        first[:, :models] = start
    first /= scale

    def loss(flat: FloatArray) -> tuple[float, FloatArray]:
        blocks = flat.reshape(scale.shape) * scale
        value, gradient = problem.log_loss(_summed(blocks, models))
        if problem.sharing:
            gradient = np.column_stack([gradient, np.append(gradient[:-1].sum(axis=1), 0.0)])
        value += 0.5 * float((strength * blocks[:-1] ** 2).sum())
        gradient[:-1] += strength * blocks[:-1]
        return value, (gradient * scale).ravel()

    options = {"maxiter": _ITERATIONS, "gtol": 1e-7 * problem.axes.total, "ftol": tolerance}
    found = minimize(loss, first.ravel(), jac=True, method="L-BFGS-B", options=options)
    return _summed(found.x.reshape(scale.shape) * scale, models)


def _summed(blocks: FloatArray, models: int) -> FloatArray:
    """Return each column's parameters: its own block plus the common one, where there is one."""
    return np.asarray(blocks[:, :models] + blocks[:, models:].sum(axis=1, keepdims=True))


def _scales(problem: LogisticProblem, penalty: float) -> tuple[FloatArray, FloatArray]:
    """Return the inverse roots of the approximate Hessian's diagonal, (d + 1, blocks), and each block's penalty."""
    curvature, strength = _curvature(problem), np.full(problem.y.shape[1], penalty)
    level = curvature * problem.axes.total + 0.25
    if problem.sharing:
        curvature, level = np.append(curvature, curvature.sum()), np.append(level, 1.0)
        strength = np.append(strength, penalty / problem.sharing)
    hessian = np.vstack([np.outer(problem.axes.values, curvature) + strength, level])
    return np.asarray(1.0 / np.sqrt(hessian)), strength


def _curvature(problem: LogisticProblem) -> FloatArray:
    """Return each column's curvature a prompt at its level, times the share of prompts it was observed on."""
    mean = sigmoid(problem.level)
    return np.asarray(mean * (1.0 - mean) * problem.cells.sum(axis=0) / problem.axes.total)


def choose_penalty(problem: LogisticProblem, penalties: Sequence[float]) -> tuple[float, FloatArray]:
    """Return the penalty of the least `criterion` over all columns together, and the parameters fitted with it.

    One penalty for all: a column observed on few prompts would choose its own badly.
    """
    start: FloatArray | None = None
    best: tuple[float, float, FloatArray] | None = None
    for penalty in sorted(penalties, reverse=True):
        start = minimise(problem, penalty, start=start, tolerance=1e-6)
        score = criterion(problem, start, penalty)
        if best is None or score < best[0]:
            best = (score, penalty, start)
        elif score > best[0] + 0.01 * problem.cells.sum():
            break  # weaker penalties overfit more and take longer
    if best is None:
        raise ValueError("no penalty to choose from")
    return best[1], minimise(problem, best[1], start=best[2])


def criterion(problem: LogisticProblem, theta: FloatArray, penalty: float) -> float:
    """Return how much loss to expect on new prompts; less is better.

    Takeuchi's information criterion: the log loss plus the degrees of freedom times the dispersion (residual over
    binomial variance; soft targets have less than 1), the Hessian taken as diagonal along the principal axes,
    and the residuals of n prompts as having lost the degrees of freedom.
    """
    predicted = problem.predictions(theta)
    logit = problem.Z @ theta[:-1] + theta[-1]
    value = (problem.cells * (np.logaddexp(0.0, logit) - problem.y * logit)).sum(axis=0)
    binomial = np.maximum((problem.cells * predicted * (1.0 - predicted)).sum(axis=0), 1e-9)
    dispersion = (problem.cells * (problem.y - predicted) ** 2).sum(axis=0) / binomial
    curvature = np.outer(problem.axes.values, binomial / problem.axes.total)
    inverse = 1.0 / (curvature + penalty)  # of the Hessian, whose columns the common slopes couple by one rank
    if problem.sharing:
        coupling = penalty / (1.0 / problem.sharing + curvature.shape[1])
        inverse += coupling * inverse**2 / (1.0 - coupling * inverse.sum(axis=1, keepdims=True))
    freedom = 1.0 + (curvature * inverse).sum(axis=0)
    total = problem.cells.sum(axis=0)
    correction = total / np.maximum(total - freedom, 0.1 * total + 1e-12)
    return float((value + freedom * dispersion * correction).sum())
