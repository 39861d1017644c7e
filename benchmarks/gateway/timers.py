"""Timers finer than the event loop's: uvloop and asyncio round to whole milliseconds, more than a gateway may add."""

from __future__ import annotations

import asyncio
import ctypes
import heapq
import itertools
import os
import time
from collections.abc import Callable

_CLOCK_MONOTONIC = 1
_ABSOLUTE_TIME = 1
_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC
_NANOSECONDS = 1_000_000_000


class _TimeSpec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _TimerSpec(ctypes.Structure):
    _fields_ = (("interval", _TimeSpec), ("value", _TimeSpec))


class PreciseTimers:
    """Call functions at set times, to some tens of microseconds. Linux only (timerfd).

    Parameters
    ----------
    loop : asyncio.AbstractEventLoop
        Where the functions are called.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor: int = self._libc.timerfd_create(_CLOCK_MONOTONIC, _NONBLOCK_CLOEXEC)
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed")
        self._waiting: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()
        self._armed_for = float("inf")
        loop.add_reader(self._descriptor, self._fired)

    def call_at(self, when: float, function: Callable[[], object]) -> None:
        """Call `function` when `time.monotonic` reaches `when`."""
        heapq.heappush(self._waiting, (when, next(self._order), function))
        if when < self._armed_for:
            self._arm(when)

    def close(self) -> None:
        """Forget everything that waits."""
        self._waiting.clear()
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)

    def _arm(self, when: float) -> None:
        self._armed_for = when
        # A time of zero would disarm the timer; one that has passed fires at once.
        seconds, nanoseconds = divmod(max(int(when * _NANOSECONDS), 1), _NANOSECONDS)
        spec = _TimerSpec(_TimeSpec(0, 0), _TimeSpec(seconds, nanoseconds))
        self._libc.timerfd_settime(self._descriptor, _ABSOLUTE_TIME, ctypes.byref(spec), None)

    def _fired(self) -> None:
        try:
            os.read(self._descriptor, 8)
        except BlockingIOError:
            return
        self._armed_for = float("inf")
        now = time.monotonic()
        while self._waiting and self._waiting[0][0] <= now:
            heapq.heappop(self._waiting)[2]()
        if self._waiting and self._waiting[0][0] < self._armed_for:
            self._arm(self._waiting[0][0])
