"""How many requests may be sent again: failing upstreams must not get several times their load."""

from __future__ import annotations

import time
from collections.abc import Callable

from llmrouter.pool._window import ShareWindow


class RetryBudget:
    """Allow retries up to a share of the requests of the last seconds, and a few a second in any case.

    Parameters
    ----------
    ratio : float
        Retries per request.
    min_per_s : float
        That many retries a second are allowed however few requests there are.
    window_s : float
        Over how many seconds both are counted.
    clock : callable
        Seconds on a steady clock.

    Attributes
    ----------
    taken, refused : int
        Retries that were allowed and that were not, since the start.
    """

    __slots__ = ("_clock", "_floor", "_ratio", "_window", "refused", "taken")

    def __init__(
        self,
        *,
        ratio: float = 0.2,
        min_per_s: float = 10.0,
        window_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.taken = self.refused = 0
        self._ratio = ratio
        self._floor = min_per_s * window_s
        self._clock = clock
        self._window = ShareWindow(window_s)

    def request(self) -> None:
        """Take note of a request."""
        self._window.add(self._clock(), events=1)

    def take(self) -> bool:
        """Return whether one more retry is allowed, and count it if so."""
        window, now = self._window, self._clock()
        window.move_to(now)
        if window.marked + 1 > self._floor + self._ratio * window.events:
            self.refused += 1
            return False
        window.add(now, marked=1)
        self.taken += 1
        return True
