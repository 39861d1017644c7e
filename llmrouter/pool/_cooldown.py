"""Models that fail are left alone for a while."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Callable
from dataclasses import dataclass

from llmrouter.exceptions import BackendError, BackendStatusError

TOO_MANY_REQUESTS = 429
_LOCKED_OUT = frozenset({401, 402, 403, 404})


@dataclass(slots=True)
class _State:
    failures: int = 0
    until: float = 0.0


class Cooldowns:
    """Remember which models fail, in this process.

    A model cools down at once when it says that it is overrun (429, for as long as its Retry-After asks) or that the
    pool's key or model name is wrong there (401, 402, 403, 404); and after `after_failures` other failures in a row.
    A cooling model is not ruled out, it is tried last.

    Parameters
    ----------
    after_failures : int
        Failures in a row before a model cools down.
    cool_s : float
        For how long, in seconds.
    rate_limited_s : float
        For how long after a 429 without Retry-After.
    longest_s : float
        A Retry-After counts up to this.
    clock : callable
        Seconds on a steady clock.
    wall_clock : callable
        Seconds since the epoch, for a Retry-After given as a date.
    """

    def __init__(
        self,
        *,
        after_failures: int = 3,
        cool_s: float = 10.0,
        rate_limited_s: float = 5.0,
        longest_s: float = 120.0,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.after_failures = after_failures
        self.cool_s = cool_s
        self.rate_limited_s = rate_limited_s
        self.longest_s = longest_s
        self._clock = clock
        self._wall_clock = wall_clock
        self._states: dict[str, _State] = {}

    def failed(self, model: str, error: BackendError) -> None:
        """Take note of a failure of `model`."""
        state = self._states.setdefault(model, _State())
        state.failures += 1
        pause = self._pause_s(state, error)
        if pause > 0:
            # A shorter pause never ends a longer one early.
            state.until = max(state.until, self._clock() + pause)

    def succeeded(self, model: str) -> None:
        """Take note that `model` answered: it is well again."""
        self._states.pop(model, None)

    def remaining_s(self, model: str) -> float:
        """Return for how much longer `model` cools down; 0 where it does not."""
        state = self._states.get(model)
        return max(state.until - self._clock(), 0.0) if state else 0.0

    def cooling(self, model: str) -> bool:
        """Return whether `model` is cooling down."""
        return self.remaining_s(model) > 0

    def _pause_s(self, state: _State, error: BackendError) -> float:
        if isinstance(error, BackendStatusError):
            if error.status == TOO_MANY_REQUESTS:
                asked = retry_after_s(error, now=self._wall_clock())
                return min(self.rate_limited_s if asked is None else asked, self.longest_s)
            if error.status in _LOCKED_OUT:
                return self.cool_s
        return self.cool_s if state.failures >= self.after_failures else 0.0


def retry_after_s(error: BackendStatusError, *, now: float) -> float | None:
    """Return how many seconds the upstream asked to wait, or None where it did not say (or not readably).

    Parameters
    ----------
    error : BackendStatusError
        Its headers are read: ``retry-after-ms``, ``retry-after`` (seconds or a date).
    now : float
        Seconds since the epoch.
    """
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(error.headers.get(name, "")) * unit
        except ValueError:
            continue
        if 0 <= seconds < float("inf"):
            return seconds
    try:
        moment = email.utils.parsedate_to_datetime(error.headers.get("retry-after", ""))
    except ValueError:
        return None
    return max(moment.timestamp() - now, 0.0)
