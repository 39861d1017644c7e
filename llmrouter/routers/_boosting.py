"""Gradient boosted trees over the principal components of the embedding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from llmrouter.exceptions import ConfigError
from llmrouter.index import VectorIndex
from llmrouter.routers._axes import BoolArray, PrincipalAxes
from llmrouter.routers._base import BaseRouter, Learned
from llmrouter.routers._ensemble import Targets, bootstraps, mean_and_error
from llmrouter.types import FloatArray, IntArray

_PATIENCE = 8
_LARGEST_LEAF = 4.0
_LEAF_PRIOR = 1.0
"""Prompts' worth of curvature with no gradient: what shrinks small leaves."""


class BoostingRouter(BaseRouter):
    """Gradient boosting (Friedman 2001), each tree with one value a model in its leaves.

    Qualities are learned by logistic loss, other outcomes by squared loss on standardised columns. A tree is
    grown by scikit-learn on the gradients of all models together (0 where not observed) and its leaves are then set to
    Newton steps over the observed cells. One tree for all models, rather than boosting each alone, costs a tenth of the
    time, and models share where prompts differ. Each member of the ensemble sees another Bayesian bootstrap of the
    prompts and stops by a tenth that it holds out.

    Trees cannot rotate: they see the first principal components. The standard error is the spread between members (see
    `llmrouter.routers._ensemble`). Taking in a new model needs N scored prompts (`add_column`).

    Parameters
    ----------
    components : int
        Principal components; cut to the dimension.
    depth : int
        Of the trees.
    rounds : int
        Trees a member, at most.
    learning_rate : float
        Share of each tree's step that is taken.
    members : int
        Ensembles of trees, averaged.
    seed : int
        Of bootstraps and of the components that a split may look at.

    Attributes
    ----------
    features_, children_ : arrays of shape (t, nodes) and (t, nodes, 2)
        Component tested in each node, and where to go if it is at most the threshold, and if not; leaves lead to
        themselves.
    thresholds_ : array of shape (t, nodes)
    leaves_ : array of shape (t, nodes, m)
        Values of the leaves, 0 in other nodes.
    owner_ : array of shape (t,)
        Member of each tree.
    """

    grid: ClassVar[tuple[Mapping[str, Any], ...]] = ({"depth": 2}, {"depth": 4})

    def __init__(
        self,
        components: int = 32,
        *,
        depth: int = 4,
        rounds: int = 60,
        learning_rate: float = 0.15,
        members: int = 3,
        seed: int = 0,
    ) -> None:
        self.components = components
        self.depth = depth
        self.rounds = rounds
        self.learning_rate = learning_rate
        self.members = members
        self.seed = seed

    def _check_parameters(self) -> None:
        for name in ("components", "depth", "rounds", "members"):
            if not isinstance(getattr(self, name), int | np.integer) or getattr(self, name) < 1:
                raise ConfigError(f"{name} must be a whole number >= 1; got {getattr(self, name)!r}")
        if not 0 < self.learning_rate <= 1:
            raise ConfigError(f"learning_rate must be in (0, 1]; got {self.learning_rate!r}")

    def _learn(self, X: FloatArray, y: FloatArray, weight: FloatArray) -> None:
        self._check_parameters()
        targets = Targets.make(y, weight, bounds=(self.lower_, self.upper_))
        axes = PrincipalAxes.fit(X, weight)
        self.centre_, self.axes_ = axes.centre, axes.directions[:, : self.components].copy()
        Z = self._components(X)
        trees: list[_Tree] = []
        owner = []
        for member, (share, held_out, generator) in enumerate(bootstraps(len(X), int(self.members), seed=self.seed)):
            grown = self._boost(Z, targets, share, held_out, generator)
            trees += grown
            owner += [member] * len(grown)
        self.owner_ = np.asarray(owner, dtype=np.int64)
        self.features_, self.thresholds_, self.children_, self.leaves_ = _stack(trees, models=y.shape[1])
        self.start_, self.level_, self.unit_, self.least_ = targets.start, targets.level, targets.unit, targets.least
        self.quality_ = targets.quality
        self.count_ = (targets.cells > 0).sum(axis=0).astype(np.float64)
        self.between_ = np.zeros(y.shape[1])
        if self.members > 1:
            sample = X[np.linspace(0, len(X) - 1, min(len(X), 1000)).astype(np.int64)]
            self.between_ = self._members(sample).var(axis=0, ddof=1).mean(axis=0)

    def _boost(
        self, Z: FloatArray, targets: Targets, share: FloatArray, held_out: BoolArray, generator: np.random.Generator
    ) -> list[_Tree]:
        """Return the trees of one member, up to the round of least held-out loss."""
        value = np.tile(targets.start, (len(Z), 1))
        cells = targets.cells * share[:, None]
        trees: list[_Tree] = []
        best, kept = targets.loss(value[held_out], held_out), 0
        for _ in range(self.rounds):
            predicted = targets.link(value)
            gradient = cells * (targets.y - predicted)
            curvature = cells * predicted * (1.0 - predicted) if targets.quality else cells
            tree = _grow(Z, gradient, curvature, weight=share, depth=int(self.depth), generator=generator)
            tree.values *= self.learning_rate
            trees.append(tree)
            value += tree.values[tree.nodes]
            loss = targets.loss(value[held_out], held_out)
            if loss < best - 1e-5 or not held_out.any():
                best, kept = loss, len(trees)
            elif len(trees) - kept >= _PATIENCE:
                break
        return trees[:kept]

    def _components(self, X: FloatArray) -> FloatArray:
        # float32 as scikit-learn's trees see it: a threshold then parts the same prompts here and there
        return ((X.astype(np.float64) - self.centre_) @ self.axes_).astype(np.float32)

    def _members(self, X: FloatArray) -> FloatArray:
        """Return each member's predictions, shape (members, n, m)."""
        Z = self._components(X)
        trees, rows = np.arange(len(self.owner_)), np.arange(len(Z))[:, None]
        nodes = np.zeros((len(Z), len(trees)), dtype=np.int64)
        for _ in range(self.depth):
            right = Z[rows, self.features_[trees, nodes]] > self.thresholds_[trees, nodes]
            nodes = self.children_[trees, nodes, right.astype(np.int64)]
        steps = self.leaves_[trees, nodes]
        values = np.stack([steps[:, self.owner_ == member].sum(axis=1) for member in range(self.members)])
        values += self.start_
        if self.quality_:
            return np.asarray(0.5 * (1.0 + np.tanh(0.5 * values)) * self.unit_)
        return np.asarray(np.clip(self.level_ + self.unit_ * values, self.least_, self.upper_))

    def _estimate(self, X: FloatArray) -> tuple[FloatArray, FloatArray]:
        return mean_and_error(self._members(X), self.between_, count=self.count_, quality=self.quality_)

    _arrays = (
        *("centre", "axes", "owner", "features", "thresholds", "children", "leaves"),
        *("start", "level", "unit", "least", "count", "between"),
    )

    def _learned(self) -> Learned:
        return {name: getattr(self, f"{name}_") for name in self._arrays}, {"quality": self.quality_}

    def _restore(self, arrays: Mapping[str, FloatArray], values: Mapping[str, Any], index: VectorIndex | None) -> None:
        del index
        self.quality_ = values["quality"]
        for name in self._arrays:
            setattr(self, f"{name}_", arrays[name])


class _Tree:
    """One grown tree: where each node leads, what its leaves add, and where the training prompts ended."""

    def __init__(self, grown: Any, nodes: IntArray, values: FloatArray) -> None:
        itself = np.arange(grown.node_count)
        leaf = grown.children_left < 0
        self.features = np.where(leaf, 0, grown.feature)
        self.thresholds = np.where(leaf, 0.0, grown.threshold)
        self.children = np.stack(
            [np.where(leaf, itself, grown.children_left), np.where(leaf, itself, grown.children_right)], axis=1
        )
        self.nodes, self.values = nodes, values


def _grow(
    Z: FloatArray,
    gradient: FloatArray,
    curvature: FloatArray,
    *,
    weight: FloatArray,
    depth: int,
    generator: np.random.Generator,
) -> _Tree:
    """Grow a tree on gradients (n, m) over components Z (n, p), and set its leaves to Newton steps."""
    from sklearn.tree import DecisionTreeRegressor

    used = weight > 0
    target = gradient / np.where(used, weight, 1.0)[:, None]
    regressor = DecisionTreeRegressor(
        max_depth=depth,
        min_samples_leaf=max(5, int(0.005 * len(Z))),
        max_features="sqrt",
        random_state=int(generator.integers(2**31)),
    )
    regressor.fit(Z[used], target[used], sample_weight=weight[used])
    nodes = regressor.tree_.apply(Z)
    values = np.zeros((regressor.tree_.node_count, gradient.shape[1]))
    for node in np.unique(nodes):
        rows = nodes == node
        step = gradient[rows].sum(axis=0) / (curvature[rows].sum(axis=0) + _LEAF_PRIOR)
        values[node] = np.clip(step, -_LARGEST_LEAF, _LARGEST_LEAF)
    return _Tree(regressor.tree_, nodes, values)


def _stack(
    trees: list[_Tree], *, models: int
) -> tuple[npt.NDArray[np.int64], FloatArray, npt.NDArray[np.int64], FloatArray]:
    """Return features, thresholds, children and leaves of all trees, padded to the largest."""
    most = max((len(tree.features) for tree in trees), default=1)
    features, thresholds = np.zeros((len(trees), most), dtype=np.int64), np.zeros((len(trees), most))
    children, leaves = np.zeros((len(trees), most, 2), dtype=np.int64), np.zeros((len(trees), most, models))
    for number, tree in enumerate(trees):
        size = len(tree.features)
        features[number, :size], thresholds[number, :size] = tree.features, tree.thresholds
        children[number, :size], leaves[number, :size] = tree.children, tree.values
    return features, thresholds, children, leaves
