"""Models that fail are left alone for a while, and tried again one call at a time."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Callable
from typing import Literal, Protocol

from llmrouter.exceptions import BackendError, BackendStatusError
from llmrouter.pool._window import ShareWindow

TOO_MANY_REQUESTS = 429
_LOCKED_OUT = frozenset({401, 402, 403, 404})
_SAME_PAUSE_S = 1.0

BreakerState = Literal["closed", "open", "half_open"]


class CooldownShare(Protocol):
    """Tells other replicas which models cool down."""

    def publish(self, name: str, remaining_s: float) -> None:
        """Tell that `name` cools down for that many seconds from now; returns at once and never raises."""
        ...


class _State:
    __slots__ = ("applied_until", "calls", "failed_at", "failures", "probe", "tripped", "until")

    def __init__(self, window_s: float) -> None:
        self.failures = 0
        self.failed_at = 0.0
        self.until = 0.0
        self.applied_until = 0.0
        # Whether the pause ends in a trial: after one that the upstream asked for it does not.
        self.tripped = False
        self.probe: float | None = None
        self.calls = ShareWindow(window_s)


class Cooldowns:
    """Remember which models fail: a circuit breaker for each.

    A model cools down (its circuit is open) at once when it says that it is overrun (429, for as long as its
    Retry-After asks) or that the pool's key or model name is wrong there (401, 402, 403, 404); after `after_failures`
    other failures in a row; and when `failure_share` of at least `min_calls` calls of the last `window_s` seconds
    failed. A cooling model is not ruled out, it is tried last.

    When the pause is over one call may try the model (half open), and for the others it still cools. If that call is
    answered the model is well again, if it fails the pause begins anew. A pause after a 429 simply ends.

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
    failure_share : float
        Share of failed calls from which a model cools down.
    window_s : float
        Over how many seconds that share is taken.
    min_calls : int
        Fewer calls have no share.
    probe_s : float
        A trial that has not ended after that many seconds no longer holds up the next one.
    share : CooldownShare, optional
        Gets every pause.
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
        failure_share: float = 0.5,
        window_s: float = 30.0,
        min_calls: int = 20,
        probe_s: float = 30.0,
        share: CooldownShare | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.after_failures = after_failures
        self.cool_s = cool_s
        self.rate_limited_s = rate_limited_s
        self.longest_s = longest_s
        self.failure_share = failure_share
        self.window_s = window_s
        self.min_calls = min_calls
        self.probe_s = probe_s
        self.share = share
        self._clock = clock
        self._wall_clock = wall_clock
        self._states: dict[str, _State] = {}

    def began(self, model: str) -> float:
        """Take note of a call of `model`, and return the moment, to be handed back with what became of it.

        The first call after a pause is the trial.
        """
        now = self._clock()
        state = self._states.get(model)
        if state is not None and state.tripped and now >= state.until and not self._probed(state, now):
            state.probe = now
        return now

    def failed(self, model: str, error: BackendError, *, began: float | None = None) -> None:
        """Take note of a failure of `model`, whose call began at the moment `began` (see `began`)."""
        now = self._clock()
        state = self._state(model)
        state.failures += 1
        state.failed_at = now
        state.calls.add(now, events=1, marked=1)
        trial = began is not None and state.probe == began
        if trial:
            state.probe = None
        pause = self._pause_s(state, error, trial=trial)
        # A shorter pause never ends a longer one early.
        if pause > 0 and now + pause > state.until:
            state.until = now + pause
            if self.share is not None:
                self.share.publish(model, pause)

    def succeeded(self, model: str, *, began: float | None = None) -> None:
        """Take note that `model` answered: it is well again, unless the call began before the last failure."""
        now = self._clock()
        state = self._state(model)
        state.calls.add(now, events=1)
        if not state.failures and not state.until:
            return
        if began is None or began >= state.failed_at:
            state.failures = 0
            state.until = 0.0
            state.probe = None
            if state.tripped:
                state.tripped = False
                state.calls = ShareWindow(self.window_s)  # what was before the trial is past

    def released(self, model: str, *, began: float) -> None:
        """Take note that a call ended without saying anything of `model`; if it was the trial, another may be."""
        state = self._states.get(model)
        if state is not None and state.probe == began:
            state.probe = None

    def apply(self, name: str, remaining_s: float) -> None:
        """Take over a pause that another replica reported; one that is reported over and over is one pause."""
        now = self._clock()
        until = now + min(remaining_s, self.longest_s)
        state = self._state(name)
        if until <= max(now, state.until) or until <= state.applied_until + _SAME_PAUSE_S:
            return
        state.until = state.applied_until = until

    def remaining_s(self, model: str) -> float:
        """Return for how much longer `model` cools down; 0 where it does not."""
        state = self._states.get(model)
        return max(state.until - self._clock(), 0.0) if state else 0.0

    def cooling(self, model: str) -> bool:
        """Return whether `model` is to be left alone: it cools down, or is on trial with another call."""
        state = self._states.get(model)
        if state is None or not state.until:
            return False
        now = self._clock()
        return now < state.until or (state.tripped and self._probed(state, now))

    def state(self, model: str) -> BreakerState:
        """Return how the circuit of `model` stands."""
        state = self._states.get(model)
        if state is None or not state.until:
            return "closed"
        if self._clock() < state.until:
            return "open"
        return "half_open" if state.tripped else "closed"

    def _state(self, model: str) -> _State:
        state = self._states.get(model)
        if state is None:
            state = self._states[model] = _State(self.window_s)
        return state

    def _probed(self, state: _State, now: float) -> bool:
        return state.probe is not None and now < state.probe + self.probe_s

    def _pause_s(self, state: _State, error: BackendError, *, trial: bool) -> float:
        if isinstance(error, BackendStatusError):
            if error.status == TOO_MANY_REQUESTS:
                asked = retry_after_s(error, now=self._wall_clock())
                return min(self.rate_limited_s if asked is None else asked, self.longest_s)
            if error.status in _LOCKED_OUT:
                state.tripped = True
                return self.cool_s
        if trial or state.failures >= self.after_failures or self._too_many(state.calls):
            state.tripped = True
            return self.cool_s
        return 0.0

    def _too_many(self, calls: ShareWindow) -> bool:
        return calls.events >= self.min_calls and calls.marked >= self.failure_share * calls.events


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
        moment = email.utils.parsedate_to_datetime(error.headers.get("retry-after", "")).timestamp()
    except (ValueError, OverflowError):
        return None
    return max(moment - now, 0.0)
