"""Spherical k-means over embeddings, assigned alike at fit and at serving."""

from __future__ import annotations

import numpy as np

from llmrouter.types import FloatArray, IntArray

_ITERATIONS = 15
_MOST_PROMPTS = 20_000
"""More distinct prompts than this are thinned out evenly to find centroids; all of them count afterwards."""
_MOST_SEEDS = 2_000
"""k-means++ draws its seeds from this many prompts, thinned out evenly: it was the larger part of the time."""


def unit_rows(X: FloatArray) -> FloatArray:
    """Return the rows of X (n, d) in float64 at unit length; a zero row stays zero."""
    X = np.asarray(X, dtype=np.float64)
    lengths = np.sqrt(np.vecdot(X, X))[:, None]
    if lengths.all():  # the usual case, in fewer steps
        return np.asarray(X / lengths)
    return np.asarray(np.divide(X, lengths, out=np.zeros_like(X), where=lengths > 0))


def cosines(X: FloatArray, centroids: FloatArray) -> FloatArray:
    """Return the cosine of each row of X (n, d) with each unit centroid (K, d), shape (n, K), in float64.

    One dot product each instead of a matrix product: the result is the same bits in any batch, so that a prompt gets
    the same cluster at fit and at serving, alone or among others.
    """
    return np.asarray(np.vecdot(unit_rows(X)[:, None], centroids.astype(np.float64)))


def nearest_clusters(similarities: FloatArray, count: int) -> IntArray:
    """Return the `count` most similar clusters of each row (n, K), most similar first, ties by smaller number."""
    count = min(count, similarities.shape[1])
    if count == 1:
        return np.asarray(np.argmax(similarities, axis=1)[:, None], dtype=np.int64)
    return np.asarray(np.argsort(-similarities, axis=1, kind="stable")[:, :count], dtype=np.int64)


def spherical_kmeans(X: FloatArray, clusters: int, *, weight: FloatArray, seed: int) -> FloatArray:
    """Return at most `clusters` unit centroids, shape (K, d) float32, that maximise the mean cosine to the nearest.

    Seeded by k-means++. Equal prompts are merged and put in a fixed order first, so that neither the order of the log
    nor the spelling of a weight as a repetition changes the result. Clusters left empty are dropped.

    Parameters
    ----------
    X : array of shape (n, d)
        Embeddings.
    clusters : int
        K, cut to the number of distinct directions.
    weight : array of shape (n,)
        Weights > 0.
    seed : int
        Of k-means++.
    """
    from sklearn.cluster import kmeans_plusplus

    rows, row_weight = _distinct(unit_rows(X).astype(np.float32), weight)
    rows, row_weight = _thinned(rows, row_weight, most=_MOST_PROMPTS)
    clusters = min(clusters, len(rows))
    few, few_weight = _thinned(rows, row_weight, most=max(_MOST_SEEDS, clusters))
    centroids, _ = kmeans_plusplus(few, clusters, sample_weight=few_weight, random_state=seed)
    weighted = rows * row_weight[:, None].astype(np.float32)
    assigned = np.full(len(rows), -1)
    for _ in range(_ITERATIONS):
        previous, assigned = assigned, np.argmax(rows @ centroids.T, axis=1)
        if np.array_equal(previous, assigned):
            break
        member = np.zeros((len(centroids), len(rows)), dtype=np.float32)
        member[assigned, np.arange(len(rows))] = 1.0
        centroids = unit_rows((member @ weighted)[member.any(axis=1)]).astype(np.float32)
        if len(centroids) < len(member):
            assigned = np.full(len(rows), -1)  # numbers have moved: not to be compared
    return np.ascontiguousarray(centroids, dtype=np.float32)


def _distinct(rows: FloatArray, weight: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the distinct rows in a fixed order and their summed weights."""
    rows = np.ascontiguousarray(rows + 0.0)  # + 0.0: the two zeros are one number but two patterns of bits
    keys = rows.view(f"V{rows.itemsize * rows.shape[1]}").ravel()
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return rows[first], np.bincount(inverse, weights=weight)


def _thinned(rows: FloatArray, weight: FloatArray, *, most: int) -> tuple[FloatArray, FloatArray]:
    """Return at most `most` of the rows, evenly spaced, and their weights."""
    if len(rows) <= most:
        return rows, weight
    pick = np.linspace(0, len(rows) - 1, most).astype(np.int64)
    return rows[pick], weight[pick]
