"""A day's dollars for exploration where there is no Redis: what was spent before a restart is read from the log."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from service.learning.explore_ledger import DAY_S, LeasedLedger

if TYPE_CHECKING:
    from llmrouter.outcomes import OutcomeStore
    from llmrouter.types import Outcome

WithLog = Callable[[Callable[["OutcomeStore"], Any]], Awaitable[Any]]

_AT_ONCE = 1000


class LoggedLedger(LeasedLedger):
    """Has what the day's outcomes in the log have left; nothing is explored before they are read.

    Workers have equal parts of the dollars, and take equal parts of what was spent: the log does not say whose it was.
    All together keep to the day where they start together; one that starts alone can be off by the difference between
    its part and what it had spent. Explored requests that a killed process had not logged yet are not known, nor are
    those pruned since.

    Parameters
    ----------
    with_log : callable
        Runs a job with the outcome store; see `Gateway.with_log`.
    usd_per_day : float
        For all workers, a UTC day.
    workers : int
        How many there are.
    clock : callable, optional
        Seconds since the epoch; for tests.
    """

    def __init__(
        self,
        with_log: WithLog,
        usd_per_day: float,
        *,
        workers: int = 1,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(usd_per_day / workers, clock=clock)
        self.with_log = with_log
        self._workers = workers

    async def renew(self) -> float:
        """Read what the day has cost, once a day; return what is left of it.

        Raises
        ------
        StoreError
            If the log cannot be read.
        """
        today = self._today()
        if self._day == today:
            return 0.0
        spent = await self._spent(today * DAY_S)
        granted: float = self.usd_per_day - spent / self._workers
        self._grant(today, granted)
        return granted

    async def _spent(self, since: float) -> float:
        """Return what exploring has cost since a moment; read in portions, so that the log can be written meanwhile."""
        outcomes: list[Iterator[Outcome]] = []

        def portion(store: OutcomeStore) -> tuple[int, float]:
            if not outcomes:
                outcomes.append(iter(store.scan(since)))
            read = list(islice(outcomes[0], _AT_ONCE))
            return len(read), spent_usd(read)

        total = 0.0
        while True:
            read: tuple[int, float] = await self.with_log(portion)
            total += read[1]
            if read[0] < _AT_ONCE:
                return total


def spent_usd(outcomes: Iterable[Outcome]) -> float:
    """Return what explored requests were expected to cost beyond what the policy would have chosen, US dollars.

    The policy's own choice keeps at least half of the probability, so it is the likeliest other model.
    """
    return math.fsum(_extra_usd(outcome) for outcome in outcomes if outcome.explored)


def _extra_usd(outcome: Outcome) -> float:
    others = {
        name: values for name, values in outcome.candidates.items() if name != outcome.model and "propensity" in values
    }
    if not others or outcome.model not in outcome.candidates:
        return 0.0
    base = max(others, key=lambda name: others[name]["propensity"])
    extra = outcome.candidates[outcome.model].get("cost_usd", math.nan) - others[base].get("cost_usd", math.nan)
    return extra if extra > 0 else 0.0
