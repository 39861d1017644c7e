"""CARROT: plug-in estimates of quality and of output tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from llmrouter.exceptions import ConfigError
from llmrouter.index import VectorIndex, create_index
from llmrouter.routers._axes import are_qualities
from llmrouter.routers._base import BaseRouter, Learned, weighted_mean
from llmrouter.routers._knn import KNNRouter
from llmrouter.routers._linear import LogisticRouter, RidgeRouter
from llmrouter.routers._mlp import MLPRouter
from llmrouter.types import FloatArray

NEIGHBOURS: tuple[int, ...] = (2, 4, 8, 16, 32, 64, 128, 256, 512)
_FOLDS = 5
_BLOCK = 512


class CarrotRouter(BaseRouter):
    """Cost-aware rate-optimal routing (CARROT, arXiv 2502.03261): estimate both axes well, then plug in.

    CARROT predicts each model's quality and output tokens from the prompt and picks by a convex combination of
    quality and cost, which it shows to be minimax optimal for estimators of optimal rate. The combination is the
    policy's here; this router is the pair of estimators, the same kind for quality and for tokens:

    * ``knn``: unweighted neighbour means, k out of {2, 4, ..., 512} by 5-fold cross-validated R^2 (summed squared
      error over the models' variances), for quality and tokens apart, as the paper's.
    * ``linear``: `LogisticRouter` for qualities, `RidgeRouter` for tokens and dollars.
    * ``mlp``: `MLPRouter` in place of the paper's fine-tuned RoBERTa, over the embedding.

    The standard error is the estimator's. Taking in a new model needs N scored prompts (`add_column`); the paper
    needs labels on the training prompts.

    Parameters
    ----------
    estimator : str
        ``knn``, ``linear`` or ``mlp``.
    seed : int
        Of folds, and of the perceptrons.

    Attributes
    ----------
    inner_ : KNNRouter, LogisticRouter, RidgeRouter or MLPRouter
        The fitted estimator.
    """

    grid: ClassVar[tuple[Mapping[str, Any], ...]] = ({"estimator": "knn"}, {"estimator": "linear"})

    def __init__(self, estimator: str = "knn", *, seed: int = 0) -> None:
        self.estimator = estimator
        self.seed = seed

    def _learn(self, X: FloatArray, y: FloatArray, weight: FloatArray) -> None:
        self.quality_ = are_qualities(y, self.upper_)
        if self.estimator == "knn":
            self.inner_: BaseRouter = KNNRouter(_best_k(X, y, weight, seed=self.seed), index="exact")
            self.stored_ = X
        else:
            self.inner_ = self._parametric()
            self.stored_ = np.empty((0, X.shape[1]), dtype=np.float32)
        self.inner_.fit(X, y, sample_weight=weight)

    def _parametric(self) -> BaseRouter:
        if self.estimator == "linear":
            return LogisticRouter() if self.quality_ else RidgeRouter()
        if self.estimator == "mlp":
            return MLPRouter(seed=self.seed)
        raise ConfigError(f"estimator must be 'knn', 'linear' or 'mlp'; got {self.estimator!r}")

    def _estimate(self, X: FloatArray) -> tuple[FloatArray, FloatArray]:
        return self.inner_.estimate(X)

    def _learned(self) -> Learned:
        arrays, values = self.inner_.state()
        # The neighbours' embeddings travel with the state: the index need not be shared with another router.
        own = {f"inner.{name}": array for name, array in arrays.items()}
        return own | {"stored": self.stored_}, {"inner": values, "quality": self.quality_}

    def _restore(self, arrays: Mapping[str, FloatArray], values: Mapping[str, Any], index: VectorIndex | None) -> None:
        del index
        self.quality_ = values["quality"]
        own = {name.removeprefix("inner."): array for name, array in arrays.items() if name.startswith("inner.")}
        self.stored_ = arrays["stored"]
        if self.estimator != "knn":
            self.inner_ = type(self._parametric()).from_state(own, values["inner"])
            return
        rebuilt = create_index("exact", self.stored_.shape[1])
        rebuilt.add(np.arange(len(self.stored_), dtype=np.int64), self.stored_)
        self.inner_ = KNNRouter.from_state(own, values["inner"], index=rebuilt)


def _best_k(X: FloatArray, y: FloatArray, weight: FloatArray, *, seed: int) -> int:
    """Return the k of the highest 5-fold R^2, averaged over models; of equals the smallest."""
    sizes = [k for k in NEIGHBOURS if k <= len(X) * (_FOLDS - 1) // _FOLDS] or [1]
    if len(X) < _FOLDS:
        return sizes[0]
    errors = np.zeros((len(sizes), y.shape[1]))
    for held_out in np.array_split(np.random.default_rng(seed).permutation(len(X)), _FOLDS):
        rest = np.setdiff1d(np.arange(len(X)), held_out)
        index = create_index("exact", X.shape[1])
        index.add(np.arange(len(rest), dtype=np.int64), X[rest])
        for start in range(0, len(held_out), _BLOCK):
            rows = held_out[start : start + _BLOCK]
            ids = index.search(X[rows], sizes[-1]).ids
            errors += _squared_errors(y[rest][ids], weight[rest][ids], y[rows], weight[rows], sizes=sizes)
    variance = weighted_mean((y - weighted_mean(y, weight)) ** 2, weight)
    scored = np.isfinite(variance) & (variance > 0)
    return sizes[int((errors[:, scored] / variance[scored]).sum(axis=1).argmin())]


def _squared_errors(
    found: FloatArray, shares: FloatArray, y: FloatArray, weight: FloatArray, *, sizes: list[int]
) -> FloatArray:
    """Return summed squared errors (sizes, m) of means over the first k of the found outcomes (n, K, m)."""
    seen = np.isfinite(found) * shares[:, :, None]
    counts, sums = np.cumsum(seen, axis=1), np.cumsum(seen * np.nan_to_num(found), axis=1)
    errors = np.zeros((len(sizes), y.shape[1]))
    for number, k in enumerate(sizes):
        at = min(k, found.shape[1]) - 1
        # no neighbour observed: the widest neighbourhood's mean stands in
        few, all_counts = counts[:, at], np.maximum(counts[:, -1], 1e-12)
        mean = np.where(few > 0, sums[:, at] / np.maximum(few, 1e-12), sums[:, -1] / all_counts)
        errors[number] = (weight[:, None] * np.nan_to_num((y - mean) ** 2)).sum(axis=0)
    return errors
