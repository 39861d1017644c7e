"""How many requests a process works on: a bounded number, a bounded queue in order of arrival, a bounded wait."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple

from service.errors import SERVER_ERROR, APIError
from service.limits.settings import AdmissionSettings

_WINDOW_S = 5.0
_SHORTEST_RETRY_S = 1
_LONGEST_RETRY_S = 30


class OverloadedError(APIError):
    """The gateway takes no more requests now: 503, with the time after which it probably does."""


class AdmissionState(NamedTuple):
    """How busy the process is.

    Attributes
    ----------
    in_flight, queued : int
        Requests that are worked on, and that wait.
    admitted, refused, timed_out : int
        Counted since the start.
    closed : bool
        Whether new ones are refused.
    """

    in_flight: int
    queued: int
    admitted: int
    refused: int
    timed_out: int
    closed: bool


class Admission:
    """Gives out slots to requests.

    Parameters
    ----------
    settings : AdmissionSettings
        How many.
    clock : callable
        Seconds, steady.
    """

    def __init__(self, settings: AdmissionSettings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.settings = settings
        self._clock = clock
        self._in_flight = 0
        # A dict in order of arrival: whoever gives up is taken out of the middle at once.
        self._waiting: dict[asyncio.Future[None], None] = {}
        self._closed = False
        self._admitted = self._refused = self._timed_out = 0
        self._window_began = clock()
        self._ended = 0
        self._rate = 0.0

    def slot(self) -> Slot:
        """Return a context manager that holds a slot while it is entered."""
        return Slot(self)

    def close(self) -> None:
        """Refuse new requests from now on: the process is stopping. Those that wait already are still served."""
        self._closed = True

    def state(self) -> AdmissionState:
        """Return how busy the process is."""
        return AdmissionState(
            in_flight=self._in_flight,
            queued=len(self._waiting),
            admitted=self._admitted,
            refused=self._refused,
            timed_out=self._timed_out,
            closed=self._closed,
        )

    def enter_now(self) -> bool:
        """Take a slot if one is free and nobody waits.

        Raises
        ------
        OverloadedError
            If requests are refused: the process is stopping, or the queue is full.
        """
        if self._closed:
            raise self._refusal("The gateway is stopping.", closing=True)
        if self._in_flight < self.settings.max_in_flight and not self._waiting:
            self._in_flight += 1
            self._admitted += 1
            return True
        if len(self._waiting) >= self.settings.max_queue:
            raise self._refusal(
                f"The gateway is overloaded: {self._in_flight} requests under way, {len(self._waiting)} waiting."
            )
        return False

    async def wait(self) -> None:
        """Wait for a slot, in order of arrival.

        Raises
        ------
        OverloadedError
            If none comes in time.
        """
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[turn] = None
        try:
            async with asyncio.timeout(self.settings.queue_timeout_s):
                await turn
        except BaseException as error:
            self._waiting.pop(turn, None)
            if turn.done() and not turn.cancelled():
                # The slot came at the moment when this request gave up: it is the next one's.
                self.leave()
            if isinstance(error, TimeoutError):
                self._timed_out += 1
                waited = f"{self.settings.queue_timeout_s:g} s"
                raise self._refusal(f"The gateway is overloaded: no request ended within {waited}.") from error
            raise
        self._admitted += 1

    def leave(self) -> None:
        """Give a slot back: to whoever has waited longest."""
        self._count()
        while self._waiting:
            turn = next(iter(self._waiting))
            del self._waiting[turn]
            if not turn.done():  # else it has given up and not noticed yet
                turn.set_result(None)
                return
        self._in_flight -= 1

    def _count(self) -> None:
        self._ended += 1
        now = self._clock()
        elapsed = now - self._window_began
        if elapsed >= _WINDOW_S:
            self._rate = self._ended / elapsed
            self._window_began, self._ended = now, 0

    def _refusal(self, message: str, *, closing: bool = False) -> OverloadedError:
        self._refused += 1
        seconds = self._retry_after_s()
        headers = {"retry-after": str(seconds), "retry-after-ms": str(seconds * 1000)}
        if closing:
            headers["connection"] = "close"
        return OverloadedError(
            f"{message} Please try again in {seconds} s.",
            status=503,
            type=SERVER_ERROR,
            code="overloaded",
            headers=headers,
        )

    def _retry_after_s(self) -> int:
        """Return in how many seconds those that wait will probably have been served."""
        elapsed = self._clock() - self._window_began
        rate = max(self._rate, self._ended / elapsed if elapsed > 1 else 0.0)
        waiting = len(self._waiting) + 1
        seconds = math.ceil(waiting / rate) if rate > 0 else _SHORTEST_RETRY_S
        return min(max(seconds, _SHORTEST_RETRY_S), _LONGEST_RETRY_S)


class Slot:
    """One slot; entering waits for it where none is free, leaving gives it back, once."""

    __slots__ = ("_admission", "_held")

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._held = False

    async def __aenter__(self) -> Slot:
        """Take the slot.

        Raises
        ------
        OverloadedError
            If there is none to be had.
        """
        if not self._admission.enter_now():
            await self._admission.wait()
        self._held = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give it back."""
        if self._held:
            self._held = False
            self._admission.leave()
