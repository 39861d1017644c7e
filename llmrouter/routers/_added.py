"""One more model for a fitted router, from a few scored prompts: a Gaussian process over what is known already.

The new model's outcome on a prompt x is modelled as::

    f(x) = offset + shape(x) + loadings . deviations(x) + local(x)

``shape`` is what the known models have in common on this prompt (their mean prediction), ``deviations`` are their
predictions around it, ``local`` is the new model's own difference, smooth over the embeddings. Offset, loadings and
local part have zero-mean Gaussian priors, so the posterior is one Gaussian process regression with the sum of three
kernels. Their variances are chosen by marginal likelihood on a small grid. With few prompts the new model is the
known ones' shape moved to its own level; with many, its own data speak. That is the hierarchical shrinkage asked of a
cold start (the same idea as fitting only a model's identity vector in LLM Bandit, arXiv 2502.02743, and IRT-Router,
arXiv 2506.01048, with the other parameters fixed), for any router at all.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from llmrouter.types import FloatArray

MOST_PROMPTS = 1500
"""More scored prompts than this are thinned out evenly: the posterior is solved in cubic time."""
_LOADINGS = (0.0, 0.3, 1.0, 3.0)
_LOCALS = (0.0, 0.1, 0.3, 1.0)
_LENGTHS = (0.1, 0.3)
_OFFSET = 1.0
_LONGEST = 1.001  # of an embedding, of unit length but for rounding


@dataclass(frozen=True)
class AddedColumn:
    """A fitted column; `estimate` needs the predictions of the router's own columns on the same prompts.

    Attributes
    ----------
    X : array of shape (N, d)
        Scored prompts.
    features : array of shape (N, m)
        Deviations of the known models' predictions there.
    dual : array of shape (N,)
        Posterior weights.
    root : array of shape (N, N)
        Inverse Cholesky factor of the kernel matrix plus noise, for standard errors.
    centre, scale : array of shape (m,)
        Of the known models' predictions on the scored prompts.
    values_ : mapping
        level, unit, noise, kernel variances, length, bounds.
    shape : array of shape (m,) or None
        Weights, of sum 1, with which the own columns make up the common shape; None for equal ones.
    """

    X: FloatArray
    features: FloatArray
    dual: FloatArray
    root: FloatArray
    centre: FloatArray
    scale: FloatArray
    values_: Mapping[str, Any]
    shape: FloatArray | None = None

    @classmethod
    def prior(
        cls,
        own: FloatArray,
        dimension: int,
        *,
        level: float,
        std: float,
        weights: FloatArray | None,
        bounds: tuple[float, float],
    ) -> Self:
        """Return the process before any scored prompt: the known models' shape about a level, and a wide error.

        Parameters
        ----------
        own : array of shape (N, m)
            What the router's own columns expect on N prompts of the kind that `level` is a mean over.
        dimension : int
            d of the embeddings.
        level, std : float
            Expected mean outcome, and its standard error.
        weights : array of shape (m,), optional
            See `shape`.
        bounds : tuple of float
            As in `fit`.
        """
        known = np.nan_to_num(own)
        centre = known.mean(axis=0)
        additive = bool(np.isfinite(bounds[1]))
        unit = 1.0 if additive else max(abs(level), 1e-12)
        scale = np.ones(known.shape[1]) if additive else np.maximum(np.abs(centre), 1e-12)
        values: dict[str, Any] = {"loading": 0.0, "local": 0.0, "length": _LENGTHS[0], "level": level, "unit": unit}
        values |= {"noise": std / unit / float(np.sqrt(_OFFSET)), "bounds": list(bounds)}
        empty = np.empty((0, known.shape[1]))
        none = np.empty((0, dimension), dtype=np.float32)
        return cls(none, empty, np.empty(0), np.empty((0, 0)), centre, scale, values, weights)

    @classmethod
    def fit(
        cls, X: FloatArray, y: FloatArray, weight: FloatArray, own: FloatArray, *, bounds: tuple[float, float]
    ) -> Self:
        """Fit on N scored prompts.

        Parameters
        ----------
        X : array of shape (N, d)
            Embeddings.
        y : array of shape (N,)
            Outcomes of the new model.
        weight : array of shape (N,)
            Weights > 0.
        own : array of shape (N, m)
            What the router's own columns expect on these prompts; NaN for one never observed.
        bounds : tuple of float
            Of predictions; a finite upper bound means qualities, whose models differ by an offset, else amounts
            (tokens, dollars), which differ by a factor.
        """
        if len(X) > MOST_PROMPTS:
            pick = np.linspace(0, len(X) - 1, MOST_PROMPTS).astype(np.int64)
            X, y, weight, own = X[pick], y[pick], weight[pick], own[pick]
        known = np.nan_to_num(own)
        centre = known.mean(axis=0)
        additive = np.isfinite(bounds[1])
        level = float(np.average(y, weights=weight))
        unit = 1.0 if additive else max(abs(level), 1e-12)
        scale = np.ones(known.shape[1]) if additive else np.maximum(np.abs(centre), 1e-12)
        features = (known - centre) / scale
        # For an offset the models' own levels say how far a new one may lie from them; a factor has its own mean.
        prior_level = float(centre.mean()) if additive else level
        target = (y - prior_level) / unit - features.mean(axis=1)
        spread = features - features.mean(axis=1, keepdims=True)
        similarity = _similarity(X, X)
        settings = _best_setting(target, weight, spread, similarity)
        kernel = _kernel(spread @ spread.T, similarity, settings)
        root = np.linalg.inv(np.linalg.cholesky(kernel + np.diag(1.0 / weight)))
        dual = root.T @ (root @ target)
        noise = float(np.sqrt(max((target @ dual) / len(target), 1e-12)))
        values = {**settings, "level": prior_level, "unit": unit, "noise": noise, "bounds": list(bounds)}
        return cls(X.astype(np.float32), spread, dual, root, centre, scale, values)

    def estimate(self, X: FloatArray, own: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return expectation and standard error, each (n,), at X (n, d) where own columns expect `own` (n, m)."""
        features = (np.nan_to_num(own) - self.centre) / self.scale
        shape = features.mean(axis=1) if self.shape is None else features @ self.shape
        spread = features - features.mean(axis=1, keepdims=True)
        similarity = _similarity(X, self.X)
        cross = _kernel(spread @ self.features.T, similarity, self.values_)
        mean = self.values_["level"] + self.values_["unit"] * (shape + cross @ self.dual)
        itself = _OFFSET + self.values_["loading"] * (spread**2).sum(axis=1) + self.values_["local"]
        variance = np.maximum(itself - ((cross @ self.root.T) ** 2).sum(axis=1), 1e-12)
        std = self.values_["unit"] * self.values_["noise"] * np.sqrt(variance)
        lower, upper = self.values_["bounds"]
        return np.clip(mean, lower, upper), std

    def arrays(self) -> dict[str, FloatArray]:
        """Return the arrays of the state."""
        names = ("X", "features", "dual", "root", "centre", "scale")
        shape = {} if self.shape is None else {"shape": self.shape}
        return {name: getattr(self, name) for name in names} | shape

    def values(self) -> dict[str, Any]:
        """Return the JSON values of the state."""
        bounds = [None if np.isinf(bound) else bound for bound in self.values_["bounds"]]
        return {**self.values_, "bounds": bounds}

    @classmethod
    def from_parts(cls, arrays: Mapping[str, FloatArray], values: Mapping[str, Any]) -> Self:
        """Rebuild from `arrays()` and `values()`."""
        lower, upper = values["bounds"]
        bounds = [-np.inf if lower is None else lower, np.inf if upper is None else upper]
        return cls(**arrays, values_={**values, "bounds": bounds})


def _kernel(inner: FloatArray, similarity: FloatArray, settings: Mapping[str, Any]) -> FloatArray:
    """Return the sum of the three kernels, in units of the noise variance."""
    local = settings["local"] * _decay(similarity, settings["length"])
    return np.asarray(_OFFSET + settings["loading"] * inner + local)


def _similarity(X: FloatArray, others: FloatArray) -> FloatArray:
    """Return inner products (n, c); rows longer than embeddings are count with unit length, as the decay needs."""
    return np.asarray(_shortened(X) @ _shortened(others).T)


def _shortened(X: FloatArray) -> FloatArray:
    exact = X.astype(np.float64)
    length = np.sqrt(np.einsum("ij,ij->i", exact, exact))[:, None]
    return np.asarray(np.divide(exact, length, out=exact, where=length > _LONGEST))


def _decay(similarity: FloatArray, length: float) -> FloatArray:
    """Return how alike the local parts of two prompts are, 1 for equal ones."""
    return np.asarray(np.exp((np.minimum(similarity, 1.0) - 1.0) / length))


def _best_setting(target: FloatArray, weight: FloatArray, spread: FloatArray, similarity: FloatArray) -> dict[str, Any]:
    """Return the kernel variances of highest marginal likelihood, the noise variance profiled out."""
    inner = spread @ spread.T
    unit = max(float(np.trace(inner)) / len(inner), 1e-12)
    best, chosen = -np.inf, {"loading": 0.0, "local": 0.0, "length": _LENGTHS[0]}
    decay = {length: _decay(similarity, length) for length in _LENGTHS}
    # The target as one more row: its row of the Cholesky factor is then the target whitened, with no system to solve.
    # The corner exceeds target' K^-1 target, so that the matrix stays positive definite.
    n = len(target)
    matrix = np.empty((n + 1, n + 1))
    matrix[n, :n] = matrix[:n, n] = target
    matrix[n, n] = 1.0 + weight @ target**2
    diagonal = np.arange(n)
    for loading, local, length in itertools.product(_LOADINGS, _LOCALS, _LENGTHS):
        if local == 0.0 and length != _LENGTHS[0]:
            continue
        setting = {"loading": loading / unit, "local": local, "length": length}
        matrix[:n, :n] = _OFFSET + setting["loading"] * inner + local * decay[length]
        matrix[diagonal, diagonal] += 1.0 / weight
        factor = np.linalg.cholesky(matrix)
        whitened = factor[n, :n]
        # + 1: a weak prior on the noise, without which two equal outcomes would look certain
        variance = (whitened @ whitened + 0.2) / (n + 1)
        likelihood = -0.5 * n * np.log(variance) - np.log(factor[diagonal, diagonal]).sum()
        if likelihood > best:
            best, chosen = likelihood, setting
    return chosen
