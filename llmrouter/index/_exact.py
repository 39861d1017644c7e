"""Exact search by matrix products, with numpy alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from llmrouter.index._base import Neighbors
from llmrouter.index._checks import checked_addition, checked_dimension, checked_k, checked_removal, checked_rows
from llmrouter.index._ranking import max_length, rank, rounding_error
from llmrouter.index._storage import FlatFiles, save_flat
from llmrouter.types import FloatArray, IntArray

_FIRST_CAPACITY = 64
# Similarities held at once: bounds memory at 32 MB however many queries come.
_BLOCK_VALUES = 8_000_000


class ExactIndex(FlatFiles):
    """All rows in one float32 array; every search looks at every row.

    Parameters
    ----------
    dimension : int
        Length d of the rows.

    Notes
    -----
    Similarity is the inner product, which is the cosine for rows of unit length. Neighbours do not depend on the batch
    a query comes in, on threads or on the BLAS (see `llmrouter.index._ranking`). Searches may run in several threads;
    adding and removing must not run beside anything else.
    """

    def __init__(self, dimension: int) -> None:
        self._dimension = checked_dimension(dimension)
        self._rows: FloatArray = np.empty((0, self._dimension), dtype=np.float32)
        self._ids: IntArray = np.empty(0, dtype=np.int64)
        self._size = 0
        self._max_length = 0.0

    @property
    def dimension(self) -> int:
        """Length d of the rows."""
        return self._dimension

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._size

    def add(self, ids: IntArray, vectors: FloatArray, /) -> None:
        """Add rows: `ids` of shape (n,), `vectors` of shape (n, d).

        Raises
        ------
        VectorIndexError
            On a wrong shape, NaN, or an id that repeats or is there already; the index is unchanged then.
        """
        new_ids, rows = checked_addition(ids, vectors, dimension=self._dimension, stored=self._ids[: self._size])
        end = self._size + len(new_ids)
        self._reserve(end)
        self._rows[self._size : end] = rows
        self._ids[self._size : end] = new_ids
        self._max_length = max(self._max_length, max_length(rows))
        self._size = end

    def remove(self, ids: IntArray, /) -> None:
        """Remove rows by id.

        Raises
        ------
        VectorIndexError
            If an id is not there or repeats; the index is unchanged then.
        """
        stored = self._ids[: self._size]
        keep = ~np.isin(stored, checked_removal(ids, stored=stored))
        kept = int(keep.sum())
        self._rows[:kept] = self._rows[: self._size][keep]
        self._ids[:kept] = stored[keep]
        self._size = kept

    def search(self, queries: FloatArray, k: int, /) -> Neighbors:
        """Return the `k` most similar rows of each of the (n, d) queries, ties by smaller id.

        Raises
        ------
        VectorIndexError
            On a wrong shape, NaN, or `k` below 1.
        """
        queries = checked_rows(queries, self._dimension, name="queries")
        k = min(checked_k(k), self._size)
        found = Neighbors(np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32))
        if k == 0:
            return found
        rows, ids = self._rows[: self._size], self._ids[: self._size]
        block = max(1, _BLOCK_VALUES // self._size)
        for start in range(0, len(queries), block):
            chunk = queries[start : start + block]
            products = chunk @ rows.T
            # The k-th best may come out too low and a better row too low again: twice the error of one product.
            thresholds = np.partition(products, self._size - k, axis=1)[:, self._size - k]
            thresholds = thresholds - 2.0 * rounding_error(chunk, self._max_length)
            for row, (query, product, threshold) in enumerate(zip(chunk, products, thresholds, strict=True), start):
                near = np.flatnonzero(product >= threshold)
                found.ids[row], found.similarities[row] = rank(query, rows[near], ids[near], k)
        return found

    def save(self, folder: Path, /) -> None:
        """Write the index into `folder` (safetensors and JSON)."""
        save_flat(Path(folder), ids=self._ids[: self._size], vectors=self._rows[: self._size])

    def _reserve(self, size: int) -> None:
        if size <= len(self._rows):
            return
        capacity = max(size, 2 * len(self._rows), _FIRST_CAPACITY)
        rows = np.empty((capacity, self._dimension), dtype=np.float32)
        ids = np.empty(capacity, dtype=np.int64)
        rows[: self._size] = self._rows[: self._size]
        ids[: self._size] = self._ids[: self._size]
        self._rows, self._ids = rows, ids
