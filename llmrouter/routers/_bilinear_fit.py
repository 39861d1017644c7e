"""Low-rank bilinear logistic regression, the fit of matrix factorisation and of item response theory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmrouter.routers._logistic_fit import LogisticProblem, minimise
from llmrouter.types import FloatArray

_CURVATURE = 0.15
"""A usual p (1 - p), for the scale of the coordinates only."""


@dataclass(frozen=True)
class Bilinear:
    """``logit = level_m + z . prompt + (z W + constant) . v_m`` in principal coordinates z.

    Attributes
    ----------
    levels : array of shape (m,) or (1,)
        Of each model, or one for all where the constant and the vectors tell models apart.
    prompt : array of shape (d,)
        Slopes that all models share; 0 where the form has none.
    maps : array of shape (d, r)
    vectors : array of shape (m, r)
    constant : array of shape (r,)
        0 where each model has a level of its own.
    """

    levels: FloatArray
    prompt: FloatArray
    maps: FloatArray
    vectors: FloatArray
    constant: FloatArray

    @property
    def parts(self) -> tuple[FloatArray, ...]:
        """The arrays in the order of the constructor."""
        return self.levels, self.prompt, self.maps, self.vectors, self.constant

    @property
    def theta(self) -> FloatArray:
        """The logistic parameters (d + 1, m) that this amounts to, intercepts last."""
        slopes = self.maps @ self.vectors.T + self.prompt[:, None]
        return np.vstack([slopes, self.levels + self.vectors @ self.constant])

    def gradient(self, slope: FloatArray) -> tuple[FloatArray, ...]:
        """Return the gradient by each part from that by theta (d + 1, m)."""
        by_levels = slope[-1] if len(self.levels) > 1 else slope[-1].sum(keepdims=True)
        by_vectors = slope[:-1].T @ self.maps + np.outer(slope[-1], self.constant)
        return by_levels, slope[:-1].sum(axis=1), slope[:-1] @ self.vectors, by_vectors, slope[-1] @ self.vectors


def fit_bilinear(problem: LogisticProblem, rank: int, *, penalty: float, item_response: bool) -> Bilinear:
    """Fit by L-BFGS, from the singular vectors of a logistic regression.

    Parameters
    ----------
    problem : LogisticProblem
    rank : int
        Length r of the vectors; cut to the number of models and dimensions.
    penalty : float
        ``penalty / 2 * (|W|^2 + |V|^2 + |prompt|^2)``.
    item_response : bool
        True: a prompt term, one level, and a constant. False: a level for each model and neither of the others.
    """
    from scipy.optimize import minimize

    first = _start(problem, rank, penalty=penalty, item_response=item_response)
    # The longest axes carry the most curvature: slopes are optimised in coordinates where all have about the same.
    scale = 1.0 / np.sqrt(_CURVATURE * problem.axes.values + penalty)
    scales = (np.ones(1), scale, scale[:, None], np.ones(1), np.ones(1))
    free = (True, item_response, True, True, item_response)
    ends = np.cumsum([part.size for part in first.parts])[:-1]

    def unpack(flat: FloatArray) -> Bilinear:
        pieces = zip(np.split(flat, ends), first.parts, scales, strict=True)
        return Bilinear(*(piece.reshape(like.shape) * unit for piece, like, unit in pieces))

    def loss(flat: FloatArray) -> tuple[float, FloatArray]:
        model = unpack(flat)
        value, slope = problem.log_loss(model.theta)
        penalised = (False, True, True, True, False)
        gradient = []
        pieces = zip(model.parts, model.gradient(slope), scales, free, penalised, strict=True)
        for part, by_part, unit, moves, costs in pieces:
            value += 0.5 * penalty * costs * float((part**2).sum())
            gradient.append((moves * unit * (by_part + costs * penalty * part)).ravel())
        return value, np.concatenate(gradient)

    flat = np.concatenate([(part / unit).ravel() for part, unit in zip(first.parts, scales, strict=True)])
    options = {"maxiter": 80, "ftol": 1e-8, "gtol": 1e-6 * problem.axes.total}
    return unpack(minimize(loss, flat, jac=True, method="L-BFGS-B", options=options).x)


def _start(problem: LogisticProblem, rank: int, *, penalty: float, item_response: bool) -> Bilinear:
    theta = minimise(problem, penalty, tolerance=1e-5)
    dimension, models = problem.Z.shape[1], problem.y.shape[1]
    rank = min(rank, dimension, models)
    shared = theta.mean(axis=1) if item_response else np.zeros(dimension + 1)
    rows = dimension + 1 if item_response else dimension
    left, singular, right = np.linalg.svd((theta - shared[:, None])[:rows], full_matrices=False)
    root = np.sqrt(singular[:rank]) + 1e-3
    maps, vectors = left[:, :rank] * root, right[:rank].T * root
    constant = maps[dimension] if item_response else np.zeros(rank)
    levels = shared[-1:] if item_response else theta[-1]
    return Bilinear(levels, shared[:-1], maps[:dimension], vectors, constant)
