"""R2-T2 for whole models: kernel regression over prompts that some model answered well."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from llmrouter.exceptions import ConfigError
from llmrouter.index import Neighbors, VectorIndex
from llmrouter.routers._kernel_knn import kernel_weights
from llmrouter.routers._neighbours import NeighbourRouter
from llmrouter.routers._population import prudent_variance
from llmrouter.types import FloatArray, IntArray


class R2T2Router(NeighbourRouter):
    """Predict by which models succeeded on the nearest prompts that were answered well at all.

    R2-T2 (arXiv 2502.20395) re-routes the experts of a multimodal mixture of experts at test time: a reference set of
    correctly answered prompts with their routing weights r_i, the k = 5 nearest by embedding, and kernel regression
    ``r(x) = sum_i K(x, x_i) r_i / sum_i K(x, x_i)`` with a Gaussian kernel, mixed with the first guess by line search;
    optionally mode finding (mean shift), which helped them by 1.5%. Their gradient variant needs the language model
    and has no counterpart here.

    For a pool of models the routing weights of a reference prompt are the outcomes of the models on it, and the first
    guess is each model's mean. The reference set is the prompts on which at least one model reached `success`;
    prompts that all models failed say nothing about which one to ask. So the regression estimates
    ``E[y | some model succeeds, x]`` and is scaled, for each model, by mean over all prompts / mean over the
    reference set (a model that was not asked counts there as not successful), which is the share of solvable prompts
    where everything was observed, and corrects for how often a model was asked in a log. The line search is replaced
    by shrinkage: the neighbours count as their effective sample size n_e against `shrinkage` prompts of the mean.

    With `mean_shift` steps, the neighbours are weighted anew by how close their outcomes are to the estimate,
    ``K(x, x_i) exp(-|r_i - r|^2 / m)``: the estimate climbs to a mode of the neighbours' outcome patterns.

    Standard errors are ``sqrt(variance over the reference neighbours / (n_e + shrinkage))``, scaled alike. Cost is left
    to ``knn``: success has no meaning there. Where amounts are fitted all the same, or no outcome reaches `success`,
    every observed prompt is in the reference set.

    A new model needs the embeddings of N scored prompts; its column is a Gaussian process over what the known models
    are expected to do (`add_column`). `partial_fit` appends prompts to the index.

    Parameters
    ----------
    k : int
        Reference neighbours.
    bandwidth : float
        Of the Gaussian kernel, in units of the k-th reference neighbour's distance.
    shrinkage : float
        Weight of the model's mean, in prompts.
    success : float
        Outcome from which a model counts as successful, in (0, 1].
    mean_shift : int
        Steps of mode finding; 0 for none.
    index : str
        Name of the vector index (registry kind ``index``) or ``auto``.
    """

    cost_router: ClassVar[str | None] = "knn"
    grid: ClassVar[tuple[Mapping[str, Any], ...]] = tuple({"k": k} for k in (5, 20, 60, 200))

    def __init__(
        self,
        k: int = 60,
        *,
        bandwidth: float = 1.0,
        shrinkage: float = 5.0,
        success: float = 0.5,
        mean_shift: int = 0,
        index: str = "auto",
    ) -> None:
        self.k = k
        self.bandwidth = bandwidth
        self.shrinkage = shrinkage
        self.success = success
        self.mean_shift = mean_shift
        self.index = index

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if not self.bandwidth > 0:
            raise ConfigError(f"bandwidth must be > 0; got {self.bandwidth!r}")
        if not self.shrinkage >= 0:
            raise ConfigError(f"shrinkage must be >= 0; got {self.shrinkage!r}")
        if not 0 < self.success <= 1:
            raise ConfigError(f"success must be in (0, 1]; got {self.success!r}")
        if not isinstance(self.mean_shift, int | np.integer) or self.mean_shift < 0:
            raise ConfigError(f"mean_shift must be a whole number >= 0; got {self.mean_shift!r}")

    def _store(self, index: VectorIndex, y: FloatArray, weight: FloatArray) -> None:
        super()._store(index, y, weight)
        outcome = np.nan_to_num(y)
        self.reference_ = (outcome.max(axis=1, initial=0.0) >= self.success) & (weight > 0)
        if not np.isfinite(self.upper_) or not self.reference_.any():
            self.reference_ = np.isfinite(y).any(axis=1) & (weight > 0)
        chosen = np.where(self.reference_, weight, 0.0)
        total = max(float(chosen.sum()), 1e-12)
        self.success_mean_ = chosen @ outcome / total
        variance = chosen @ (outcome - self.success_mean_) ** 2 / total
        self.success_variance_ = prudent_variance(variance, self.success_mean_, np.array(total), self.upper_)
        positive = np.abs(self.success_mean_) > 1e-12
        self.scale_ = np.where(positive, self.mean_ / np.where(positive, self.success_mean_, 1.0), 1.0)

    def _search(self, X: FloatArray) -> Neighbors:
        """Return enough neighbours of each row that k of them, where there are as many, are reference prompts."""
        rows, depth = len(self.index_), min(2 * self.k, len(self.index_))
        needed = min(self.k, int(self.reference_.sum()))
        found = self.index_.search(X, depth)
        while depth < rows and len(X) and self.reference_[found.ids].sum(axis=1).min() < needed:
            depth = min(4 * depth, rows)
            found = self.index_.search(X, depth)
        return found

    def _first_references(self, found: Neighbors) -> tuple[IntArray, FloatArray, FloatArray]:
        """Return ids, similarities and whether it is one, each (n, k), of the first k reference neighbours."""
        last = np.argsort(~self.reference_[found.ids], axis=1, kind="stable")[:, : self.k]
        ids = np.take_along_axis(found.ids, last, axis=1)
        return ids, np.take_along_axis(found.similarities, last, axis=1), self.reference_[ids]

    def _estimate_found(self, found: Neighbors) -> tuple[FloatArray, FloatArray]:
        ids, similarities, there = self._first_references(found)
        outcome = np.nan_to_num(self.y_[ids])
        nearest_last = np.where(there, similarities, np.inf)
        reach = np.where(np.isfinite(nearest_last), nearest_last, 1.0).min(axis=1, keepdims=True)
        filled = np.where(there, similarities, reach)
        near = kernel_weights(np.append(filled, reach, axis=1), bandwidth=self.bandwidth, kernel="gaussian")[:, :-1]
        weight = near * there * self.weight_[ids]
        mean, effective = self._regress(weight, outcome)
        for _ in range(self.mean_shift):
            apart = ((outcome - mean[:, None, :]) ** 2).mean(axis=2)
            mean, effective = self._regress(weight * np.exp(-apart), outcome)
        squares = (weight[:, :, None] * (outcome - mean[:, None, :]) ** 2).sum(axis=1)
        total = np.maximum(weight.sum(axis=1), 1e-300)[:, None]
        prior = self.shrinkage + 1.0
        variance = (effective * squares / total + prior * self.success_variance_) / (effective + prior)
        std = np.abs(self.scale_) * np.sqrt(variance / np.maximum(effective + self.shrinkage, 1.0))
        mean = np.clip(self.scale_ * mean, self.lower_, self.upper_)
        unseen = ~np.isfinite(self.mean_)
        mean[:, unseen], std[:, unseen] = np.nan, np.nan
        return mean, std

    def _regress(self, weight: FloatArray, outcome: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the shrunk weighted mean (n, m) and the effective sample size (n, 1)."""
        total = weight.sum(axis=1)
        seen = total > 0
        effective = (total**2 / np.where(seen, (weight**2).sum(axis=1), 1.0))[:, None]
        local = (weight[:, :, None] * outcome).sum(axis=1) / np.where(seen, total, 1.0)[:, None]
        strength = effective + self.shrinkage
        mean = (effective * local + self.shrinkage * self.success_mean_) / np.where(strength > 0, strength, 1.0)
        return np.where(strength > 0, mean, self.success_mean_), effective
