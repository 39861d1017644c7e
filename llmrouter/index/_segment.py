"""A segment: rows that never change, sorted by id, with the structure that searches them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from llmrouter.index._faiss_check import load_faiss
from llmrouter.index._kinds import IndexKind
from llmrouter.index._ranking import max_length, rounding_error
from llmrouter.index._rows import DecodedRows, MemoryRows, Rows
from llmrouter.index._structure import Structure, build
from llmrouter.types import FloatArray, IntArray

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows of an index that were written together.

    Attributes
    ----------
    ids : array of shape (n,), int64
        Ids, rising; a smaller position is a smaller id.
    times : array of shape (n,), float64
        When the rows were seen, in seconds since 1970.
    rows : Rows
        The rows themselves.
    structure : Structure or None
        What finds candidates; None where all rows are scanned.
    max_length : float
        Length of the longest row.
    name : str
        Its files on disk; empty where it has none.
    """

    ids: IntArray
    times: FloatArray
    rows: Rows
    structure: Structure | None
    max_length: float
    name: str = ""

    @classmethod
    def of(cls, kind: IndexKind, ids: IntArray, times: FloatArray, rows: FloatArray) -> Segment:
        """Return a segment of new rows (n, d), whatever their order."""
        order = np.argsort(ids, kind="stable")
        ids, times, rows = ids[order], times[order], np.ascontiguousarray(rows[order], dtype=np.float32)
        structure = build(kind, rows)
        stored: Rows = MemoryRows(rows)
        if structure is not None and not kind.keeps_rows:
            stored = DecodedRows(structure)
        elif structure is not None and kind.name == "hnsw":
            structure, stored = _without_a_second_copy(structure, len(rows))
        return cls(ids, times, stored, structure, max_length(rows))

    def named(self, name: str) -> Segment:
        """Return the same segment with its files' name."""
        return replace(self, name=name)

    def positions_of(self, ids: IntArray) -> IntArray:
        """Return the position of each of `ids`, -1 where it is not here."""
        if not len(self.ids):
            return np.full(len(ids), -1, dtype=np.int64)
        at = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        found: IntArray = np.where(self.ids[at] == ids, at, -1)
        return found

    def candidates(self, queries: FloatArray, k: int, alive: BoolArray | None) -> list[IntArray]:
        """Return, for each of the (n, d) queries, the positions of likely neighbours among the living rows."""
        if self.structure is None:
            return exact_candidates(queries, self.rows.all(), k, alive, self.max_length)
        found = self.structure.candidates(queries, k, alive)
        return [row[row >= 0] for row in found]


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


def _without_a_second_copy(structure: Structure, count: int) -> tuple[Structure, Rows]:
    """Return the graph and a view of the rows it holds, in place of the rows it was built from."""
    library = load_faiss()
    storage = library.downcast_index(structure.faiss.storage)
    view = library.rev_swig_ptr(storage.get_xb(), count * structure.faiss.d).reshape(count, structure.faiss.d)
    return replace(structure, held=storage), _GraphRows(view, structure)


@dataclass(frozen=True, slots=True)
class _GraphRows(MemoryRows):
    """A view of rows that live as long as the graph that holds them."""

    graph: Structure
