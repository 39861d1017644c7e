"""k nearest neighbours over a log in fewer rows."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from llmrouter.exceptions import ConfigError
from llmrouter.index import Neighbors, VectorIndex, create_index
from llmrouter.routers._base import Learned
from llmrouter.routers._online import OnlineBase
from llmrouter.routers._population import prudent_variance
from llmrouter.routers._prototypes import distinct_count, nearest_prototype, prototypes
from llmrouter.types import FloatArray

_LEAST = 100
"""Prototypes at least, where there are as many distinct prompts: a small log is not worth condensing."""
_ENOUGH = 3.0
"""Prototypes looked up, times those that hold `k` prompts at the average: regions differ in density."""
_STRANGER = 0.02
"""Of the training prompts, the share that is less like its prototype than what opens one of its own later."""


class CondensedKNNRouter(OnlineBase):
    """Predict each model's outcome as the mean over about the k most similar prompts, of which only sums are kept.

    The training prompts are replaced by prototypes (`share` of their number, by spherical k-means within regions),
    and each prototype keeps, for each model, how many outcomes it stands for, their mean and their variance. A
    prediction takes prototypes by similarity until they hold `k` outcomes of the model, the last one in part: what
    `KNNRouter` does, with each region's outcomes taken together. So the index shrinks by ``1 / share`` and a decision
    searches that much less; the variance within prototypes is still known, and standard errors stay honest.

    Follows the prototype reduction of nearest neighbour classifiers (Hart, "The condensed nearest neighbor rule",
    1968), with means in place of labels: outcomes are noisy, so that no single prompt decides.

    `partial_fit` adds to the sums of the nearest prototype; a prompt that is less like it than nearly all training
    prompts were opens one of its own. A new model is a Gaussian process over the known ones (`add_column`).

    Parameters
    ----------
    k : int
        Outcomes that make an estimate.
    share : float
        Prototypes per distinct training prompt, in (0, 1]; at least 100 prototypes are kept.
    shrinkage : float
        Weight of the model's own mean, in units of prompts.
    index : str
        Kind of the index over the prototypes (`llmrouter.index.create_index`).
    seed : int
        Of k-means++.

    Attributes
    ----------
    centroids_ : array of shape (p, d), float32
        Unit prototypes.
    count_, sum_, squares_ : arrays of shape (p, m)
        Weights of the outcomes observed, of weight times outcome, of weight times squared outcome.
    mean_, variance_ : arrays of shape (m,)
        Of each model over all outcomes; NaN for a model that was never observed.
    """

    grid: ClassVar[tuple[Mapping[str, Any], ...]] = tuple(
        {"k": k, "shrinkage": shrinkage} for k, shrinkage in itertools.product((20, 40, 100, 200, 400), (0.0, 5.0))
    )

    def __init__(
        self, k: int = 100, *, share: float = 0.1, shrinkage: float = 5.0, index: str = "auto", seed: int = 0
    ) -> None:
        self.k = k
        self.share = share
        self.shrinkage = shrinkage
        self.index = index
        self.seed = seed

    def _check_parameters(self) -> None:
        if not isinstance(self.k, int | np.integer) or self.k < 1:
            raise ConfigError(f"k must be a whole number >= 1; got {self.k!r}")
        if not 0 < self.share <= 1:
            raise ConfigError(f"share must be above 0 and at most 1; got {self.share!r}")
        if not self.shrinkage >= 0:
            raise ConfigError(f"shrinkage must be >= 0; got {self.shrinkage!r}")

    def _learn(self, X: FloatArray, y: FloatArray, weight: FloatArray) -> None:
        self._check_parameters()
        keep = weight > 0
        X, y, weight = X[keep], y[keep], weight[keep]
        if len(X):
            wanted = max(round(self.share * distinct_count(X)), _LEAST)
            centroids = prototypes(X, wanted, weight=weight, seed=self.seed)
        else:
            centroids = np.zeros((1, self.n_features_in_), dtype=np.float32)
        empty = np.zeros((3, len(centroids), y.shape[1]))
        self._stranger = -1.0
        self._store(centroids, *empty)
        if not len(X):
            return
        chosen, cosine = nearest_prototype(X, centroids)
        order = np.argsort(cosine, kind="stable")
        reached = np.cumsum(weight[order]) > _STRANGER * weight.sum()
        self._stranger = float(cosine[order][np.argmax(reached)])
        self._store(centroids, *_added(empty, chosen, y, weight))

    def _store(self, centroids: FloatArray, count: FloatArray, total: FloatArray, squares: FloatArray) -> None:
        self.centroids_, self.count_, self.sum_, self.squares_ = centroids, count, total, squares
        self._index = create_index(self.index, centroids.shape[1], rows=len(centroids))
        self._index.add(np.arange(len(centroids), dtype=np.int64), centroids)
        observed = count.sum(axis=0)
        some = np.where(observed > 0, observed, 1.0)
        self.mean_ = np.where(observed > 0, total.sum(axis=0) / some, np.nan)
        variance = np.maximum(squares.sum(axis=0) / some - np.nan_to_num(self.mean_) ** 2, 0.0)
        variance = np.where(observed > 0, variance, np.nan)
        self.variance_ = prudent_variance(variance, self.mean_, observed, self.upper_)
        each = np.where(count > 0, count, 1.0)
        self._means = total / each
        self._spreads = np.maximum(squares / each - self._means**2, 0.0)
        held = max(float(count.sum(axis=0).max()), 1.0) / len(centroids)
        self._looked_up = int(min(len(centroids), np.ceil(_ENOUGH * self.k / held) + 1))

    def _estimate(self, X: FloatArray) -> tuple[FloatArray, FloatArray]:
        taken, means, spreads = self._taken(self._index.search(X, self._looked_up))
        mean = self._shrunk_mean(taken, means)
        total = taken.sum(axis=1)
        squares = (taken * (spreads + (means - mean[:, None, :]) ** 2)).sum(axis=1)
        prior = self.shrinkage + 1.0
        variance = (squares + prior * self.variance_) / (total + prior)
        return mean, np.sqrt(variance / np.maximum(total + self.shrinkage, 1.0))

    def _taken(self, found: Neighbors) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return what is taken of each prototype looked up, their means and variances, each (n, p, m)."""
        count = self.count_[found.ids]
        before = np.cumsum(count, axis=1) - count
        taken = np.clip(self.k - before, 0.0, count)
        return taken, self._means[found.ids], self._spreads[found.ids]

    def _shrunk_mean(self, taken: FloatArray, means: FloatArray) -> FloatArray:
        summed = (taken * means).sum(axis=1) + self.shrinkage * np.nan_to_num(self.mean_)
        strength = taken.sum(axis=1) + self.shrinkage
        mean: FloatArray = np.where(strength > 0, summed / np.where(strength > 0, strength, 1.0), self.mean_)
        mean[:, ~np.isfinite(self.mean_)] = np.nan
        return mean

    def _update(self, X: FloatArray, y: FloatArray, weight: FloatArray) -> None:
        if not len(X):
            return
        centroids = self.centroids_
        _, cosine = nearest_prototype(X, centroids)
        strange = X[cosine < self._stranger]
        if len(strange):
            opened = prototypes(strange, distinct_count(strange), weight=np.ones(len(strange)), seed=self.seed)
            centroids = np.concatenate([centroids, opened])
        chosen, _ = nearest_prototype(X, centroids)
        more = len(centroids) - len(self.centroids_)
        sums = tuple(np.pad(part, ((0, more), (0, 0))) for part in (self.count_, self.sum_, self.squares_))
        self._store(centroids, *_added(sums, chosen, y, weight))

    def _learned(self) -> Learned:
        arrays = {
            "centroids": self.centroids_,
            "count": self.count_,
            "sum": self.sum_,
            "squares": self.squares_,
        }
        return arrays, {"stranger": self._stranger}

    def _restore(self, arrays: Mapping[str, FloatArray], values: Mapping[str, Any], index: VectorIndex | None) -> None:
        del index
        self._stranger = values["stranger"]
        self._store(*(arrays[name] for name in ("centroids", "count", "sum", "squares")))


def _added(
    sums: tuple[FloatArray, ...] | FloatArray, chosen: FloatArray, y: FloatArray, weight: FloatArray
) -> tuple[FloatArray, ...]:
    """Return the sums, each (p, m), with outcomes y (n, m) of the prototypes `chosen` (n,) added; new arrays."""
    observed = np.isfinite(y)
    outcomes = np.where(observed, y, 0.0)
    each = weight[:, None]
    parts = (observed * each, outcomes * each, outcomes**2 * each)
    grown = []
    for held, part in zip(sums, parts, strict=True):
        after = held.copy()
        np.add.at(after, chosen, part)
        grown.append(after)
    return tuple(grown)
