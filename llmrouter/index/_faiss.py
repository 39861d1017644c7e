"""Exact search with FAISS: blocked products and heaps on all cores, for many rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from llmrouter.index._base import Neighbors
from llmrouter.index._checks import checked_addition, checked_dimension, checked_k, checked_removal, checked_rows
from llmrouter.index._faiss_check import load_faiss
from llmrouter.index._ranking import max_length, rank, rounding_error
from llmrouter.index._storage import FlatFiles, save_flat
from llmrouter.types import FloatArray, IntArray

# Asked for beyond k, so that rows tied with the k-th rarely need a second search.
_SPARE = 16


class FaissFlatIndex(FlatFiles):
    """FAISS ``IndexFlatIP`` under ids of the caller's choice; the same neighbours as `ExactIndex`.

    Parameters
    ----------
    dimension : int
        Length d of the rows.

    Raises
    ------
    MissingExtraError
        If FAISS is not installed.
    ConfigError
        If FAISS is installed twice, for CPU and GPU.

    Notes
    -----
    Searches may run in several threads; adding and removing must not run beside anything else.
    """

    def __init__(self, dimension: int) -> None:
        self._dimension = checked_dimension(dimension)
        self._faiss: Any = load_faiss()
        self._index = self._faiss.IndexFlatIP(self._dimension)
        self._ids: IntArray = np.empty(0, dtype=np.int64)
        self._max_length = 0.0

    @property
    def dimension(self) -> int:
        """Length d of the rows."""
        return self._dimension

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._ids)

    def add(self, ids: IntArray, vectors: FloatArray, /) -> None:
        """Add rows: `ids` of shape (n,), `vectors` of shape (n, d).

        Raises
        ------
        VectorIndexError
            On a wrong shape, NaN, or an id that repeats or is there already; the index is unchanged then.
        """
        new_ids, rows = checked_addition(ids, vectors, dimension=self._dimension, stored=self._ids)
        if not len(new_ids):
            return
        self._index.add(rows)
        self._ids = np.concatenate([self._ids, new_ids])
        self._max_length = max(self._max_length, max_length(rows))

    def remove(self, ids: IntArray, /) -> None:
        """Remove rows by id.

        Raises
        ------
        VectorIndexError
            If an id is not there or repeats; the index is unchanged then.
        """
        gone = np.isin(self._ids, checked_removal(ids, stored=self._ids))
        if not gone.any():
            return
        # FAISS closes the gaps and keeps the order, as the compressed ids do.
        self._index.remove_ids(self._faiss.IDSelectorBatch(np.flatnonzero(gone)))
        self._ids = self._ids[~gone]

    def search(self, queries: FloatArray, k: int, /) -> Neighbors:
        """Return the `k` most similar rows of each of the (n, d) queries, ties by smaller id.

        Raises
        ------
        VectorIndexError
            On a wrong shape, NaN, or `k` below 1.
        """
        queries = checked_rows(queries, self._dimension, name="queries")
        k = min(checked_k(k), len(self))
        found = Neighbors(np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32))
        pending = np.arange(len(queries))
        errors = 2.0 * rounding_error(queries, self._max_length)
        rows = self._rows()
        asked = k + _SPARE
        while k and len(pending):
            asked = min(asked, len(self))
            products, positions = self._index.search(queries[pending], asked)
            # Complete when the last candidate is clearly worse than the k-th, or there is no further row.
            complete = products[:, -1] < products[:, k - 1] - errors[pending]
            if asked == len(self):
                complete[:] = True
            for row, near in zip(pending[complete], positions[complete], strict=True):
                found.ids[row], found.similarities[row] = rank(queries[row], rows[near], self._ids[near], k)
            pending = pending[~complete]
            asked *= 2
        return found

    def save(self, folder: Path, /) -> None:
        """Write the index into `folder` (safetensors and JSON)."""
        save_flat(Path(folder), ids=self._ids, vectors=self._rows())

    def _rows(self) -> FloatArray:
        """Return the rows FAISS holds, shape (n, d), as a view that lives until the next change."""
        if not len(self):
            return np.empty((0, self._dimension), dtype=np.float32)
        flat: FloatArray = self._faiss.rev_swig_ptr(self._index.get_xb(), len(self) * self._dimension)
        return flat.reshape(len(self), self._dimension)
