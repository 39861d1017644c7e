"""How long a model usually takes to answer."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque


class LatencyWindow:
    """Quantiles of the last `size` times.

    Parameters
    ----------
    size : int
        How many are remembered.
    enough : int
        Fewer have no quantile.
    """

    __slots__ = ("_enough", "_in_order", "_recent")

    def __init__(self, size: int = 200, *, enough: int = 20) -> None:
        self._enough = enough
        self._recent: deque[float] = deque(maxlen=size)
        self._in_order: list[float] = []

    def __len__(self) -> int:
        return len(self._recent)

    def add(self, seconds: float) -> None:
        """Remember a time; the oldest is forgotten where there is no more room."""
        if len(self._recent) == self._recent.maxlen:
            del self._in_order[bisect_left(self._in_order, self._recent[0])]
        self._recent.append(seconds)
        insort(self._in_order, seconds)

    def quantile(self, q: float) -> float | None:
        """Return the smallest remembered time that a share `q` of them does not exceed, in seconds.

        None where too few are remembered.
        """
        count = len(self._in_order)
        if count < self._enough:
            return None
        return self._in_order[max(math.ceil(q * count) - 1, 0)]
