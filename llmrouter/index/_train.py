"""Building FAISS indexes over the rows of a segment."""

from __future__ import annotations

from typing import Any

import numpy as np

from llmrouter.index._codes import adopt_ranges, as_integers, widest_value
from llmrouter.index._faiss_check import load_faiss
from llmrouter.index._kinds import IndexKind
from llmrouter.types import FloatArray

# Points a centroid is trained on; more hardly moves it and costs in proportion.
_POINTS_PER_LIST = 64
_SCALED_AT_ONCE = 100_000


def train(kind: IndexKind, rows: FloatArray, *, like: Any = None) -> tuple[Any, Any]:
    """Return a FAISS index over `rows` (n, d), and what it points into.

    Where rows are not kept, some of `rows` may have been decoded from a FAISS index `like` this one. What that learned
    is used again as long as it suits the rows, so that these get the codes that they had: rows that are coded anew at
    every merge lose a little each time.
    """
    library = load_faiss()
    d, inner = rows.shape[1], library.METRIC_INNER_PRODUCT
    if kind.name == "hnsw":
        index = library.IndexHNSWFlat(d, kind.m, inner)
        index.hnsw.efConstruction = kind.ef_construction
        index.add(rows)
        return index, None
    like = None if kind.keeps_rows else like
    if kind.name in ("fp16", "int8"):
        code = library.ScalarQuantizer.QT_fp16 if kind.name == "fp16" else library.ScalarQuantizer.QT_8bit
        index = library.IndexScalarQuantizer(d, code, inner)
        index.train(rows)
        adopt_ranges(index, like, rows)
        index.add(rows)
        return index, None
    lists = min(kind.lists or 2 * int(len(rows) ** 0.5), len(rows))
    coarse = library.IndexFlatIP(d)
    if kind.name == "ivf-flat":
        index = library.IndexIVFFlat(coarse, d, lists, inner)
    elif kind.name == "ivf-int8":
        widest = widest_value(rows) if kind.keeps_rows else None
        code = library.ScalarQuantizer.QT_8bit if widest is None else library.ScalarQuantizer.QT_8bit_direct_signed
        by_residual = False  # as exact, and built sooner
        index = library.IndexIVFScalarQuantizer(coarse, d, lists, code, inner, by_residual)
        if widest is not None:
            _fill_with_integers(index, rows, widest)
            coarse = index.quantizer = _centroids_in_bytes(coarse)
            return index, coarse
    elif isinstance(like, library.IndexIVFPQ) and lists / 2 <= like.nlist <= 2 * lists:
        return _with_lists_of(like, rows)
    else:
        index = library.IndexIVFPQ(coarse, d, lists, kind.code_bytes, 8, inner)
    _allow_few_points(index)
    index.train(rows)
    if kind.name == "ivf-int8":
        adopt_ranges(index, like, rows)
    index.add(rows)
    index.make_direct_map()
    return index, coarse


def _allow_few_points(index: Any) -> None:
    index.cp.max_points_per_centroid = _POINTS_PER_LIST
    index.cp.min_points_per_centroid = 1  # said by the caller's choice of lists; no warning to the terminal


def _fill_with_integers(index: Any, rows: FloatArray, widest: np.float32) -> None:
    _allow_few_points(index)
    picked = np.random.default_rng(len(rows)).permutation(len(rows))[: _POINTS_PER_LIST * index.nlist]
    index.train(as_integers(rows[np.sort(picked)], widest))
    for start in range(0, len(rows), _SCALED_AT_ONCE):
        index.add(as_integers(rows[start : start + _SCALED_AT_ONCE], widest))
    index.make_direct_map()


def _centroids_in_bytes(coarse: Any) -> Any:
    """Return the flat index of centroids with these in one byte a value, for queries of whole numbers.

    Every search reads all of them: a quarter of the bytes is a tenth of a search among a million rows (measured). Which
    lists are the nearest hardly changes; rows are put into lists by the centroids themselves.
    """
    library = load_faiss()
    centroids = coarse.reconstruct_n(0, coarse.ntotal)
    code = library.ScalarQuantizer.QT_8bit_direct_signed
    index = library.IndexScalarQuantizer(coarse.d, code, library.METRIC_INNER_PRODUCT)
    index.add(as_integers(centroids, np.abs(centroids).max()))
    return index


def _with_lists_of(like: Any, rows: FloatArray) -> tuple[Any, Any]:
    """Return an index of product codes over `rows` with the lists and the codes' meaning of `like`."""
    library = load_faiss()
    coarse = library.IndexFlatIP(like.d)
    coarse.add(like.quantizer.reconstruct_n(0, like.nlist))
    index = library.IndexIVFPQ(coarse, like.d, like.nlist, like.pq.M, like.pq.nbits, like.metric_type)
    index.pq = like.pq
    index.is_trained = True
    index.add(rows)
    index.make_direct_map()
    return index, coarse
