"""Answers kept in this process: bounded in number, bytes and age."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from service.cache.entry import Entry


@dataclass(slots=True)
class StoreCounts:
    """What a store holds, and what happened to the rest.

    Attributes
    ----------
    entries, bytes : int
        Held by this process; 0 where they are elsewhere.
    stored : int
        Entries taken since the start.
    evictions : int
        Pushed out by others.
    expired : int
        Found to be too old.
    failures : int
        Reads and writes that Redis did not do, and values that were damaged.
    """

    entries: int = 0
    bytes: int = 0
    stored: int = 0
    evictions: int = 0
    expired: int = 0
    failures: int = 0


class AnswerStore(Protocol):
    """Where answers are."""

    counts: StoreCounts

    async def get(self, scope: str, key: bytes) -> Entry | None:
        """Return the entry under a key, unless it is too old or cannot be read; never raises."""
        ...

    def put(self, key: bytes, entry: Entry) -> None:
        """Take an entry; never waits and never raises."""
        ...

    async def clear(self, scope: str | None) -> int:
        """Remove the entries of a scope, or all; return how many there were."""
        ...

    async def aclose(self) -> None:
        """End what runs in the background."""
        ...


class MemoryStore:
    """The entries that were used last. Every operation but `clear` takes the same time however many there are.

    Parameters
    ----------
    max_entries, max_bytes : int
        Bounds.
    ttl_s : float
        Age at which an entry is gone.
    clock : callable
        Seconds since the epoch.
    """

    def __init__(self, *, max_entries: int, max_bytes: int, ttl_s: float, clock: Callable[[], float]) -> None:
        self.max_entries = max_entries
        self.max_bytes = max_bytes
        self.ttl_s = ttl_s
        self.counts = StoreCounts()
        self._clock = clock
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()

    async def get(self, scope: str, key: bytes) -> Entry | None:
        """Return the entry under a key, unless it is too old."""
        entry = self._entries.get(key)
        if entry is None or entry.scope != scope:
            return None
        if self._clock() - entry.stored >= self.ttl_s:
            self._remove(key)
            self.counts.expired += 1
            return None
        self._entries.move_to_end(key)
        return entry

    def put(self, key: bytes, entry: Entry) -> None:
        """Take an entry, and let those go that were not used for longest; one that fits nowhere is not taken."""
        if entry.size > self.max_bytes:
            return
        if key in self._entries:
            self._remove(key)
        self._entries[key] = entry
        counts = self.counts
        counts.entries += 1
        counts.bytes += entry.size
        counts.stored += 1
        while counts.entries > self.max_entries or counts.bytes > self.max_bytes:
            self._remove(next(iter(self._entries)))
            counts.evictions += 1

    async def clear(self, scope: str | None) -> int:
        """Remove the entries of a scope, or all; return how many there were."""
        keys = [key for key, entry in self._entries.items() if scope is None or entry.scope == scope]
        for key in keys:
            self._remove(key)
        return len(keys)

    async def aclose(self) -> None:
        """Forget all."""
        await self.clear(None)

    def _remove(self, key: bytes) -> None:
        entry = self._entries.pop(key)
        self.counts.entries -= 1
        self.counts.bytes -= entry.size
