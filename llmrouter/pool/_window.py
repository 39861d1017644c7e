"""Counts over the last seconds."""

from __future__ import annotations

_SLICES = 10


class ShareWindow:
    """How many events there were in the last `window_s` seconds, and how many of them were marked.

    The window moves on in tenths, so it covers between 90% and 100% of its length.

    Parameters
    ----------
    window_s : float
        Length, in seconds.

    Attributes
    ----------
    events, marked : int
        As of the last call of `add` or `move_to`.
    """

    __slots__ = ("_events", "_marked", "_slice", "_slice_s", "events", "marked")

    def __init__(self, window_s: float) -> None:
        self.events = self.marked = 0
        self._slice_s = window_s / _SLICES
        self._slice: int | None = None
        self._events = [0] * _SLICES
        self._marked = [0] * _SLICES

    def add(self, now: float, *, events: int = 0, marked: int = 0) -> None:
        """Count events at the moment `now`, in seconds of a steady clock."""
        self.move_to(now)
        place = int(now / self._slice_s) % _SLICES
        self._events[place] += events
        self._marked[place] += marked
        self.events += events
        self.marked += marked

    def move_to(self, now: float) -> None:
        """Forget what is older than the window."""
        current = int(now / self._slice_s)
        if current == self._slice:
            return
        passed = _SLICES if self._slice is None else min(current - self._slice, _SLICES)
        self._slice = current
        for past in range(current - passed + 1, current + 1):
            place = past % _SLICES
            self.events -= self._events[place]
            self.marked -= self._marked[place]
            self._events[place] = self._marked[place] = 0
