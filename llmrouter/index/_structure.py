"""Approximate search structures of FAISS over the rows of one segment."""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llmrouter.index._codes import as_integers, takes_integers
from llmrouter.index._faiss_check import load_faiss, loaded_faiss
from llmrouter.index._kinds import IndexKind
from llmrouter.index._train import train
from llmrouter.index._trial import Trial, trials_of
from llmrouter.types import FloatArray, IntArray

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger(__name__)

# Asked for beyond k, so that rows tied with the k-th are among the candidates.
_SPARE = 16
# Of rows rounded to whole numbers, which are told apart less well: cheaper than another list.
_SPARE_OF_INTEGERS = 48
# A doubled effort that gains less does not lead to the recall asked for: the codes are too coarse.
_LEAST_GAIN = 0.002
_MAX_OVERFETCH = 32
# Noise of queries near the rows, and how far the recall found may be below the one asked for before it is told.
_NEAR = 0.1
_TOLD = 0.02
_FIRST_EFFORT = {"hnsw": 32, "ivf-flat": 4, "ivf-int8": 4, "ivf-pq": 4}


@dataclass(frozen=True, slots=True)
class Structure:
    """A FAISS index over positions 0..n-1 of a segment.

    Attributes
    ----------
    kind : IndexKind
        What it is.
    faiss : object
        The FAISS index.
    held : object
        What the FAISS index points into; kept alive with it.
    effort : int
        Candidates of the graph search, or lists looked into; 0 for scans.
    overfetch : int
        How many times k are fetched to be re-ranked.
    integers : bool
        Whether rows and queries are scaled and rounded to whole numbers of a byte.
    count : int
        Rows n.
    """

    kind: IndexKind
    faiss: Any
    held: Any = None
    effort: int = 0
    overfetch: int = 1
    integers: bool = False
    count: int = field(init=False)
    # By effort: only read by searches, and dearer to make than to use.
    _parameters: dict[int, Any] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "count", self.faiss.ntotal)
        object.__setattr__(self, "_parameters", {})

    def candidates(self, queries: FloatArray, k: int, alive: FloatArray | None) -> IntArray:
        """Return positions (n, c) of likely neighbours, -1 where there are fewer; `alive` (rows,) says which count.

        Where fewer than `k` come back, as from short inverted lists, those queries are asked again with more effort.
        """
        living = self.count if alive is None else int(alive.sum())
        spare = _SPARE_OF_INTEGERS if self.integers else _SPARE
        asked = min(self.overfetch * k + spare, living)
        if asked == 0:
            return np.empty((len(queries), 0), dtype=np.int64)
        found = self._ask(queries, asked, alive, self.effort)
        last = found[:, min(k, asked) - 1]
        if last.min(initial=0) >= 0:
            return found
        effort, limit = self.effort, getattr(self.faiss, "nlist", self.count)
        short = np.flatnonzero(last < 0)
        while len(short) and 0 < effort < limit:
            effort = min(4 * effort, limit)
            found[short] = self._ask(queries[short], asked, alive, effort)
            short = short[found[short, min(k, asked) - 1] < 0]
        return found

    def _ask(self, queries: FloatArray, asked: int, alive: FloatArray | None, effort: int) -> IntArray:
        if self.integers:
            queries = as_integers(queries, np.abs(queries).max(axis=1, keepdims=True))
        if self.kind.name == "hnsw":
            effort = max(effort, asked)
        parameters = self._parameters.get(effort) if alive is None else None
        if parameters is None:
            parameters = self._made_parameters(effort, alive)
            if alive is None:
                self._parameters[effort] = parameters
        positions: IntArray = self.faiss.search(queries, asked, params=parameters)[1]
        return positions

    def _made_parameters(self, effort: int, alive: FloatArray | None) -> Any:
        library = loaded_faiss()
        chosen: dict[str, Any] = {}
        if alive is not None:
            chosen["sel"] = library.IDSelectorBitmap(np.packbits(alive, bitorder="little"))
        if self.kind.name == "hnsw":
            return library.SearchParametersHNSW(efSearch=effort, **chosen)
        if self.kind.inverted:
            return library.SearchParametersIVF(nprobe=effort, **chosen)
        return library.SearchParameters(**chosen)

    def decode(self, positions: IntArray) -> FloatArray:
        """Return the rows at `positions` as the codes say them, shape (len(positions), d)."""
        if not len(positions):
            return np.empty((0, self.faiss.d), dtype=np.float32)
        rows: FloatArray = self.faiss.reconstruct_batch(np.ascontiguousarray(positions, dtype=np.int64))
        return rows

    def dump(self) -> memoryview:
        """Return the structure as bytes, without the rows a graph points to."""
        library = load_faiss()
        writer = library.VectorIOWriter()
        library.write_index(self.faiss, writer, library.IO_FLAG_SKIP_STORAGE if self.kind.name == "hnsw" else 0)
        return memoryview(library.vector_to_array(writer.data)).cast("B")


def build(kind: IndexKind, rows: FloatArray, *, like: Structure | None = None) -> Structure | None:
    """Return a structure over `rows` (n, d), set to the kind's recall; None where a scan does as well.

    Some of the rows may come out of the codes of a structure `like` this: see `train`.
    """
    if kind.exact or len(rows) < kind.least_rows:
        return None
    with _threads(kind.threads):
        index, held = train(kind, rows, like=None if like is None else like.faiss)
        return _calibrated(Structure(kind, index, held, integers=takes_integers(index)), rows)


def load(kind: IndexKind, path: Path, rows: FloatArray | None, *, effort: int, overfetch: int) -> Structure:
    """Return the structure that `Structure.dump` gave, mapped from `path`; `rows` are what a graph points to."""
    library = load_faiss()
    index = library.read_index(os.fspath(path), library.IO_FLAG_MMAP_IFC)
    held = None
    if kind.name == "hnsw" and rows is not None:
        held = flat_view(rows)
        index.storage = held
        index.own_fields = False
    elif kind.inverted:
        index.make_direct_map()
    return Structure(kind, index, (held, rows), effort, overfetch, takes_integers(index))


def flat_view(rows: FloatArray) -> Any:
    """Return a FAISS flat index that reads `rows` (n, d) where they are, without a copy; they must outlive it."""
    library = load_faiss()
    flat = library.IndexFlatIP(rows.shape[1])
    memory = np.asarray(rows).reshape(-1).view(np.uint8)
    flat.codes = library.MaybeOwnedVectorUInt8.create_view(library.swig_ptr(memory), memory.nbytes, flat.codes.owner)
    flat.ntotal = len(rows)
    return flat


def _calibrated(structure: Structure, rows: FloatArray) -> Structure:
    """Return `structure` with the least effort and overfetch that reach the kind's recall on its trials.

    The trial in which less is found counts. Effort and overfetch are doubled, always the one that gains more, and the
    last doubling of effort is taken back by quarters as far as it goes. Without kept rows nothing can be re-ranked, and
    fetching more does not help.
    """
    kind = structure.kind
    trials = trials_of(structure.faiss, rows, graph=kind.name == "hnsw", inverted=kind.inverted)
    lossy = kind.coded and not kind.keeps_rows

    def recall(effort: int, overfetch: int) -> float:
        return min(
            trial.recall(
                rows,
                replace(structure, effort=effort + trial.lists_left_out, overfetch=overfetch).candidates,
                best_only=lossy,
            )
            for trial in trials
        )

    limit = getattr(structure.faiss, "nlist", len(rows))
    effort = kind.effort or _FIRST_EFFORT.get(kind.name, 0)
    overfetch, reached = 1, recall(effort, 1)
    while reached < kind.recall:
        steps = []
        if kind.effort is None and effort and effort < limit:
            steps.append((min(2 * effort, limit), overfetch))
        if kind.keeps_rows and kind.coded and overfetch < _MAX_OVERFETCH:
            steps.append((effort, 2 * overfetch))
        if not steps:
            break
        best = max((recall(*step), *step) for step in steps)
        if lossy and best[0] < reached + _LEAST_GAIN:
            break
        doubled = best[1] > effort
        reached, effort, overfetch = best
        if doubled and reached >= kind.recall:
            smaller = [effort * quarters // 8 for quarters in (5, 6, 7)]
            effort = next((less for less in smaller if recall(less, overfetch) >= kind.recall), effort)
    chosen = replace(structure, effort=effort, overfetch=overfetch)
    if kind.name == "hnsw" and kind.effort is None:
        # A graph of rows that repeat falls apart, which no effort mends; a query far from all of them does not see it.
        reached = min(reached, Trial.of_moved_rows(rows, _NEAR).recall(rows, chosen.candidates, best_only=False))
    if reached < kind.recall - _TOLD and kind.effort is None:
        logger.warning(
            "%s finds %.2f of the neighbours in a trial on its %d rows, %.2f were asked for: choose another kind (rows "
            "that repeat: ivf-int8), or keep the rows",
            *(kind.name, reached, len(rows), kind.recall),
        )
    return chosen


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let FAISS use `count` threads for what this thread starts."""
    library = load_faiss()
    before = library.omp_get_max_threads()
    library.omp_set_num_threads(count)
    try:
        yield
    finally:
        library.omp_set_num_threads(before)
