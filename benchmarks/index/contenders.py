"""What is compared: our kinds of index, and libraries where they are installed."""

from __future__ import annotations

import importlib
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from llmrouter.index import StoredIndex, VectorIndex, create_index, parse_kind
from llmrouter.index._state import MAX_SEGMENT_ROWS
from llmrouter.registry import parse_spec
from llmrouter.types import FloatArray, IntArray

OURS = (
    "exact",
    "faiss-flat",
    "flat",
    "hnsw",
    "ivf-flat",
    "ivf-int8",
    "ivf-int8:keep=False",
    "ivf-pq",
    "ivf-pq:keep=False",
    "fp16",
    "int8",
    "int8:keep=False",
    "stored flat",
    "stored hnsw",
)
PEERS = {"sklearn brute": "sklearn", "usearch": "usearch", "hnswlib": "hnswlib"}
"""Name -> package that must be installed."""
LARGE = ("stored ivf-pq:keep=False", "stored ivf-int8:keep=False", "stored int8:keep=False", "stored flat")
"""Measured at ten million rows: what fits into 24 GiB."""
_M, _EF_CONSTRUCTION, _EF_SEARCH = 32, 80, 128
"""Of the graphs of usearch and hnswlib: links and construction as ours; a search keeps a few more than k = 100, or as
many as the name says, as in ``hnswlib:search=512``."""


class Contender(Protocol):
    """One index under measurement."""

    def add(self, ids: IntArray, rows: FloatArray, /) -> None:
        """Take rows (n, d)."""
        ...

    def search(self, query: FloatArray, k: int, /) -> IntArray:
        """Return the ids (k,) nearest to one query (d,)."""
        ...

    def facts(self) -> dict[str, Any]:
        """Return what else is worth a column."""
        ...


class Ours:
    """An index of this package in memory."""

    def __init__(self, spec: str, dimension: int, rows: int) -> None:
        self.index: VectorIndex = create_index(spec, dimension, rows=rows)

    def add(self, ids: IntArray, rows: FloatArray, /) -> None:
        """Take rows (n, d)."""
        self.index.add(ids, rows)

    def search(self, query: FloatArray, k: int, /) -> IntArray:
        """Return the ids (k,) nearest to one query (d,)."""
        found: IntArray = self.index.search(query[None], k).ids[0]
        return found

    def facts(self) -> dict[str, Any]:
        """Return nothing more."""
        return {}


class Stored:
    """An index of this package in a folder."""

    def __init__(self, spec: str, dimension: int, rows: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="index-benchmark-")
        self._path = Path(self._folder.name) / "index"
        self.index = StoredIndex.create(self._path, dimension, parse_kind(spec, dimension, rows=rows))
        self._waiting: list[tuple[IntArray, FloatArray]] = []
        self._rows = rows

    def add(self, ids: IntArray, rows: FloatArray, /) -> None:
        """Take rows (n, d): as a bulk load does, as many at once as a segment may hold."""
        self._waiting.append((ids, rows))
        waiting = sum(len(part) for part, _ in self._waiting)
        if waiting >= min(MAX_SEGMENT_ROWS, self._rows - len(self.index)):
            parts = list(zip(*self._waiting, strict=True))
            self._waiting.clear()
            self.index.add(*(np.concatenate(part) if len(part) > 1 else part[0] for part in parts))

    def search(self, query: FloatArray, k: int, /) -> IntArray:
        """Return the ids (k,) nearest to one query (d,)."""
        found: IntArray = self.index.search(query[None], k).ids[0]
        return found

    def facts(self) -> dict[str, Any]:
        """Return the bytes on disk and how long opening takes, with the files in the page cache."""
        self.index.close()
        started = time.perf_counter()
        self.index = StoredIndex.open(self._path)
        opened = time.perf_counter() - started
        return {"open_s": opened, "disk_bytes": sum(path.stat().st_size for path in self._path.iterdir())}


class SklearnBrute:
    """scikit-learn's brute-force neighbours by cosine."""

    def __init__(self, _dimension: int, _rows: int) -> None:
        neighbours = importlib.import_module("sklearn.neighbors")
        self._model: Any = neighbours.NearestNeighbors(algorithm="brute", metric="cosine", n_jobs=1)
        self._parts: list[FloatArray] = []

    def add(self, _ids: IntArray, rows: FloatArray, /) -> None:
        """Take rows (n, d); the ids are their positions."""
        self._parts.append(rows)
        self._model.fit(np.concatenate(self._parts))

    def search(self, query: FloatArray, k: int, /) -> IntArray:
        """Return the ids (k,) nearest to one query (d,)."""
        found: IntArray = self._model.kneighbors(query[None], k, return_distance=False)[0]
        return found

    def facts(self) -> dict[str, Any]:
        """Return nothing more."""
        return {}


class Usearch:
    """The graph index of usearch."""

    def __init__(self, dimension: int, _rows: int, *, search: int = _EF_SEARCH) -> None:
        module = importlib.import_module("usearch.index")
        self._index: Any = module.Index(
            ndim=dimension, metric="ip", dtype="f32", connectivity=_M, expansion_add=_EF_CONSTRUCTION,
            expansion_search=search,
        )  # fmt: skip

    def add(self, ids: IntArray, rows: FloatArray, /) -> None:
        """Take rows (n, d)."""
        self._index.add(ids, rows, threads=1)

    def search(self, query: FloatArray, k: int, /) -> IntArray:
        """Return the ids (k,) nearest to one query (d,)."""
        return np.asarray(self._index.search(query, k, threads=1).keys, dtype=np.int64)

    def facts(self) -> dict[str, Any]:
        """Return nothing more."""
        return {}


class Hnswlib:
    """The graph index of hnswlib."""

    def __init__(self, dimension: int, rows: int, *, search: int = _EF_SEARCH) -> None:
        module = importlib.import_module("hnswlib")
        self._index: Any = module.Index(space="ip", dim=dimension)
        self._index.init_index(max_elements=rows, M=_M, ef_construction=_EF_CONSTRUCTION)
        self._index.set_ef(search)
        self._index.set_num_threads(1)

    def add(self, ids: IntArray, rows: FloatArray, /) -> None:
        """Take rows (n, d)."""
        self._index.add_items(rows, ids, num_threads=1)

    def search(self, query: FloatArray, k: int, /) -> IntArray:
        """Return the ids (k,) nearest to one query (d,)."""
        return np.asarray(self._index.knn_query(query[None], k, num_threads=1)[0][0], dtype=np.int64)

    def facts(self) -> dict[str, Any]:
        """Return nothing more."""
        return {}


def available(name: str) -> bool:
    """Return whether what `name` needs is installed."""
    peer = name.partition(":")[0]
    if peer in PEERS:
        return find_spec(PEERS[peer]) is not None
    return name.removeprefix("stored ") in ("exact", "flat") or find_spec("faiss") is not None


def make(name: str, dimension: int, rows: int) -> Contender:
    """Return an empty contender."""
    if name == "sklearn brute":
        return SklearnBrute(dimension, rows)
    if name.startswith("stored "):
        return Stored(name.removeprefix("stored "), dimension, rows)
    kind, parameters = parse_spec(name)
    if kind in PEERS:
        graphs: dict[str, Callable[..., Contender]] = {"usearch": Usearch, "hnswlib": Hnswlib}
        return graphs[kind](dimension, rows, **parameters)
    return Ours(name, dimension, rows)
