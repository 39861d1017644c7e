"""The content of an index at one moment: a value that searches read while the next one is made."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from llmrouter.index._kinds import IndexKind
from llmrouter.index._ranking import BoolArray, max_length
from llmrouter.index._segment import Segment
from llmrouter.types import FloatArray, IntArray

# Rows scanned at every search before they are sealed into a segment: 4 MB at 256 dimensions.
TAIL_ROWS = 4096
_FIRST_CAPACITY = 64
# A segment up to this many times as long as the rows to be sealed is merged with them: few segments, and each row is
# written again only a logarithm of times.
_MERGE_RATIO = 3
# Rows of the longest segment that merging makes: what bounds the memory a rebuild takes.
MAX_SEGMENT_ROWS = 4_000_000


@dataclass(frozen=True, slots=True)
class Tail:
    """The newest rows, in arrays with room for more.

    Later states write behind the `size` rows of this one and never to them, so that readers need no lock.
    """

    ids: IntArray
    times: FloatArray
    rows: FloatArray
    size: int = 0
    alive: BoolArray | None = None
    max_length: float = 0.0

    @classmethod
    def empty(cls, dimension: int) -> Self:
        """Return a tail without rows."""
        return cls(np.empty(0, np.int64), np.empty(0, np.float64), np.empty((0, dimension), np.float32))

    def extended(self, ids: IntArray, times: FloatArray, rows: FloatArray) -> Tail:
        """Return the tail with more rows; one writer at a time, on the newest tail."""
        end = self.size + len(ids)
        arrays = (self.ids, self.times, self.rows)
        if end > len(self.ids):
            capacity = max(end, 2 * len(self.ids), _FIRST_CAPACITY)
            size = self.size
            arrays = (
                _grown(self.ids, size, capacity),
                _grown(self.times, size, capacity),
                _grown(self.rows, size, capacity),
            )
        for array, new in zip(arrays, (ids, times, rows), strict=True):
            array[self.size : end] = new
        alive = None if self.alive is None else np.concatenate([self.alive, np.ones(len(ids), np.bool_)])
        return Tail(*arrays, end, alive, max(self.max_length, max_length(rows)))

    def living(self) -> IntArray:
        """Return the positions of the living rows."""
        return np.arange(self.size) if self.alive is None else np.flatnonzero(self.alive)


@dataclass(frozen=True, slots=True)
class State:
    """Segments, which of their rows live, and the tail.

    Attributes
    ----------
    segments : tuple of Segment
        What has been sealed.
    alive : tuple of array or None
        For each segment, which rows live, shape (n,); None where all do.
    tail : Tail
        What has not been sealed.
    size : int
        Living rows.
    """

    segments: tuple[Segment, ...]
    alive: tuple[BoolArray | None, ...]
    tail: Tail
    size: int

    @classmethod
    def empty(cls, dimension: int) -> Self:
        """Return a state without rows."""
        return cls((), (), Tail.empty(dimension), 0)

    def contains(self, ids: IntArray) -> BoolArray:
        """Return which of `ids` are there, shape (n,)."""
        found = np.isin(ids, self.tail.ids[self.tail.living()])
        for segment, alive in zip(self.segments, self.alive, strict=True):
            at = segment.positions_of(ids)
            found |= (at >= 0) if alive is None else (at >= 0) & alive[at]
        return found

    def with_added(self, ids: IntArray, times: FloatArray, rows: FloatArray) -> State:
        """Return the state with more rows in the tail; the ids are new."""
        return replace(self, tail=self.tail.extended(ids, times, rows), size=self.size + len(ids))

    def without(self, ids: IntArray) -> State:
        """Return the state without the rows `ids`, which are all there."""
        tail, changed = self.tail, list(self.alive)
        gone = np.isin(tail.ids[: tail.size], ids)
        if gone.any():
            tail = replace(tail, alive=~gone if tail.alive is None else tail.alive & ~gone)
        for number, (segment, alive) in enumerate(zip(self.segments, self.alive, strict=True)):
            at = segment.positions_of(ids)
            at = at[at >= 0]
            if len(at):
                new = np.ones(len(segment.ids), np.bool_) if alive is None else alive.copy()
                new[at] = False
                changed[number] = new
        return replace(self, tail=tail, alive=tuple(changed), size=self.size - len(ids))

    def ids_before(self, time: float) -> IntArray:
        """Return the ids of the living rows older than `time`."""
        parts = [(ids, times) for ids, times, _ in self.parts(rows=False)]
        return np.concatenate([ids[times < time] for ids, times in parts])

    def times_of(self, ids: IntArray) -> FloatArray:
        """Return the times of living rows, in the shape of `ids`."""
        flat = ids.reshape(-1)
        times = np.zeros(len(flat))
        for segment, alive in zip(self.segments, self.alive, strict=True):
            at = segment.positions_of(flat)
            here = (at >= 0) if alive is None else (at >= 0) & alive[at]
            times[here] = segment.times[at[here]]
        living = self.tail.living()
        living = living[np.argsort(self.tail.ids[living])]
        tail_ids = self.tail.ids[living]
        if len(tail_ids):
            at = np.minimum(np.searchsorted(tail_ids, flat), len(tail_ids) - 1)
            here = tail_ids[at] == flat
            times[here] = self.tail.times[living][at[here]]
        return times.reshape(ids.shape)

    def content(self) -> tuple[IntArray, FloatArray, FloatArray]:
        """Return ids (n,), times (n,) and rows (n, d) of all living rows."""
        ids, times, rows = zip(*self.parts(), strict=True)
        return np.concatenate(ids), np.concatenate(times), np.concatenate(rows)

    def sealed(self, kind: IndexKind, added: tuple[IntArray, FloatArray, FloatArray] | None, *, all_: bool) -> State:
        """Return the state with tail, `added` rows and what is to be merged with them in one segment.

        Parameters
        ----------
        kind : IndexKind
            What the new segment becomes.
        added : tuple of ids (n,), times (n,), rows (n, d), or None
            More rows.
        all_ : bool
            Merge every segment, not only those that are short or mostly dead, up to the longest a segment may be.
        """
        more = 0 if added is None else len(added[0])
        tail = len(self.tail.living())
        groups, kept = self._groups(tail + more, all_=all_)
        # What the longest learned is used again where rows are not kept: most of what is merged was coded by it.
        longest = max(self.segments, key=lambda segment: len(segment.ids), default=None)
        segments = [self.segments[number] for number in kept]
        living = [self.alive[number] for number in kept]
        for place, group in enumerate(groups):
            part = State(
                tuple(self.segments[number] for number in group),
                tuple(self.alive[number] for number in group),
                self.tail if place == 0 else Tail.empty(self.dimension),
                0,  # not looked at
            )
            pieces = part.parts() + ([added] if added is not None and place == 0 else [])
            pieces = [piece for piece in pieces if len(piece[0])]
            if pieces:
                segments.append(Segment.of(kind, *_joined(pieces), like=longest))
                living.append(None)
        return State(tuple(segments), tuple(living), Tail.empty(self.dimension), self.size + more)

    @property
    def dimension(self) -> int:
        """Length d of the rows."""
        return int(self.tail.rows.shape[1])

    def _groups(self, length: int, *, all_: bool) -> tuple[list[list[int]], list[int]]:
        """Return which segments are to become one, the first group with `length` new rows, and which stay."""
        counts = [
            len(segment.ids) if alive is None else int(alive.sum())
            for segment, alive in zip(self.segments, self.alive, strict=True)
        ]
        groups: list[list[int]] = [[]]
        kept = []
        for number in sorted(range(len(counts)), key=counts.__getitem__):
            rewritten = all_ or 2 * counts[number] < len(self.segments[number].ids)
            if not rewritten and not 0 < counts[number] <= _MERGE_RATIO * length:
                kept.append(number)
            elif length + counts[number] <= MAX_SEGMENT_ROWS:
                groups[-1].append(number)
                length += counts[number]
            elif not rewritten or self.alive[number] is None:
                kept.append(number)  # as long as a segment becomes
            else:
                groups.append([number])
                length = counts[number]
        return groups, kept

    def detached(self) -> State:
        """Return a state whose tail shares no memory with this one: what a copy of an index starts from."""
        tail = self.tail
        copies = (tail.ids[: tail.size].copy(), tail.times[: tail.size].copy(), tail.rows[: tail.size].copy())
        return replace(self, tail=Tail(*copies, tail.size, tail.alive, tail.max_length))

    def parts(self, *, rows: bool = True) -> list[tuple[IntArray, FloatArray, FloatArray]]:
        """Return ids, times and rows of the living rows, segment by segment and the tail; without `rows`, none."""
        none = np.empty((0, self.tail.rows.shape[1]), np.float32)
        found = []
        for segment, alive in zip(self.segments, self.alive, strict=True):
            mask = slice(None) if alive is None else alive
            found.append((segment.ids[mask], segment.times[mask], segment.rows.all()[mask] if rows else none))
        living = self.tail.living()
        found.append((self.tail.ids[living], self.tail.times[living], self.tail.rows[living] if rows else none))
        return found


def _joined(pieces: list[tuple[IntArray, FloatArray, FloatArray]]) -> tuple[IntArray, FloatArray, FloatArray]:
    """Return the pieces as one; a single piece, which may be a million rows, is not copied."""
    if len(pieces) == 1:
        return pieces[0]
    ids, times, rows = zip(*pieces, strict=True)
    return np.concatenate(ids), np.concatenate(times), np.concatenate(rows)


def _grown(array: FloatArray, size: int, capacity: int) -> FloatArray:
    grown = np.empty((capacity, *array.shape[1:]), array.dtype)
    grown[:size] = array[:size]
    return grown
