"""A log in fewer rows: prototypes, each standing for the prompts around it."""

from __future__ import annotations

import numpy as np

from llmrouter.routers._clusters import nearest_clusters, spherical_kmeans, unit_rows
from llmrouter.types import FloatArray

_MOST_AT_ONCE = 256
"""Prototypes that one run of k-means finds; more are found region by region."""


def prototypes(X: FloatArray, count: int, *, weight: FloatArray, seed: int) -> FloatArray:
    """Return at most `count` unit centroids, shape (p, d) float32, as dense as the prompts X (n, d) are.

    Regions come first, about the square root of `count` of them, then each region's own centroids, as many as its
    share of the distinct prompts: so the work grows with ``n * sqrt(count)`` and not with ``n * count``. Neither the
    order of the prompts nor the spelling of a weight as a repetition changes the result.

    Parameters
    ----------
    X : array of shape (n, d)
        Embeddings.
    count : int
        Wanted; fewer where there are fewer distinct prompts.
    weight : array of shape (n,)
        Weights > 0.
    seed : int
        Of k-means++.
    """
    if count <= _MOST_AT_ONCE:
        return spherical_kmeans(X, count, weight=weight, seed=seed)
    regions = spherical_kmeans(X, round(count**0.5), weight=weight, seed=seed)
    assigned = np.argmax(unit_rows(X).astype(np.float32) @ regions.T, axis=1)
    members = [np.flatnonzero(assigned == region) for region in range(len(regions))]
    sizes = np.array([distinct_count(X[rows]) for rows in members], dtype=np.float64)
    shares = np.maximum(np.round(count * sizes / sizes.sum()), 1).astype(np.int64)
    found = [
        prototypes(X[rows], int(share), weight=weight[rows], seed=seed)
        for rows, share in zip(members, shares, strict=True)
        if len(rows)
    ]
    return np.concatenate(found)


def distinct_count(X: FloatArray) -> int:
    """Return the number of distinct rows of X (n, d)."""
    rows = np.ascontiguousarray(X + 0.0)
    return len(np.unique(rows.view(f"V{rows.itemsize * rows.shape[1]}"))) if len(rows) else 0


def nearest_prototype(X: FloatArray, centroids: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the nearest centroid (p, d) of each row of X (n, d), shape (n,), and its cosine, shape (n,).

    In pieces, so that a million rows and a hundred thousand centroids fit into memory.
    """
    chosen, cosine = np.empty(len(X), dtype=np.int64), np.empty(len(X))
    piece = max(1, 20_000_000 // max(len(centroids), 1))
    for start in range(0, len(X), piece):
        rows = unit_rows(X[start : start + piece]).astype(np.float32)
        # The best by a matrix product, whose last bits depend on its company, then the near ones compared exactly.
        rough = rows @ centroids.T
        near = nearest_clusters(rough, 4)
        exact = np.stack(
            [np.vecdot(rows.astype(np.float64), centroids[column].astype(np.float64)) for column in near.T], axis=1
        )
        best = exact.max(axis=1)
        tied = np.where(exact >= best[:, None], near, len(centroids))
        chosen[start : start + piece], cosine[start : start + piece] = tied.min(axis=1), best
    return chosen, cosine
