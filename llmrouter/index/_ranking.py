"""The same neighbours from every index, in any batch, with any number of threads.

Matrix products round differently with the number of rows, the number of threads and the BLAS. An index therefore
uses them only to find *candidates*: every row whose product comes within the rounding error of the k-th best. Their
similarities are then computed anew in double precision, one row like the other, and ranked by those.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from llmrouter.index._base import Neighbors
from llmrouter.types import FloatArray, IntArray

BoolArray = npt.NDArray[np.bool_]


def rounding_error(queries: FloatArray, max_length: float) -> FloatArray:
    """Bound the error of float32 inner products of each query (n, d) with rows up to `max_length` long, shape (n,).

    The classical bound, d units of rounding of the product of lengths (Higham, "Accuracy and Stability of Numerical
    Algorithms", section 3.1), twice over, since two products are compared.
    """
    lengths = np.sqrt(np.einsum("ij,ij->i", queries, queries, dtype=np.float64))
    error: FloatArray = 2.0 * queries.shape[1] * np.finfo(np.float32).eps * lengths * max_length
    return error


def rank(
    query: FloatArray, rows: FloatArray, ids: IntArray, k: int, *, known: Neighbors | None = None
) -> tuple[IntArray, FloatArray]:
    """Return ids and similarities of the `k` best of the candidates `rows` (c, d): by similarity, then smaller id.

    Rows whose similarities agree in single precision are tied. Of `known` rows, ids and similarities are there already.
    """
    # Not a matrix product: one dot product a row is the same whatever the other rows are.
    similarities = np.vecdot(rows.astype(np.float64), query.astype(np.float64)).astype(np.float32)
    if known is not None and len(known.ids):
        ids = np.concatenate([ids, known.ids])
        similarities = np.concatenate([similarities, known.similarities])
    order = np.lexsort((ids, -similarities))[:k]
    return ids[order], similarities[order]


def max_length(rows: FloatArray) -> float:
    """Return the length of the longest row of (n, d); 0 for none."""
    if not len(rows):
        return 0.0
    return float(np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64).max()))


def exact_candidates(
    queries: FloatArray, rows: FloatArray, k: int, alive: BoolArray | None, longest: float
) -> list[IntArray]:
    """Return, for each query, the positions of all rows that may be among the `k` most similar.

    The k-th best product may come out too low and a better row too low again: twice the error of one product.
    """
    living = len(rows) if alive is None else int(alive.sum())
    k = min(k, living)
    if k == 0:
        return [np.empty(0, dtype=np.int64)] * len(queries)
    products = queries @ rows.T
    if alive is not None:
        products[:, ~alive] = -np.inf
    thresholds = np.partition(products, len(rows) - k, axis=1)[:, len(rows) - k]
    thresholds = thresholds - 2.0 * rounding_error(queries, longest)
    return [np.flatnonzero(product >= threshold) for product, threshold in zip(products, thresholds, strict=True)]
