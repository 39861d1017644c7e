"""The time limits of one upstream call."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from llmrouter.exceptions import BackendTimeoutError
from llmrouter.pool._base import Timeouts

T = TypeVar("T")

_MISSED = {
    "connect_s": "no connection stood",
    "first_byte_s": "its first token did not come",
    "between_chunks_s": "the next piece of its answer did not come",
    "total_s": "the answer was not complete",
}


class CallLimits:
    """Await under the limits of one call; the error names the one that ran out.

    The clock starts with the construction.

    Parameters
    ----------
    name : str
        Pool name of the model.
    timeouts : Timeouts
        The limits.
    """

    def __init__(self, name: str, timeouts: Timeouts) -> None:
        self.name = name
        self.timeouts = timeouts
        self._loop = asyncio.get_running_loop()
        started = self._loop.time()
        self._first_byte_by = started + timeouts.first_byte_s
        self._ends = started + timeouts.total_s

    async def first_byte(self, awaited: Awaitable[T]) -> T:
        """Await what must come by the first-byte time."""
        return await self._by(self._first_byte_by, awaited, "first_byte_s")

    async def next_piece(self, awaited: Awaitable[T]) -> T:
        """Await the next piece of the answer."""
        return await self._by(self._loop.time() + self.timeouts.between_chunks_s, awaited, "between_chunks_s")

    async def whole(self, awaited: Awaitable[T]) -> T:
        """Await what only the total time limits."""
        return await self._by(self._ends, awaited, "total_s")

    def missed(self, limit: str) -> BackendTimeoutError:
        """Return the error for the limit that ran out, by its name in `Timeouts`."""
        seconds = getattr(self.timeouts, limit)
        return BackendTimeoutError(
            f"{self.name}: the upstream is too slow: {_MISSED[limit]} within {seconds:g} s ({limit})", model=self.name
        )

    async def _by(self, deadline: float, awaited: Awaitable[T], limit: str) -> T:
        if self._ends <= deadline:
            deadline, limit = self._ends, "total_s"
        timeout = asyncio.timeout_at(deadline)
        try:
            async with timeout:
                return await awaited
        except TimeoutError as error:
            if not timeout.expired():  # somebody else's
                raise
            raise self.missed(limit) from error
