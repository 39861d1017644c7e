"""Outcomes of one model in the embedding space: how far apart they are, and whose are near."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmrouter.learning._trust_limits import Backing, BoolArray
from llmrouter.types import FloatArray, IntArray

ROUNDING = 1e-6
_WELL_SERVED = 0.9


@dataclass(frozen=True)
class Crowd:
    """Judged outcomes of one model, c of them, sorted by source.

    Attributes
    ----------
    X : array of shape (c, d)
        Embeddings.
    source : array of shape (c,), int
        Code of each outcome's source, ascending.
    established : array of shape (c,), bool
        Whether that source is established.
    quality, weight : arrays of shape (c,)
        Judgements and their weights.
    """

    X: FloatArray
    source: IntArray
    established: BoolArray
    quality: FloatArray
    weight: FloatArray

    @property
    def starts(self) -> IntArray:
        """Where each source begins, (s,)."""
        changes = np.flatnonzero(np.diff(self.source)) + 1
        return np.concatenate([np.zeros(min(len(self.source), 1), dtype=np.int64), changes])


def distances(X: FloatArray, crowd: Crowd) -> FloatArray:
    """Return cosine distances (b, c) of rows of unit length."""
    return np.maximum(1.0 - (X @ crowd.X.T).astype(np.float64), 0.0)


def reach_of(crowd: Crowd, sources: float, backing: Backing, *, most: int = 1000) -> float:
    """Return the distance within which nine in ten established outcomes find that many established other sources.

    Sources count by their voices, see `Backing`.

    Of larger crowds an evenly spread sample of `most` outcomes is measured. Infinite where no outcome finds them.
    """
    rows = np.flatnonzero(crowd.established)
    if not sources or not len(rows):
        return np.inf
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), most)).astype(np.int64))]
    nearest = nearest_of_sources(distances(crowd.X[rows], crowd), crowd, crowd.source[rows], 1)
    needed = radius_of(nearest, backing.voices(crowd.source[crowd.starts]), sources, np.inf)
    needed = needed[np.isfinite(needed)]
    return float(np.quantile(needed, _WELL_SERVED)) if len(needed) else np.inf


def nearest_of_sources(away: FloatArray, crowd: Crowd, own: IntArray, each: int) -> FloatArray:
    """Return the distances to the nearest outcomes of every established source but one's own, (b, each * s)."""
    starts = crowd.starts
    shut = ~crowd.established[starts][None, :] | (crowd.source[starts][None, :] == own[:, None])
    place = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(crowd.source))))
    left, found = away, []
    for _ in range(each):
        nearest = np.minimum.reduceat(left, starts, axis=1)
        found.append(np.where(shut, np.inf, nearest))
        if len(found) < each:
            left = np.where(left <= nearest[:, place], np.inf, left)
    return np.concatenate(found, axis=1)


def radius_of(nearest: FloatArray, filled: FloatArray, wanted: float, reach: float) -> FloatArray:
    """Return the distance at which the nearest outcomes, (b, c), fill what is wanted, at most `reach`, (b,)."""
    order = np.argsort(nearest, axis=1, kind="stable")
    enough = np.cumsum(filled[order], axis=1) >= wanted - ROUNDING
    last = np.take_along_axis(np.take_along_axis(nearest, order, axis=1), enough.argmax(axis=1)[:, None], axis=1)[:, 0]
    return np.asarray(np.minimum(np.where(enough.any(axis=1), last, np.inf), reach))


def nth_smallest(values: FloatArray, n: int) -> FloatArray:
    """Return the n-th smallest of each row, (b,), the largest where there are fewer."""
    place = min(n, values.shape[1]) - 1
    return np.asarray(np.partition(values, place, axis=1)[:, place])
