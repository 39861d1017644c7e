"""What exploration may use: a share of the requests, and dollars a day."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Protocol

from llmrouter.policy._checks import require

_DAY_S = 86_400.0
# How many requests' worth of the share may be used ahead, and over how many the usual size is remembered.
_BURST_REQUESTS = 100
_MEMORY_REQUESTS = 1000.0


class Ledger(Protocol):
    """Dollars that exploration may still cost. Called under the policy's lock, from any thread; must not wait."""

    def left_usd(self) -> float:
        """Return what is left now."""
        ...

    def charge(self, usd: float, /) -> None:
        """Take note of what was spent."""
        ...


class DailyLedger:
    """A number of dollars for every UTC day, counted in this process.

    Parameters
    ----------
    usd_per_day : float or None
        None is no limit.
    clock : callable, optional
        Seconds since the epoch; for tests.
    """

    def __init__(self, usd_per_day: float | None, *, clock: Callable[[], float] = time.time) -> None:
        self.usd_per_day = None if usd_per_day is None else require("usd_per_day", usd_per_day, least=0)
        self.spent_usd = 0.0
        self._clock = clock
        self._day = 0

    def left_usd(self) -> float:
        """Return what is left of the day's dollars."""
        if self.usd_per_day is None:
            return math.inf
        self._turn()
        return self.usd_per_day - self.spent_usd

    def charge(self, usd: float, /) -> None:
        """Add to what the day has cost."""
        self._turn()
        self.spent_usd += usd

    def _turn(self) -> None:
        day = int(self._clock() // _DAY_S)
        if day != self._day:
            self._day, self.spent_usd = day, 0.0


class SharePacer:
    """Turns values into probabilities that add up to a share of the requests.

    The factor is the share over the usual value of a request, which is remembered over about a thousand; and an
    allowance that every request fills by `share` keeps the sum of the probabilities over any n requests in a row at or
    below ``share * (n + 100)``, whatever the values do.

    Parameters
    ----------
    share : float
        In [0, 1].
    usual : float
        Value expected before any was seen, > 0; it counts as ten requests.
    """

    def __init__(self, share: float, *, usual: float) -> None:
        self.share = share
        self._sum, self._count = 10 * usual, 10.0
        self._full = share * _BURST_REQUESTS
        self._allowance = self._full

    @property
    def factor(self) -> float:
        """Probability per unit of value."""
        return self.share * self._count / max(self._sum, 1e-300)

    @property
    def most(self) -> float:
        """The largest probability that this request may have."""
        return min(self._allowance + self.share, 1.0)

    def count(self, value: float, probability: float) -> None:
        """Take note of a request: what exploring it was worth, and with what probability that was done."""
        keep = min(1.0, (_MEMORY_REQUESTS - 1) / self._count)
        self._sum = self._sum * keep + value
        self._count = self._count * keep + 1
        self._allowance = min(self._allowance + self.share - probability, self._full)
