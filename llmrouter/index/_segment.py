"""A segment: rows that never change, sorted by id, with the structure that searches them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from llmrouter.index._base import Neighbors
from llmrouter.index._faiss_check import load_faiss
from llmrouter.index._kinds import IndexKind
from llmrouter.index._ranking import BoolArray, exact_candidates, max_length
from llmrouter.index._resident import Scan, resident
from llmrouter.index._rows import DecodedRows, MemoryRows, Rows
from llmrouter.index._structure import Structure, build
from llmrouter.index._torch_scan import TorchScan
from llmrouter.types import FloatArray, IntArray


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
    structure : Structure, FaissScan, TorchScan or None
        What finds candidates; None where all rows are scanned in host memory.
    max_length : float
        Length of the longest row.
    name : str
        Its files on disk; empty where it has none.
    """

    ids: IntArray
    times: FloatArray
    rows: Rows
    structure: Structure | Scan | None
    max_length: float
    name: str = ""

    @classmethod
    def of(
        cls, kind: IndexKind, ids: IntArray, times: FloatArray, rows: FloatArray, *, like: Segment | None = None
    ) -> Segment:
        """Return a segment of new rows (n, d), whatever their order; some may be of a segment `like` this."""
        order = np.argsort(ids, kind="stable")
        ids, times, rows = ids[order], times[order], np.ascontiguousarray(rows[order], dtype=np.float32)
        stored: Rows = MemoryRows(rows)
        if kind.resident:
            return cls(ids, times, stored, resident(kind, stored), max_length(rows))
        structure = build(kind, rows, like=like.structure if like and isinstance(like.structure, Structure) else None)
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
        if self.structure is None or isinstance(self.structure, TorchScan):
            return exact_candidates(queries, self.rows.all(), k, alive, self.max_length)
        found = self.structure.candidates(queries, k, alive)
        return [row[row >= 0] for row in found]

    def nearest(self, queries: FloatArray, k: int, alive: BoolArray | None) -> Neighbors | None:
        """Return the `k` nearest living rows, or all, ranked, where the structure ranks them; else None."""
        if not isinstance(self.structure, TorchScan):
            return None
        found = self.structure.nearest(queries, k, alive)
        return Neighbors(self.ids[found.ids], found.similarities)


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
