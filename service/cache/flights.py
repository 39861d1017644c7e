"""Requests that are the same wait for the first of them."""

from __future__ import annotations

import asyncio

from service.cache.entry import Entry
from service.cache.plan import CachePlan

_MOST = 10_000


class Flights:
    """The questions that a model is being asked, and who waits for the answers.

    Parameters
    ----------
    wait_s : float
        Nobody waits longer.
    """

    def __init__(self, *, wait_s: float) -> None:
        self.wait_s = wait_s
        self._flights: dict[bytes, asyncio.Future[Entry | None]] = {}

    async def join(self, plan: CachePlan) -> Entry | None:
        """Return the answer of the request that leads, or None: to be asked for by oneself.

        The first request with a key leads: the others wait until its answer is kept (`land`), it ends without one, or
        the time is up; then all of them ask for themselves.
        """
        flight = self._flights.get(plan.key)
        if flight is None:
            if len(self._flights) < _MOST:
                self._flights[plan.key] = asyncio.get_running_loop().create_future()
                plan.leads = True
            return None
        # Unlike `wait_for`, this leaves the flight alone when a waiter is cancelled.
        await asyncio.wait({flight}, timeout=self.wait_s)
        return flight.result() if flight.done() else None

    def land(self, plan: CachePlan, entry: Entry | None) -> None:
        """Give the answer of a request that leads, or word that there is none, to those who wait; idempotent."""
        if not plan.leads:
            return
        plan.leads = False
        flight = self._flights.pop(plan.key)
        if not flight.done():
            flight.set_result(entry)
