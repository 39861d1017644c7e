"""An index in segments: searches go on while rows are added, removed and rebuilt."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from llmrouter.exceptions import VectorIndexError
from llmrouter.index._base import Neighbors
from llmrouter.index._catch_up import caught_up
from llmrouter.index._checks import (
    check_half_precision,
    checked_dimension,
    checked_ids,
    checked_k,
    checked_number,
    checked_rows,
    checked_times,
)
from llmrouter.index._devices import check_device
from llmrouter.index._faiss_check import load_faiss
from llmrouter.index._kinds import IndexKind, parse_kind
from llmrouter.index._sealer import Sealer
from llmrouter.index._search import search_decayed, search_state
from llmrouter.index._state import TAIL_ROWS, State
from llmrouter.index._storage import FlatFiles, save_flat
from llmrouter.types import FloatArray, IntArray

_Rows = tuple[IntArray, FloatArray, FloatArray]


class SegmentedIndex(FlatFiles):
    """Rows in sealed segments and a short tail; every kind of structure behind one class.

    Parameters
    ----------
    dimension : int
        Length d of the rows.
    kind : IndexKind or str, optional
        How sealed segments are searched, as such or as in ``hnsw:m=32``; by default the kind of the class, with its
        defaults.

    Raises
    ------
    MissingExtraError
        If the kind needs FAISS and it is not installed.
    ConfigError
        If the kind does not fit the dimension, or FAISS is installed twice.

    Notes
    -----
    A search reads one immutable state and takes no lock; a change makes the next state and swaps it in, so that a
    search sees all of a change or nothing of it, and many threads may search while one of them writes. Writers wait
    for each other. The newest rows (up to 4096) are scanned; then they are sealed into a segment, merged with segments
    not much longer (as in log-structured stores), in the thread that adds; with ``background=True`` in the kind, in one
    of its own: no change waits for a structure, and rows that come faster than segments are built make the tail longer.

    Candidates of every kind are ranked anew by similarities in double precision, ties by smaller id. ``flat`` is exact.
    The others find candidates approximately, with the recall the kind is set to, but scan segments of less than 4096
    rows (``ivf-pq``: 10,000).
    """

    default_kind: ClassVar[str] = "flat"

    def __init__(self, dimension: int, kind: IndexKind | str | None = None) -> None:
        self._dimension = checked_dimension(dimension)
        if not isinstance(kind, IndexKind):
            kind = parse_kind(self.default_kind if kind is None else kind, self._dimension)
        self._kind = kind.for_dimension(self._dimension)
        if not self._kind.exact:
            load_faiss()  # now, not when the first segment is sealed
        check_device(self._kind)
        self._state = State.empty(self._dimension)
        self._writing = threading.RLock()
        self._sealing = threading.RLock()  # before `_writing`, where both are taken
        self._sealer = Sealer(self._seal_once)
        self._least_tail = 0  # after a failure, sealing is tried again from so many rows on

    @property
    def dimension(self) -> int:
        """Length d of the rows."""
        return self._dimension

    @property
    def kind(self) -> IndexKind:
        """What kind of index this is."""
        return self._kind

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._state.size

    def __contains__(self, row_id: object) -> bool:
        """Return whether a row has this id."""
        return bool(self._state.contains(checked_ids([row_id]))[0])

    def ids(self) -> IntArray:
        """Return the ids of all rows, rising, shape (n,)."""
        parts = self._state.parts(rows=False)
        return np.sort(np.concatenate([ids for ids, _, _ in parts]))

    def add(self, ids: IntArray, vectors: FloatArray, /, *, times: FloatArray | float | None = None) -> None:
        """Add rows.

        Parameters
        ----------
        ids : array of shape (n,), int64
            Ids that are not in the index.
        vectors : array of shape (n, d)
            Their rows.
        times : float or array of shape (n,), optional
            When they were seen, in seconds since 1970; now by default.

        Raises
        ------
        VectorIndexError
            On a wrong shape, NaN, or an id that repeats or is there already; the index is unchanged then.
        """
        rows = self._checked(ids, vectors, times)
        with self._writing:
            known = self._state.contains(rows[0])
            if known.any():
                raise VectorIndexError(f"id {rows[0][known][0]} is in the index already; remove or update it")
            if len(rows[0]):
                self._put(self._state, rows, "add")

    def update(self, ids: IntArray, vectors: FloatArray, /, *, times: FloatArray | float | None = None) -> None:
        """Replace the rows of `ids` by `vectors` (n, d), in one step.

        Raises
        ------
        VectorIndexError
            On a wrong shape, NaN, or an id that repeats or is not there; the index is unchanged then.
        """
        rows = self._checked(ids, vectors, times)
        with self._writing:
            self._check_known(rows[0])
            if len(rows[0]):
                self._put(self._state.without(rows[0]), rows, "update")

    def remove(self, ids: IntArray, /) -> None:
        """Remove rows by id.

        Raises
        ------
        VectorIndexError
            If an id is not there or repeats; the index is unchanged then.
        """
        gone = checked_ids(ids)
        with self._writing:
            self._check_known(gone)
            if len(gone):
                self._change(self._state.without(gone), "remove", gone)

    def expire(self, before: float, /) -> int:
        """Remove the rows seen before `before`, in seconds since 1970, and return how many there were.

        Raises
        ------
        VectorIndexError
            If `before` is not a finite number.
        """
        moment = checked_number("before", before)
        with self._writing:
            old = self._state.ids_before(moment)
            self.remove(old)
        return len(old)

    def compact(self) -> None:
        """Rebuild all rows as one segment, without what was removed; searches go on meanwhile.

        Of more than four million rows, as several, so that the memory this takes has a bound.
        """
        with self._sealing if self._kind.background else self._writing:
            state = self._state
            if len(state.segments) <= 1 and not state.tail.size and all(alive is None for alive in state.alive):
                return
            if self._kind.background:
                self._rebuild(all_=True)
            else:
                self._replace(state.sealed(self._kind, None, all_=True))

    def flush(self) -> None:
        """Seal a full tail and wait for it, where that is done in the background; else there is nothing to do.

        Raises
        ------
        Exception
            What sealing failed with last, unless told before or done since; nothing is lost then.
        """
        self._sealer.wait()
        if self._kind.background and self._due():
            self._sealer.request()
            self._sealer.wait()

    def search(
        self, queries: FloatArray, k: int, /, *, half_life_s: float | None = None, now: float | None = None
    ) -> Neighbors:
        """Return the `k` most similar rows of each of the (n, d) queries, ties by smaller id.

        Parameters
        ----------
        queries : array of shape (n, d)
            What to search for.
        k : int
            How many; cut to the number of rows.
        half_life_s : float, optional
            Halve positive similarities every so many seconds of a row's age, and rank by the result.
        now : float, optional
            The moment ages are counted from, in seconds since 1970; by default the clock's.

        Raises
        ------
        VectorIndexError
            On a wrong shape, NaN, `k` below 1 or a half-life that is not above 0.
        """
        queries, k = checked_rows(queries, self._dimension, name="queries"), checked_k(k)
        if half_life_s is None:
            return search_state(self._state, queries, k)
        if not checked_number("half_life_s", half_life_s) > 0.0:
            raise VectorIndexError(f"half_life_s must be above 0 seconds, not {half_life_s!r}")
        moment = time.time() if now is None else checked_number("now", now)
        return search_decayed(self._state, queries, k, now=moment, half_life_s=half_life_s)

    def save(self, folder: Path, /) -> None:
        """Write ids and rows into `folder` (safetensors and JSON), for any kind of index to load."""
        ids, _, rows = self._state.content()
        order = np.argsort(ids)
        save_flat(Path(folder), ids=ids[order], vectors=rows[order])

    def __deepcopy__(self, memo: dict[int, Any]) -> SegmentedIndex:
        """Return an index in memory that shares the sealed segments, which never change."""
        copied = self._empty_copy()
        copied._state = self._state.detached()  # noqa: SLF001 -- of the same class
        memo[id(self)] = copied
        return copied

    def _empty_copy(self) -> SegmentedIndex:
        return type(self)(self._dimension, self._kind)

    def _checked(self, ids: Any, vectors: Any, times: Any) -> _Rows:
        rows, new = checked_rows(vectors, self._dimension, name="vectors"), checked_ids(ids)
        if len(new) != len(rows):
            raise VectorIndexError(f"ids and vectors must be equally many, not {len(new)} and {len(rows)}")
        if self._kind.name == "fp16":
            check_half_precision(rows)
        return new, checked_times(time.time() if times is None else times, len(new)), rows

    def _check_known(self, ids: IntArray) -> None:
        unknown = ~self._state.contains(ids)
        if unknown.any():
            raise VectorIndexError(f"id {ids[unknown][0]} is not in the index")

    def _put(self, state: State, rows: _Rows, operation: str) -> None:
        """Make `state` with `rows` the current one."""
        if not self._kind.background and state.tail.size + len(rows[0]) > TAIL_ROWS:
            self._replace(state.sealed(self._kind, rows, all_=False))
            return
        self._change(state.with_added(*rows), operation, *rows)
        if self._kind.background:
            self._seal_if_due()

    def _due(self) -> bool:
        """Return whether there is something to seal."""
        return self._state.tail.size > TAIL_ROWS

    def _seal_if_due(self) -> None:
        if self._due() and self._state.tail.size >= self._least_tail:
            self._sealer.request()

    def _seal_once(self) -> bool:
        """Seal the tail, in the thread of the sealer, and return whether it is full again."""
        try:
            if self._due():
                self._rebuild(all_=False)
        except Exception:
            self._least_tail = self._state.tail.size + TAIL_ROWS
            raise
        self._least_tail = 0
        return self._due()

    def _rebuild(self, *, all_: bool) -> None:
        """Build segments while changes go on, then apply those to what was built."""
        with self._sealing:
            before = self._state
            sealed = before.sealed(self._kind, None, all_=all_)
            with self._writing:
                self._state = caught_up(sealed, before, self._state)

    def _change(self, state: State, operation: str, ids: IntArray, *rows: FloatArray) -> None:
        """Make the current state the one that an operation leads to; an index on disk writes that down first."""
        del operation, ids, rows
        self._state = state

    def _replace(self, state: State) -> None:
        """Make a state with new segments the current one."""
        self._state = state
