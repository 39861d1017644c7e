"""When to ask a second model beside a slow one: decided here without I/O."""

from __future__ import annotations

from llmrouter.pool._latency import LatencyWindow

_MOST_SAVED = 10.0


class Hedger:
    """Decide after how long a second attempt starts, and whether it may.

    Parameters
    ----------
    quantile : float
        A second attempt starts when the first has taken longer than this share of its model's answers.
    min_wait_s : float
        It never starts sooner.
    max_share : float
        Second attempts per request, at most. What quiet times leave unused is kept, up to ten attempts.
    size, enough : int
        See `LatencyWindow`.

    Attributes
    ----------
    started, won, refused : int
        Second attempts that were made, that answered first, and that the budget forbade.
    """

    __slots__ = ("_max_share", "_min_wait_s", "_quantile", "_saved", "_size", "_windows", "refused", "started", "won")

    def __init__(
        self,
        *,
        quantile: float = 0.95,
        min_wait_s: float = 0.05,
        max_share: float = 0.05,
        size: int = 200,
        enough: int = 20,
    ) -> None:
        self.started = self.won = self.refused = 0
        self._quantile = quantile
        self._min_wait_s = min_wait_s
        self._max_share = max_share
        self._size = (size, enough)
        self._saved = 0.0
        self._windows: dict[tuple[str, bool], LatencyWindow] = {}

    def request(self) -> None:
        """Take note of a request."""
        self._saved = min(self._saved + self._max_share, _MOST_SAVED)

    def answered(self, model: str, seconds: float, *, streamed: bool) -> None:
        """Take note of how long `model` took to its first token, or to its whole answer where it is not streamed."""
        window = self._windows.get((model, streamed))
        if window is None:
            size, enough = self._size
            window = self._windows[model, streamed] = LatencyWindow(size, enough=enough)
        window.add(seconds)

    def wait_s(self, model: str, *, streamed: bool) -> float | None:
        """Return after how many seconds a second attempt is due; None while too little is known of `model`."""
        window = self._windows.get((model, streamed))
        usual = None if window is None else window.quantile(self._quantile)
        return None if usual is None else max(usual, self._min_wait_s)

    def take(self) -> bool:
        """Return whether a second attempt is allowed now, and count it if so."""
        if self._saved < 1.0 - 1e-9:
            self.refused += 1
            return False
        self._saved -= 1.0
        self.started += 1
        return True

    def give_back(self) -> None:
        """Take back a `take`: there was nobody to ask."""
        self._saved += 1.0
        self.started -= 1
