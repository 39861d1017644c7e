"""UniRoute's learned cluster map."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from llmrouter.exceptions import ConfigError
from llmrouter.index import VectorIndex
from llmrouter.routers._base import Learned
from llmrouter.routers._cluster_router import ClusterRouter
from llmrouter.routers._clusters import unit_rows
from llmrouter.types import FloatArray, IntArray

_ITERATIONS = 40
_MARGIN = 1e-3


class LearnedMapRouter(ClusterRouter):
    """Predict each model's outcome as a mixture of its cluster means, with learned weights of the clusters.

    LearnedMap of "Universal Model Routing" (UniRoute, arXiv 2502.08773)::

        gamma(x, h) = Phi(x) . Psi(h),    Phi_k(x) proportional to exp(theta_k . x)

    Psi, the models' mean outcomes by k-means cluster, is fixed; only theta (K, d) is trained, by the log-loss of gamma
    against the outcomes of the training models. A model that was not there in training therefore needs nothing but
    its Psi.

    Ours: Psi is shrunk (`ClusterRouter`), theta starts at `sharpness` times the centroids, where Phi is a soft version
    of the k-means assignment, and is drawn back there by a ridge penalty, since K x d parameters fit a few thousand
    outcomes too well (the paper does not say how it regularises). Outcomes in [0, 1] are soft targets of the log-loss;
    of amounts the squared error is minimised, in units of each model's variance, and beside a quality router the cost
    is left to ``uniroute`` (the paper has one cost a model).

    Standard errors are those of the cluster means, combined as independent; theta is taken as known.

    A new model needs N scored prompts and no gradient: its cluster means Psi are shrunk towards what the known
    models' say (`ClusterRouter`). `partial_fit` updates Psi and keeps theta.

    Parameters
    ----------
    clusters : int
        K.
    sharpness : float
        Length of theta_k at the start, > 0.
    penalty : float
        Ridge penalty on theta's way from there, in units of the summed loss, > 0.
    shrinkage : float or None
        Weight of the model's mean within a cluster, in prompts; None estimates it.
    seed : int
        Of k-means++.

    Attributes
    ----------
    theta_ : array of shape (K, d), float32
        Learned weights.
    """

    cost_router: ClassVar[str | None] = "uniroute"
    grid: ClassVar[tuple[Mapping[str, Any], ...]] = tuple(
        {"clusters": count, "penalty": penalty} for count, penalty in ((15, 1.0), (40, 0.3), (40, 3.0))
    )

    def __init__(
        self,
        clusters: int = 40,
        *,
        sharpness: float = 10.0,
        penalty: float = 1.0,
        shrinkage: float | None = None,
        seed: int = 0,
    ) -> None:
        self.clusters = clusters
        self.sharpness = sharpness
        self.penalty = penalty
        self.shrinkage = shrinkage
        self.seed = seed

    def _check_parameters(self) -> None:
        super()._check_parameters()
        for name in ("sharpness", "penalty"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be > 0; got {getattr(self, name)!r}")

    def _refine(self, X: FloatArray, y: FloatArray, weight: FloatArray) -> None:
        start = (self.sharpness * self.centroids_.astype(np.float64)).astype(np.float32)
        known = np.isfinite(self.table_).all(axis=0)
        self.theta_ = start
        if not known.any() or not len(X) or len(start) == 1:
            return
        rows = unit_rows(X).astype(np.float32)
        problem = _MapLoss(rows, y[:, known], weight, self.table_[:, known], start, self)
        self.theta_ = problem.solve()

    def _estimate(self, X: FloatArray) -> tuple[FloatArray, FloatArray]:
        rows = unit_rows(X)
        logits = np.stack([np.vecdot(rows, theta) for theta in self.theta_.astype(np.float64)], axis=1)
        return self._mixed(*self._membership(logits))

    def _membership(self, similarities: FloatArray) -> tuple[IntArray | None, FloatArray]:
        likely = np.exp(similarities - similarities.max(axis=1, keepdims=True))
        return None, likely / likely.sum(axis=1, keepdims=True)

    def _learned(self) -> Learned:
        arrays, values = super()._learned()
        return arrays | {"theta": self.theta_}, values

    def _restore(self, arrays: Mapping[str, FloatArray], values: Mapping[str, Any], index: VectorIndex | None) -> None:
        super()._restore(arrays, values, index)
        self.theta_ = arrays["theta"]


class _MapLoss:
    """Penalised loss of theta and its gradient, in float32 products and float64 sums."""

    def __init__(
        self,
        rows: FloatArray,
        y: FloatArray,
        weight: FloatArray,
        table: FloatArray,
        start: FloatArray,
        router: LearnedMapRouter,
    ) -> None:
        self.rows, self.table, self.start, self.penalty = rows, table, start, router.penalty
        observed = np.isfinite(y)
        self.target = np.where(observed, y, 0.0)
        self.weight = observed * weight[:, None]
        self.bounded = bool(np.isfinite(router.upper_))
        count = np.maximum(self.weight.sum(axis=0), 1e-12)
        mean = (self.weight * self.target).sum(axis=0) / count
        variance = (self.weight * (self.target - mean) ** 2).sum(axis=0) / count
        self.scale = np.where(variance > 0, variance, 1.0)

    def solve(self) -> FloatArray:
        """Return the best theta (K, d)."""
        from scipy.optimize import minimize

        found = minimize(
            self.loss, self.start.ravel().astype(np.float64), jac=True, method="L-BFGS-B",
            options={"maxiter": _ITERATIONS, "maxcor": 10},
        )  # fmt: skip
        return np.asarray(found.x.reshape(self.start.shape).astype(np.float32))

    def loss(self, flat: FloatArray) -> tuple[float, FloatArray]:
        """Return the penalised loss and its gradient at theta, flattened."""
        theta = flat.reshape(self.start.shape)
        logits = (self.rows @ theta.astype(np.float32).T).astype(np.float64)
        likely = np.exp(logits - logits.max(axis=1, keepdims=True))
        likely /= likely.sum(axis=1, keepdims=True)
        fitted = likely @ self.table
        if self.bounded:
            fitted = np.clip(fitted, _MARGIN, 1.0 - _MARGIN)
            terms = -self.target * np.log(fitted) - (1.0 - self.target) * np.log1p(-fitted)
            slope = (fitted - self.target) / (fitted * (1.0 - fitted))
        else:
            terms = 0.5 * (fitted - self.target) ** 2 / self.scale
            slope = (fitted - self.target) / self.scale
        towards = (self.weight * slope) @ self.table.T
        on_logits = likely * (towards - (likely * towards).sum(axis=1, keepdims=True))
        moved = theta - self.start
        gradient = (on_logits.astype(np.float32).T @ self.rows).astype(np.float64) + self.penalty * moved
        return float((self.weight * terms).sum() + 0.5 * self.penalty * (moved**2).sum()), gradient.ravel()
