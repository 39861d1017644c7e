"""When requests are to be sent: decided here without I/O."""

from __future__ import annotations


class OpenSchedule:
    """Constant arrivals: the i-th request is due at `start` + i / `rate`, whatever became of those before it.

    Latency is counted from the time that a request was due. A generator that waits for answers would send less while
    the server is slow and so leave out just the requests that would have waited (coordinated omission).

    Parameters
    ----------
    rate : float
        Requests per second.
    seconds : float
        Length of the run.
    start : float
        Of the clock that `due` is asked with.
    """

    def __init__(self, rate: float, seconds: float, *, start: float) -> None:
        self.rate = rate
        self.start = start
        self.total = max(round(rate * seconds), 1)
        self._given = 0

    def due(self, now: float) -> list[float]:
        """Return the times of all requests due by `now` and not returned before."""
        count = min(int((now - self.start) * self.rate + 1e-9) + 1, self.total) if now >= self.start else 0
        times = [self.start + i / self.rate for i in range(self._given, count)]
        self._given = max(self._given, count)
        return times

    def next_time(self) -> float | None:
        """Return when the next request is due, None after the last."""
        return None if self._given >= self.total else self.start + self._given / self.rate
