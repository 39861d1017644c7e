"""What the outcome log keeps: old outcomes go, a few at a time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from llmrouter.outcomes import OutcomeStore

SECONDS_PER_DAY = 86_400.0

_STEP = 500
_PAUSE_S = 0.05
_INTERVAL_S = 60.0
_FIRST_S = 1.0


class Retention:
    """Prune a store in steps, so that nothing waits long for one.

    Parameters
    ----------
    days : float or None
        Older outcomes go; None keeps them.
    most : int or None
        How many outcomes are kept, the newest; None keeps all.
    step : int
        How many go at a time.
    clock : callable
        Seconds, for the pauses.
    """

    def __init__(
        self,
        *,
        days: float | None = None,
        most: int | None = None,
        step: int = _STEP,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.days = days
        self.most = most
        self.removed = 0
        self._step = step
        self._clock = clock
        self._next = math.inf if days is None and most is None else clock() + _FIRST_S

    def due_in_s(self) -> float | None:
        """Return in how many seconds the next step is due; None where there is nothing to do, ever."""
        return None if math.isinf(self._next) else max(self._next - self._clock(), 0.0)

    def step(self, store: OutcomeStore) -> None:
        """Remove some outcomes, where a step is due.

        Raises
        ------
        StoreError
            If the store fails; the next step is due in the usual time.
        """
        if self._clock() < self._next:
            return
        self._next = self._clock() + _INTERVAL_S
        before = -math.inf if self.days is None else time.time() - self.days * SECONDS_PER_DAY
        removed = store.prune(before=before, keep=self.most, limit=self._step)
        self.removed += removed
        if removed == self._step:
            self._next = self._clock() + _PAUSE_S
