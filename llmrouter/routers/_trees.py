"""Forests as flat arrays, walked by numpy alone: what scikit-learn grew, a gateway can serve without it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from llmrouter.types import FloatArray, IntArray

_BLOCK = 1024


@dataclass(frozen=True)
class FlatForest:
    """T trees in one set of arrays; siblings stand side by side, and a leaf leads to itself.

    Attributes
    ----------
    roots : array of shape (T,)
        First node of each tree.
    feature : array of shape (nodes,)
        Column tested; 0 at leaves.
    threshold : array of shape (nodes,)
        Go right where the value is larger; inf at leaves.
    child : array of shape (nodes,)
        Left child, the right one is the next node; a leaf's own number at leaves.
    depth : int
        Of the deepest tree.
    """

    roots: IntArray
    feature: IntArray
    threshold: FloatArray
    child: IntArray
    depth: int

    @classmethod
    def from_sklearn(cls, trees: Sequence[Any]) -> Self:
        """Convert the public `tree_` objects of fitted scikit-learn trees."""
        parts = [_breadth_first(tree) for tree in trees]
        starts = np.cumsum([0, *(len(feature) for feature, _, _ in parts)])
        return cls(
            roots=starts[:-1].astype(np.int64),
            feature=np.concatenate([feature for feature, _, _ in parts]),
            threshold=np.concatenate([threshold for _, threshold, _ in parts]),
            child=np.concatenate([child + start for (_, _, child), start in zip(parts, starts, strict=False)]),
            depth=max(int(tree.max_depth) for tree in trees),
        )

    def leaves(self, features: FloatArray) -> IntArray:
        """Return the leaf each tree sends each row of `features` (n, columns) to, shape (n, T)."""
        if len(features) == 1:  # one request: fewer, smaller steps
            row, node = features[0], self.roots
            for _ in range(self.depth):
                node = self.child.take(node) + (row.take(self.feature.take(node)) > self.threshold.take(node))
            return node[None]
        found = np.empty((len(features), len(self.roots)), dtype=np.int64)
        for start in range(0, len(features), _BLOCK):
            block = np.ascontiguousarray(features[start : start + _BLOCK])
            first = np.arange(0, block.size, block.shape[1])[:, None]
            node = np.broadcast_to(self.roots, (len(block), len(self.roots)))
            for _ in range(self.depth):
                tested = block.take(self.feature.take(node) + first)
                node = self.child.take(node) + (tested > self.threshold.take(node))
            found[start : start + _BLOCK] = node
        return found

    def arrays(self) -> dict[str, FloatArray]:
        """Return the arrays of a state."""
        return {name: getattr(self, name) for name in ("roots", "feature", "threshold", "child")}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, FloatArray], *, depth: int) -> Self:
        """Rebuild from `arrays()`."""
        return cls(**{name: arrays[name] for name in ("roots", "feature", "threshold", "child")}, depth=depth)


def _breadth_first(tree: Any) -> tuple[IntArray, FloatArray, IntArray]:
    """Return feature, threshold and child of one tree, its nodes renumbered breadth first."""
    left, right = tree.children_left, tree.children_right
    order: list[int] = [0]
    for node in order:  # grows while it is walked
        if left[node] >= 0:
            order += [int(left[node]), int(right[node])]
    number = np.empty(len(order), dtype=np.int64)
    number[order] = np.arange(len(order))
    old = np.asarray(order)
    leaf = left[old] < 0
    child = np.where(leaf, np.arange(len(order)), number[left[old]])
    return np.where(leaf, 0, tree.feature[old]), np.where(leaf, np.inf, tree.threshold[old]), child
