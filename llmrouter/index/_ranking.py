"""The same neighbours from every index, in any batch, with any number of threads.

Matrix products round differently with the number of rows, the number of threads and the BLAS. An index therefore
uses them only to find *candidates*: every row whose product comes within the rounding error of the k-th best. Their
similarities are then computed anew in double precision, one row like the other, and ranked by those.
"""

from __future__ import annotations

import numpy as np

from llmrouter.types import FloatArray, IntArray


def rounding_error(queries: FloatArray, max_length: float) -> FloatArray:
    """Bound the error of float32 inner products of each query (n, d) with rows up to `max_length` long, shape (n,).

    The classical bound, d units of rounding of the product of lengths (Higham, "Accuracy and Stability of Numerical
    Algorithms", section 3.1), twice over, since two products are compared.
    """
    lengths = np.sqrt(np.einsum("ij,ij->i", queries, queries, dtype=np.float64))
    error: FloatArray = 2.0 * queries.shape[1] * np.finfo(np.float32).eps * lengths * max_length
    return error


def rank(query: FloatArray, rows: FloatArray, ids: IntArray, k: int) -> tuple[IntArray, FloatArray]:
    """Return ids and similarities of the `k` best of the candidates `rows` (c, d): by similarity, then smaller id.

    Rows whose similarities agree in single precision are tied.
    """
    # Not a matrix product: one dot product a row is the same whatever the other rows are.
    similarities = np.vecdot(rows.astype(np.float64), query.astype(np.float64)).astype(np.float32)
    order = np.lexsort((ids, -similarities))[:k]
    return ids[order], similarities[order]


def max_length(rows: FloatArray) -> float:
    """Return the length of the longest row of (n, d); 0 for none."""
    if not len(rows):
        return 0.0
    return float(np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64).max()))
