"""What linear models over embeddings share: principal axes, scales of outcomes, the variance of a fitted function."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from llmrouter.types import FloatArray

BoolArray = npt.NDArray[np.bool_]

MOST_AXES = 64
"""Axes whose posterior is worked out one by one; the rest, small in embeddings, share one mean value."""


@dataclass(frozen=True)
class PrincipalAxes:
    """Weighted principal axes of n embeddings.

    Attributes
    ----------
    centre : array of shape (d,)
        Weighted mean.
    directions : array of shape (d, d)
        Orthonormal columns, the axis of largest variance first.
    values : array of shape (d,)
        Weighted sums of squares along them, largest first.
    total : float
        Sum of the weights.
    """

    centre: FloatArray
    directions: FloatArray
    values: FloatArray
    total: float

    @classmethod
    def fit(cls, X: FloatArray, weight: FloatArray) -> Self:
        """Decompose embeddings X (n, d) under weights (n,)."""
        X = np.asarray(X, dtype=np.float64)
        total = max(float(weight.sum()), 1e-12)
        centre = weight @ X / total
        scaled = (X - centre) * np.sqrt(weight)[:, None]
        values, directions = np.linalg.eigh(scaled.T @ scaled)
        return cls(centre, directions[:, ::-1].copy(), np.maximum(values[::-1], 0.0), total)

    @property
    def unit(self) -> float:
        """Mean squared length of the centred embeddings; 1 where they are all the same."""
        length = float(self.values.sum()) / self.total
        return length if length > 1e-12 else 1.0

    def coordinates(self, X: FloatArray) -> FloatArray:
        """Return the float64 coordinates, shape (n, d), of embeddings X (n, d)."""
        return np.asarray((np.asarray(X, dtype=np.float64) - self.centre) @ self.directions)


@dataclass(frozen=True)
class LinearVariance:
    """Posterior variance of m linear functions of the embedding, each with an intercept.

    With curvature ``c_i`` of the loss at prompt i and penalty ``a``, the posterior of the slopes is Gaussian with
    covariance ``(sum_i c_i z_i z_i' + a I)^-1`` over centred embeddings z (exact for ridge, Laplace's approximation
    for logistic loss). Kept of it is the diagonal along the principal axes of the training embeddings, where it is
    close to diagonal; axes beyond `MOST_AXES` share one value, their mean weighted by what embeddings have along them.

    Attributes
    ----------
    centre : array of shape (d,)
    directions : array of shape (d, r)
    table : array of shape (r + 1, m)
        Posterior variance along each axis, and along the rest.
    level : array of shape (m,)
        Posterior variance of the intercept.
    """

    centre: FloatArray
    directions: FloatArray
    table: FloatArray
    level: FloatArray

    @classmethod
    def fit(cls, axes: PrincipalAxes, Z: FloatArray, *, curvature: FloatArray, penalty: FloatArray) -> Self:
        """Work out the posterior.

        Parameters
        ----------
        axes : PrincipalAxes
            Of the training embeddings.
        Z : array of shape (n, d)
            Their coordinates.
        curvature : array of shape (n, m)
            Second derivative of each prompt's loss by the function's value; 0 where not observed.
        penalty : array of shape (m,)
            Second derivative of the penalty by each slope, > 0.
        """
        kept = min(MOST_AXES, Z.shape[1])
        top, rest = Z[:, :kept], Z[:, kept:] ** 2
        table = np.empty((kept + 1, curvature.shape[1]))
        for column, strength in enumerate(penalty):
            precision = (top * curvature[:, column, None]).T @ top
            precision[np.diag_indices(kept)] += strength
            table[:-1, column] = np.diag(np.linalg.inv(precision))
        energy = rest.sum(axis=0)
        variance = energy @ (1.0 / (rest.T @ curvature + penalty))
        table[-1] = variance / max(float(energy.sum()), 1e-12)
        level = 1.0 / np.maximum(curvature.sum(axis=0), 1e-12)
        return cls(axes.centre, axes.directions[:, :kept].copy(), table, level)

    def at(self, X: FloatArray) -> FloatArray:
        """Return the variance of each function at embeddings X (n, d), shape (n, m)."""
        centred = np.asarray(X, dtype=np.float64) - self.centre
        squares = np.empty((len(centred), len(self.table)))
        squares[:, :-1] = (centred @ self.directions) ** 2
        squares[:, -1] = np.maximum((centred**2).sum(axis=1) - squares[:, :-1].sum(axis=1), 0.0)
        return np.asarray(squares @ self.table + self.level)

    def scaled(self, factor: FloatArray) -> Self:
        """Return the same with every column's variance multiplied by `factor` (m,)."""
        return type(self)(self.centre, self.directions, self.table * factor, self.level * factor)

    def arrays(self, prefix: str = "variance.") -> dict[str, FloatArray]:
        """Return the arrays of a state."""
        names = ("centre", "directions", "table", "level")
        return {prefix + name: getattr(self, name) for name in names}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, FloatArray], prefix: str = "variance.") -> Self:
        """Rebuild from `arrays()`."""
        return cls(*(arrays[prefix + name] for name in ("centre", "directions", "table", "level")))


def observed_weight(y: FloatArray, weight: FloatArray) -> FloatArray:
    """Return the weight of every cell of y (n, m): that of its prompt, 0 where not observed."""
    return np.where(np.isfinite(y), weight[:, None], 0.0)


def patterns(used: BoolArray) -> Iterator[tuple[BoolArray, npt.NDArray[np.int64]]]:
    """Yield (rows, columns) of each set of columns of `used` (n, m) that have the same rows; empty columns never."""
    distinct, which = np.unique(used, axis=1, return_inverse=True)
    which = which.reshape(-1)
    for number in range(distinct.shape[1]):
        if distinct[:, number].any():
            yield distinct[:, number], np.flatnonzero(which == number)


def are_qualities(y: FloatArray, upper: float) -> bool:
    """Whether outcomes y (n, m), predicted up to `upper`, are to be learned as probabilities.

    Dollars lie in [0, 1] too, but far below its middle: a logarithm of odds has nothing to say about them.
    """
    observed = y[np.isfinite(y)]
    most = float(observed.max()) if observed.size else 0.0
    return upper == 1.0 and (most == 0.0 or most >= 0.5)


def to_unit_interval(y: FloatArray, *, quality: bool) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return y (n, m) mapped into [0, 1] with the offset and the unit of each column.

    Qualities are there already. Other outcomes are measured on their column's observed range, so that a method made
    for qualities has something to do with them.
    """
    models = y.shape[1]
    if quality:
        return y, np.zeros(models), np.ones(models)
    low, high = extremes(y)
    unit = np.where(high > low, high - low, 1.0)
    return (y - low) / unit, low, unit


def extremes(y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the least and the largest observed value of each column, NaN for a column never observed."""
    observed = np.isfinite(y)
    low = np.where(observed, y, np.inf).min(axis=0)
    high = np.where(observed, y, -np.inf).max(axis=0)
    empty = ~observed.any(axis=0)
    return np.where(empty, np.nan, low), np.where(empty, np.nan, high)


def sigmoid(logit: FloatArray) -> FloatArray:
    """Return 1 / (1 + exp(-logit)), without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logit)))
