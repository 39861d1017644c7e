"""Numbers that requests add to: cheap to add to, readable by the other workers of the gateway.

All values lie in one block of doubles. With several workers that block is a file mapped into memory, so that any worker
can read every other's numbers, and a worker that was killed loses none. A text file beside it says which series has
which place; a line is there before its numbers are.
"""

from __future__ import annotations

import json
import logging
import math
import mmap
import os
import time
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from service.telemetry.catalogue import FAMILIES, Family

logger = logging.getLogger(__name__)

CAPACITY = 1 << 16
"""Numbers that one process can keep (half a megabyte); series beyond that are dropped, and that is logged."""

_DOUBLE = 8
_VALUES, _SERIES = ".values", ".series"
# The first place has the time of the last sign of life; the last ones take what has no place any more.
_SIGN_OF_LIFE, _FIRST = 0, 1
_SPILL = CAPACITY - 64
_DEAD_AFTER_S = 15.0

Labels = tuple[str, ...]
Snapshot = dict[tuple[str, Labels], tuple[float, ...]]


class Tallies:
    """The numbers of one process.

    They are added to from one thread (the event loop's) and read from any.

    Parameters
    ----------
    folder : Path, optional
        Where the numbers are shared with other workers; None keeps them to this process.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._series: list[tuple[Family, Labels, int]] = []
        self._used = _FIRST
        self._names: IO[str] | None = None
        self.path: Path | None = None
        if folder is None:
            self._block = mmap.mmap(-1, CAPACITY * _DOUBLE)
        else:
            # The time tells a process from an earlier one with the same number.
            self.path = folder / f"llmrouter-{os.getpid()}-{time.time_ns()}"
            with self.path.with_suffix(_VALUES).open("w+b") as file:
                file.truncate(CAPACITY * _DOUBLE)
                self._block = mmap.mmap(file.fileno(), CAPACITY * _DOUBLE)
            self._names = self.path.with_suffix(_SERIES).open("w", encoding="utf-8", buffering=1)
        self.values = memoryview(self._block).cast("d")

    def place(self, family: Family, labels: Labels) -> int:
        """Return a new place for a series; its `family.width` numbers start there."""
        if self._used + family.width > _SPILL:
            if self._used < CAPACITY:
                self._used = CAPACITY
                logger.error("there are too many series of metrics; new ones are not exported")
            return _SPILL
        start = self._used
        self._used += family.width
        self._series.append((family, labels, start))
        if self._names is not None:
            self._names.write(json.dumps([start, family.name, *labels]) + "\n")
        return start

    def sign_of_life(self) -> None:
        """Tell the other workers that this one lives: they count its gauges for some seconds."""
        self.values[_SIGN_OF_LIFE] = time.time()

    def snapshot(self) -> Snapshot:
        """Return the numbers of this process."""
        values = self.values
        return {
            (family.name, labels): tuple(values[start : start + family.width])
            for family, labels, start in list(self._series)
        }

    def others(self) -> Iterator[tuple[int, bool, Snapshot]]:
        """Yield (process number, whether it lives, its numbers) of every other worker, ended ones included."""
        if self.folder is None or self.path is None:
            return
        for file in sorted(self.folder.glob(f"llmrouter-*{_SERIES}")):
            if file.stem == self.path.name:
                continue
            try:
                read = _read(file)
            except OSError:
                continue
            yield (int(file.stem.split("-")[1]), *read)

    def close(self) -> None:
        """Say that this process is going; its counters stay."""
        self.values[_SIGN_OF_LIFE] = 0.0
        if self._names is not None:
            self._names.close()
            self._names = None


class Counter:
    """Series that only grow."""

    __slots__ = ("_family", "_places", "_tallies", "_values")

    def __init__(self, tallies: Tallies, family: Family) -> None:
        self._tallies = tallies
        self._family = family
        self._values = tallies.values
        self._places: dict[Labels, int] = {}

    def add(self, labels: Labels, amount: float = 1.0) -> None:
        """Add to the series of `labels`; what is negative, infinite or no number is left out."""
        if 0.0 <= amount < math.inf:
            place = self._places.get(labels)
            if place is None:
                place = self._places[labels] = self._tallies.place(self._family, labels)
            self._values[place] += amount

    def put(self, labels: Labels, value: float) -> None:
        """Set a series that is counted elsewhere."""
        place = self._places.get(labels)
        if place is None:
            place = self._places[labels] = self._tallies.place(self._family, labels)
        self._values[place] = value


class Gauge(Counter):
    """Series that are set; those that are set no more disappear."""

    __slots__ = ()

    def replace(self, values: dict[Labels, float]) -> None:
        """Set these series, and forget all others."""
        for labels in self._places.keys() - values.keys():
            self._values[self._places[labels]] = math.nan
        for labels, value in values.items():
            self.put(labels, value)


class Histogram:
    """Series of distributions."""

    __slots__ = ("_bounds", "_family", "_last", "_places", "_tallies", "_values")

    def __init__(self, tallies: Tallies, family: Family) -> None:
        self._tallies = tallies
        self._family = family
        self._values = tallies.values
        self._bounds = family.buckets
        self._last = family.width - 1
        self._places: dict[Labels, int] = {}

    def observe(self, labels: Labels, value: float) -> None:
        """Take in a value; what is negative, infinite or no number is left out."""
        if 0.0 <= value < math.inf:
            place = self._places.get(labels)
            if place is None:
                place = self._places[labels] = self._tallies.place(self._family, labels)
            values = self._values
            values[place + bisect_left(self._bounds, value)] += 1.0
            values[place + self._last] += value


def _read(file: Path) -> tuple[bool, Snapshot]:
    # A line without an end is being written (or its writer was killed): its numbers come next time.
    lines = file.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    values = memoryview(file.with_suffix(_VALUES).read_bytes()).cast("d")
    alive = time.time() - values[_SIGN_OF_LIFE] < _DEAD_AFTER_S
    found: Snapshot = {}
    for line in lines:
        start, name, *labels = json.loads(line)
        family = FAMILIES.get(name)
        if family is not None:
            found[name, tuple(labels)] = tuple(values[start : start + family.width])
    return alive, found
