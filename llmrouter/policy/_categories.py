"""Categories of prompts: task labels or k-means clusters, and the nearest centroid as classifier."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmrouter.policy._facts import Calibration
from llmrouter.types import FloatArray, IntArray

_ITERATIONS = 50


@dataclass(frozen=True)
class Categories:
    """Named categories with their centroids.

    Attributes
    ----------
    names : tuple of str, length k
        Task labels, or ``cluster-0`` ...
    centroids : array of shape (k, d)
        Unit rows.
    temperature : float
        Of the softmax over cosine similarities that is taken for the probability of each category.
    """

    names: tuple[str, ...]
    centroids: FloatArray
    temperature: float

    def probabilities(self, X: FloatArray) -> FloatArray:
        """Return the probability of each category for embeddings of shape (n, d) or (d,): (n, k) or (k,)."""
        similarity = unit_rows(X) @ self.centroids.T
        weight = np.exp((similarity - similarity.max(axis=-1, keepdims=True)) / self.temperature)
        probabilities: FloatArray = weight / weight.sum(axis=-1, keepdims=True)
        return probabilities


def find_categories(
    calibration: Calibration, source: str, *, clusters: int, temperature: float, seed: int
) -> Categories:
    """Return the categories of a calibration.

    Parameters
    ----------
    calibration : Calibration
        Its task labels or embeddings are used.
    source : {"auto", "tasks", "clusters"}
        "auto" takes the task labels where every prompt has one and there are several, else clusters.
    clusters : int
        Number of clusters; fewer where there are fewer prompts.
    temperature : float
        See `Categories`.
    seed : int
        Of the clusters' starting points.
    """
    X = unit_rows(calibration.embeddings)
    labels = [task for task in calibration.tasks if task is not None]
    named = len(labels) == len(calibration) and len(set(labels)) > 1
    if source == "tasks" or (source == "auto" and named):
        names = sorted(set(labels))
        tasks = np.array([task or "" for task in calibration.tasks])
        centroids = np.stack([X[tasks == name].mean(axis=0) for name in names])
        return Categories(tuple(names), unit_rows(centroids), temperature)
    centroids = cluster(X, min(clusters, len(calibration)), seed=seed)
    return Categories(tuple(f"cluster-{c}" for c in range(len(centroids))), centroids, temperature)


def unit_rows(X: FloatArray) -> FloatArray:
    """Return X with its rows scaled to unit length; zero rows stay."""
    X = np.asarray(X, dtype=np.float64)
    length = np.linalg.norm(X, axis=-1, keepdims=True)
    scaled: FloatArray = X / np.where(length > 0, length, 1.0)
    return scaled


def cluster(X: FloatArray, k: int, *, seed: int) -> FloatArray:
    """Return k unit centroids of unit rows: spherical k-means from k-means++ starts.

    Written out because it runs when an artifact is loaded, where scikit-learn need not be installed.
    """
    rng = np.random.default_rng(seed)
    centroids = _starts(X, k, rng)
    labels: IntArray = np.full(X.shape[0], -1)
    for _ in range(_ITERATIONS):
        similarity = X @ centroids.T
        moved = similarity.argmax(axis=1)
        if np.array_equal(moved, labels):
            break
        labels = moved
        sums = np.zeros_like(centroids)
        np.add.at(sums, labels, X)
        empty = np.flatnonzero(np.bincount(labels, minlength=k) == 0)
        # An empty cluster starts again at one of the rows that fit their own worst.
        sums[empty] = X[np.argsort(similarity.max(axis=1), kind="stable")[: empty.size]]
        centroids = unit_rows(sums)
    return centroids


def _starts(X: FloatArray, k: int, rng: np.random.Generator) -> FloatArray:
    chosen = [int(rng.integers(X.shape[0]))]
    distance = np.maximum(1 - X @ X[chosen[0]], 0.0)
    while len(chosen) < k:
        total = distance.sum()
        row = int(rng.choice(X.shape[0], p=distance / total)) if total > 0 else int(rng.integers(X.shape[0]))
        chosen.append(row)
        distance = np.minimum(distance, np.maximum(1 - X @ X[row], 0.0))
    return X[chosen].copy()
