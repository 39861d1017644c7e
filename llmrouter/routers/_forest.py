"""Extremely randomised trees over the embedding: adaptive neighbourhoods in one walk down some small trees."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from llmrouter.exceptions import ConfigError
from llmrouter.index import VectorIndex
from llmrouter.routers._base import BaseRouter, Learned, weighted_mean
from llmrouter.routers._population import prudent_variance
from llmrouter.routers._trees import FlatForest
from llmrouter.types import FloatArray, IntArray

_MOST_ROWS_FOR_AXES = 4000
_SAMPLED = 64


class ForestRouter(BaseRouter):
    """Predict each model's outcome as its mean over the leaves of a forest that all models share.

    Random forests over embeddings are the method of RoRF (a baseline of CARROT, arXiv 2502.03261); here the trees are
    extremely randomised (Geurts, Ernst and Wehenkel, "Extremely randomized trees", 2006) and multi-output: one
    structure, chosen for all models together, so that a prompt's neighbourhood is the same for all of them and their
    *differences*, which routing is about, are compared on the same prompts.

    Splits are made on principal components of the embedding and on its columns of largest variance. Missing outcomes
    are set to their model's mean while the structure is grown; the leaves then hold means over what was observed,
    shrunk towards the model's mean over all prompts by `shrinkage` prompts.

    The standard error is that of a mean over the effective number of prompts behind a prediction (from leaf sizes
    and how much leaves of different trees overlap, measured on a sample of the training prompts).

    Taking in a new model needs N scored prompts (`add_column`).

    Parameters
    ----------
    trees, depth : int
        Number of trees; their greatest depth.
    leaf : int
        Least prompts in a leaf.
    components, columns : int
        Principal components, and columns of largest variance, that splits may use.
    features : float
        Share of these looked at for each split.
    shrinkage : float
        Weight of the model's own mean in each leaf, in prompts.
    seed : int
        Of the random splits.
    """

    grid: ClassVar[tuple[Mapping[str, Any], ...]] = ({"leaf": 5}, {"leaf": 10}, {"leaf": 20})

    def __init__(
        self,
        trees: int = 60,
        *,
        depth: int = 10,
        leaf: int = 10,
        components: int = 32,
        columns: int = 48,
        features: float = 0.3,
        shrinkage: float = 1.0,
        seed: int = 0,
    ) -> None:
        self.trees = trees
        self.depth = depth
        self.leaf = leaf
        self.components = components
        self.columns = columns
        self.features = features
        self.shrinkage = shrinkage
        self.seed = seed

    def _learn(self, X: FloatArray, y: FloatArray, weight: FloatArray) -> None:
        from sklearn.ensemble import ExtraTreesRegressor

        self._check_parameters()
        self._choose_axes(X, weight)
        self.mean_ = weighted_mean(y, weight)
        self._unseen = np.where(np.isnan(self.mean_), np.nan, 0.0)
        centre = np.nan_to_num(self.mean_)
        # Amounts differ by orders of magnitude between models; the structure weighs their relative differences.
        unit = np.ones_like(centre) if np.isfinite(self.upper_) else np.maximum(np.abs(centre), 1e-12)
        filled = np.nan_to_num((y - centre) / unit)
        grown = ExtraTreesRegressor(
            self.trees,
            max_depth=self.depth,
            min_samples_leaf=min(self.leaf, len(X)),
            max_features=self.features,
            random_state=self.seed,
        ).fit(self._features(X), filled if filled.shape[1] > 1 else filled[:, 0], weight)
        self.forest_ = FlatForest.from_sklearn([tree.tree_ for tree in grown.estimators_])
        self._fill_leaves(X, y, weight)

    def _check_parameters(self) -> None:
        for name in ("trees", "depth", "leaf"):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or value < 1:
                raise ConfigError(f"{name} must be a whole number >= 1; got {value!r}")
        for name in ("components", "columns"):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or value < 0:
                raise ConfigError(f"{name} must be a whole number >= 0; got {value!r}")
        if self.components + self.columns == 0:
            raise ConfigError("components and columns must not both be 0; there would be nothing to split on")
        if not 0 < self.features <= 1:
            raise ConfigError(f"features must lie in (0, 1]; got {self.features!r}")
        if not 0 <= self.shrinkage < np.inf:
            raise ConfigError(f"shrinkage must be a finite number >= 0; got {self.shrinkage!r}")

    def _choose_axes(self, X: FloatArray, weight: FloatArray) -> None:
        exact = X.astype(np.float64)
        used = exact[weight > 0] if (weight > 0).any() else exact
        self.centre_ = used.mean(axis=0)
        step = -(-len(used) // _MOST_ROWS_FOR_AXES)
        axes = np.linalg.svd((used - self.centre_)[::step], full_matrices=False)[2]
        self.axes_ = np.ascontiguousarray(axes[: self.components].T)
        self.level_ = self.centre_ @ self.axes_
        self.columns_used_ = np.argsort(-used.std(axis=0), kind="stable")[: self.columns]

    def _features(self, X: FloatArray) -> FloatArray:
        exact = X.astype(np.float64)
        # Row by row: a product of many rows rounds otherwise than of one, and a split might then go the other way.
        components = np.empty((len(exact), len(self.level_)))
        for number, row in enumerate(exact):
            components[number] = row @ self.axes_
        components -= self.level_
        return np.concatenate([components, exact.take(self.columns_used_, axis=1)], axis=1, dtype=np.float32)

    def _fill_leaves(self, X: FloatArray, y: FloatArray, weight: FloatArray) -> None:
        """Average what was observed in each leaf, and measure noise and overlap."""
        leaves = self.forest_.leaves(self._features(X))
        observed = np.where(np.isfinite(y), weight[:, None], 0.0)
        values = np.where(np.isfinite(y), y, 0.0) * observed
        nodes, models = len(self.forest_.child), y.shape[1]
        count, total = np.zeros((nodes, models)), np.zeros((nodes, models))
        for tree in range(leaves.shape[1]):
            np.add.at(count, leaves[:, tree], observed)
            np.add.at(total, leaves[:, tree], values)
        mean = np.nan_to_num(self.mean_)
        strength = count + self.shrinkage
        total += self.shrinkage * mean
        self.value_ = np.divide(total, strength, out=np.tile(mean, (nodes, 1)), where=strength > 0)
        self.count_ = count.mean(axis=1)
        self.overlap_ = _overlap(leaves, weight)
        expected = self._own_mean(leaves)
        count = observed.sum(axis=0)
        squares = prudent_variance(weighted_mean((y - expected) ** 2, weight), self.mean_, count, self.upper_)
        shape = weighted_mean(np.where(np.isfinite(y), self._noise_shape(expected), np.nan), weight)
        self.noise_ = np.nan_to_num(np.maximum(squares, 1e-9) / np.maximum(shape, 1e-9), nan=1.0)
        self.share_ = np.maximum(observed.sum(axis=0) / max(float(observed.sum(axis=0).mean()), 1e-12), 1e-3)

    def _noise_shape(self, mean: FloatArray) -> FloatArray:
        """Return how the variance of one outcome depends on its expectation, up to a factor."""
        if np.isfinite(self.upper_):
            return mean * (1.0 - mean) + 0.01
        return mean**2 + (np.nan_to_num(self.mean_) * 0.1) ** 2 + 1e-12

    def _own_mean(self, leaves: IntArray) -> FloatArray:
        mean: FloatArray = np.add.reduce(self.value_.take(leaves, axis=0), axis=1) / leaves.shape[1]
        return np.asarray(np.minimum(np.maximum(mean + self._unseen, self.lower_), self.upper_))

    def _mean(self, X: FloatArray) -> FloatArray:
        return self._own_mean(self.forest_.leaves(self._features(X)))

    def _estimate(self, X: FloatArray) -> tuple[FloatArray, FloatArray]:
        leaves = self.forest_.leaves(self._features(X))
        mean = self._own_mean(leaves)
        behind = self.overlap_ * (self.count_.take(leaves).mean(axis=1, keepdims=True) * self.share_ + self.shrinkage)
        return mean, np.sqrt(self.noise_ * self._noise_shape(mean) / np.maximum(behind, 1.0))

    def _learned(self) -> Learned:
        arrays = {f"forest.{name}": array for name, array in self.forest_.arrays().items()}
        names = ("mean", "centre", "axes", "columns_used", "value", "count", "noise", "share")
        arrays |= {name: getattr(self, f"{name}_") for name in names}
        return arrays, {"depth": self.forest_.depth, "overlap": self.overlap_}

    def _restore(self, arrays: Mapping[str, FloatArray], values: Mapping[str, Any], index: VectorIndex | None) -> None:
        del index
        prefix = "forest."
        parts = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
        self.forest_ = FlatForest.from_arrays(parts, depth=values["depth"])
        for name in ("mean", "centre", "axes", "columns_used", "value", "count", "noise", "share"):
            setattr(self, f"{name}_", arrays[name])
        self.level_ = self.centre_ @ self.axes_
        self.overlap_ = values["overlap"]
        self._unseen = np.where(np.isnan(self.mean_), np.nan, 0.0)


def _overlap(leaves: IntArray, weight: FloatArray) -> float:
    """Return the effective number of prompts behind a prediction over the mean leaf size, on sampled prompts.

    A forest's prediction is a weighted mean of training outcomes; ``1 / sum of squared weights`` prompts stand behind
    it: more than one leaf holds, fewer than all leaves together.
    """
    rows = np.unique(np.linspace(0, len(leaves) - 1, _SAMPLED).astype(np.int64))
    ratios = []
    for row in rows.tolist():
        together = (leaves == leaves[row]) * weight[:, None]
        size = together.sum(axis=0)
        if (size > 0).all():
            share = (together / size).mean(axis=1)
            ratios.append(1.0 / float((share**2).sum()) / float(size.mean()))
    return float(np.mean(ratios)) if ratios else 1.0
