"""Ways of holding the training prompts in less, or of finding their neighbours less exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llmrouter.encoders import encode_cached, load_encoder
from llmrouter.index import ExactIndex, Neighbors
from llmrouter.registry import create
from llmrouter.routers import Router
from llmrouter.types import FloatArray

K, SHRINKAGE = 100, 5.0
"""Of the kNN router behind every row of the table: the default of an untuned one."""
DEFAULT_ENCODER = "form"
ENCODERS = ("form", "static", "minilm")
RECALLS = (0.99, 0.95, 0.9, 0.8, 0.5)
BITS = (16, 8, 4, 2, 1)
DIMENSIONS = (128, 64, 32, 16, 8, 4)
SHARES = (0.5, 0.2, 0.1, 0.05, 0.02)


@dataclass(frozen=True)
class Approximation:
    """A row of the table.

    Attributes
    ----------
    group : str
        What is varied.
    name : str
        How far.
    encoder : str
        Of the embeddings.
    prepare : callable
        Takes the embeddings (r, d) that are stored and those that ask (q, d); returns both as they are used.
    fit : callable
        Takes stored embeddings, outcomes (r, m) and a seed; returns the fitted router.
    per_prompt : callable
        Takes the dimension d; returns the bytes that a stored prompt's vector takes.
    """

    group: str
    name: str
    encoder: str = DEFAULT_ENCODER
    prepare: Callable[[FloatArray, FloatArray], tuple[FloatArray, FloatArray]] = field(default=lambda X, Q: (X, Q))
    fit: Callable[[FloatArray, FloatArray, int], Router] = field(default=lambda X, y, seed: knn(X, y, seed))
    per_prompt: Callable[[int], float] = field(default=lambda d: 4.0 * d)


class LossyIndex(ExactIndex):
    """Exact search that then misses each neighbour with a chance of its own; the next ones take the places.

    Parameters
    ----------
    dimension : int
        Of the rows.
    recall : float
        Chance that a neighbour is found, in (0, 1].
    seed : int
        Of the chances: a prompt's neighbours are missed alike in every search.
    """

    def __init__(self, dimension: int, *, recall: float, seed: int) -> None:
        super().__init__(dimension)
        self._recall = recall
        self._seed = seed

    def search(self, X: FloatArray, k: int, **options: Any) -> Neighbors:
        """Return what is found of the nearest rows."""
        more = min(len(self), math.ceil(k / self._recall + 5 * math.sqrt(k)))
        found = super().search(X, more, **options)
        chance = np.random.default_rng([self._seed, found.ids.shape[1]]).random(found.ids.shape)
        # Missed ones last, each part in its order.
        order = np.argsort(chance >= self._recall, axis=1, kind="stable")[:, : min(k, len(self))]
        return Neighbors(
            np.take_along_axis(found.ids, order, axis=1), np.take_along_axis(found.similarities, order, axis=1)
        )


def knn(X: FloatArray, y: FloatArray, seed: int) -> Router:
    """Return the kNN router behind every row."""
    del seed
    router: Router = create("router", "knn", k=min(K, len(X)), shrinkage=SHRINKAGE)
    return router.fit(X, y)


def approximations(encoders: tuple[str, ...] = ENCODERS) -> list[Approximation]:
    """Return all rows: exact first, then what is varied, each from fine to coarse."""
    rows = [Approximation("exact", "exact, float32")]
    rows += [
        Approximation("recall", f"{recall:.2f}", fit=_lossy(recall), per_prompt=lambda d: 4.0 * d) for recall in RECALLS
    ]
    rows += [
        Approximation("bits a number", str(bits), prepare=_quantised(bits), per_prompt=_bytes(bits)) for bits in BITS
    ]
    rows += [
        Approximation("dimensions (PCA)", str(count), prepare=_projected(count), per_prompt=_of(count))
        for count in DIMENSIONS
    ]
    rows += [Approximation("encoder", name, encoder=name) for name in encoders if name != DEFAULT_ENCODER]
    rows += [
        Approximation("prompts kept at random", f"{share:.0%}", fit=_thinned(share), per_prompt=_scaled(share))
        for share in SHARES
    ]
    rows += [
        Approximation("condensed", f"{share:.0%}", fit=_condensed(share), per_prompt=_scaled(share)) for share in SHARES
    ]
    return rows


def embed(name: str, texts: list[str]) -> FloatArray:
    """Return embeddings (n, d), from the cache on disk where they are."""
    return encode_cached(load_encoder(name), texts)


def _bytes(bits: int) -> Callable[[int], float]:
    return lambda d: bits * d / 8


def _of(count: int) -> Callable[[int], float]:
    return lambda d: 4.0 * min(count, d)


def _scaled(share: float) -> Callable[[int], float]:
    return lambda d: 4.0 * d * share


def _lossy(recall: float) -> Callable[[FloatArray, FloatArray, int], Router]:
    def fit(X: FloatArray, y: FloatArray, seed: int) -> Router:
        index = LossyIndex(X.shape[1], recall=recall, seed=seed)
        index.add(np.arange(len(X), dtype=np.int64), X)
        router: Any = create("router", "knn", k=min(K, len(X)), shrinkage=SHRINKAGE)
        fitted: Router = router.fit_shared(index, y)
        return fitted

    return fit


def _quantised(bits: int) -> Callable[[FloatArray, FloatArray], tuple[FloatArray, FloatArray]]:
    """Quantise the stored rows by column, as FAISS does it; those that ask stay as they are."""

    def prepare(X: FloatArray, Q: FloatArray) -> tuple[FloatArray, FloatArray]:
        if bits == 16:
            return X.astype(np.float16).astype(np.float32), Q
        low, high = X.min(axis=0), X.max(axis=0)
        step = np.where(high > low, (high - low) / 2**bits, 1.0).astype(np.float32)
        cells = np.clip(np.floor((X - low) / step), 0, 2**bits - 1)
        return np.asarray(low + (cells + 0.5) * step, dtype=np.float32), Q

    return prepare


def _projected(count: int) -> Callable[[FloatArray, FloatArray], tuple[FloatArray, FloatArray]]:
    """Keep the first principal directions of the stored rows, not centred: cosines are about the origin."""

    def prepare(X: FloatArray, Q: FloatArray) -> tuple[FloatArray, FloatArray]:
        if count >= X.shape[1]:
            return X, Q
        _, vectors = np.linalg.eigh(X.T.astype(np.float64) @ X)
        axes = vectors[:, ::-1][:, :count].astype(np.float32)
        return X @ axes, Q @ axes

    return prepare


def _thinned(share: float) -> Callable[[FloatArray, FloatArray, int], Router]:
    def fit(X: FloatArray, y: FloatArray, seed: int) -> Router:
        kept = np.random.default_rng(seed).permutation(len(X))[: max(1, round(share * len(X)))]
        kept.sort()
        return knn(X[kept], y[kept], seed)

    return fit


def _condensed(share: float) -> Callable[[FloatArray, FloatArray, int], Router]:
    def fit(X: FloatArray, y: FloatArray, seed: int) -> Router:
        settings: Mapping[str, Any] = {"k": K, "share": share, "shrinkage": SHRINKAGE, "seed": seed}
        router: Router = create("router", "condensed-knn", **settings)
        return router.fit(X, y)

    return fit
