"""Scans of rows that lie on a GPU: by torch, or by FAISS."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llmrouter.index._devices import faiss_device
from llmrouter.index._faiss_check import faiss_available, load_faiss
from llmrouter.index._kinds import IndexKind
from llmrouter.index._ranking import BoolArray, exact_candidates, max_length, rounding_error
from llmrouter.index._rows import Rows
from llmrouter.index._structure import flat_view
from llmrouter.index._torch_scan import TorchScan
from llmrouter.types import FloatArray, IntArray

# Asked for beyond k, so that rows tied with the k-th are among the candidates.
_SPARE = 16
# The most that FAISS gives a query on a GPU.
_MOST_ON_GPU = 2048
# TensorFloat-32, which FAISS may be told to use, keeps 10 bits of a float32's fraction.
_TF32 = 2.0**-10


@dataclass(frozen=True, slots=True)
class FaissScan:
    """A flat index of FAISS over the rows of a segment, on a GPU or, the same in all else, on the CPU.

    Attributes
    ----------
    faiss : object
        The FAISS index.
    kept : Rows
        The rows in host memory, by which candidates are ranked.
    longest : float
        Length of the longest row.
    most : int
        Candidates that FAISS gives a query at most.
    error : float
        What products are wrong by, beyond the rounding of float32, of rows and queries of length 1.
    held : tuple
        What the FAISS index points into; kept alive with it.

    Notes
    -----
    One search at a time: what FAISS keeps on a GPU is not made for several threads.
    """

    faiss: Any
    kept: Rows
    longest: float
    most: int
    error: float = 0.0
    held: tuple[Any, ...] = ()
    _alone: Any = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, kind: IndexKind, kept: Rows) -> FaissScan:
        """Copy the rows to the GPU of `kind`; on the CPU they stay where they are."""
        rows = np.ascontiguousarray(kept.all())
        number = faiss_device(kind.device)[0]
        if number is None:
            return cls(flat_view(rows), kept, max_length(rows), len(rows), held=(rows,))
        library = load_faiss()
        resources = library.StandardGpuResources()
        flat = library.index_cpu_to_gpu(resources, number, library.IndexFlatIP(rows.shape[1]))
        flat.add(rows)
        return cls(flat, kept, max_length(rows), min(_MOST_ON_GPU, len(rows)), 2.0 * _TF32, (resources,))

    def candidates(self, queries: FloatArray, k: int, alive: BoolArray | None) -> list[IntArray]:
        """Return, for each of the (n, d) queries, the positions of all living rows that may be among the `k` nearest.

        FAISS on a GPU cannot leave rows out, so as many more are asked for as are dead. Where that is more than it
        gives, or rows tied with the last of them were cut off, all rows are scanned in host memory.
        """
        living = len(self.kept.all()) if alive is None else int(alive.sum())
        k = min(k, living)
        dead = self.faiss.ntotal - living
        if k == 0:
            return [np.empty(0, dtype=np.int64)] * len(queries)
        if k + dead > self.most:
            return exact_candidates(queries, self.kept.all(), k, alive, self.longest)
        asked = min(2 * k + dead + _SPARE, self.most)
        with self._alone:
            products, positions = self.faiss.search(queries, asked)
        lengths = np.linalg.norm(queries.astype(np.float64), axis=1)
        errors = 2.0 * (rounding_error(queries, self.longest) + self.error * lengths * self.longest)
        found: list[IntArray] = []
        for number, (near, product) in enumerate(zip(positions, products, strict=True)):
            lives = np.ones(asked, np.bool_) if alive is None else alive[near]
            kth = product[lives][k - 1]  # at most `dead` of those asked for are not alive
            if asked < self.faiss.ntotal and not product[-1] < kth - errors[number]:
                query = queries[number : number + 1]
                found += exact_candidates(query, self.kept.all(), k, alive, self.longest)
            else:
                found.append(near[lives & (product >= kth - errors[number])])
        return found


Scan = FaissScan | TorchScan


def resident(kind: IndexKind, kept: Rows) -> Scan | None:
    """Return the scan of `kind` over the rows of a segment; None where so few, or no library, are scanned by numpy."""
    if len(kept.all()) < kind.least_rows:
        return None
    if kind.name == "torch":
        return TorchScan.of(kind, kept)
    return FaissScan.of(kind, kept) if faiss_available() else None
