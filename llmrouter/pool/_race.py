"""Attempts that run beside each other until one answers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, NamedTuple, TypeVar

from llmrouter.exceptions import BackendError

logger = logging.getLogger(__name__)

T = TypeVar("T")

_closing: set[asyncio.Task[None]] = set()
"""Answers on their way to be closed: the event loop itself keeps only weak references."""


class Ended(NamedTuple, Generic[T]):
    """An attempt that came to its end.

    Attributes
    ----------
    number : int
        Which it was: 0 is the first that was started.
    name : str
        As it was started.
    seconds : float
        How long it took.
    error : BackendError or None
        None where it was answered.
    answer : object
        None where it failed.
    """

    number: int
    name: str
    seconds: float
    error: BackendError | None
    answer: T | None


class Abandoned(NamedTuple):
    """An attempt that was cancelled: its number, its name, and after how many seconds."""

    number: int
    name: str
    seconds: float


class Race(Generic[T]):
    """Run attempts as tasks of their own, and cancel what is not needed any more.

    Every answer is either handed out by `next` or closed (``aclose``). `close` must be called at the end in any case.

    Parameters
    ----------
    attempt : callable
        Makes an attempt, by its name.
    """

    def __init__(self, attempt: Callable[[str], Awaitable[T]]) -> None:
        self._attempt = attempt
        self._started = 0
        self._running: dict[asyncio.Task[T], tuple[int, str, float]] = {}

    @property
    def running(self) -> bool:
        """Whether an attempt has neither been handed out nor closed."""
        return bool(self._running)

    def start(self, name: str) -> int:
        """Begin an attempt, and return its number."""
        task = asyncio.create_task(_run(self._attempt, name))
        number = self._started
        self._running[task] = (number, name, time.perf_counter())
        self._started += 1
        return number

    async def wait(self, timeout_s: float) -> bool:
        """Return whether an attempt ends within `timeout_s` seconds."""
        done, _ = await asyncio.wait(self._running, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        return bool(done)

    async def next(self) -> Ended[T]:
        """Wait for an attempt to end, and return it. If several have, one that was answered comes first.

        Raises
        ------
        Exception
            What an attempt raised that is no BackendError.
        """
        done, _ = await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
        ended = [task for task in self._running if task in done]
        task = next(filter(_answered, ended), ended[0])
        number, name, started = self._running.pop(task)
        seconds = time.perf_counter() - started
        try:
            return Ended(number, name, seconds, None, task.result())
        except BackendError as error:
            return Ended(number, name, seconds, error, None)

    def close(self) -> list[Abandoned]:
        """Cancel what still runs, and return what that was."""
        now = time.perf_counter()
        abandoned = []
        for task, (number, name, started) in self._running.items():
            task.cancel()
            task.add_done_callback(_discard)
            abandoned.append(Abandoned(number, name, now - started))
        self._running.clear()
        return abandoned


async def _run(attempt: Callable[[str], Awaitable[T]], name: str) -> T:
    return await attempt(name)


def _answered(task: asyncio.Task[Any]) -> bool:
    return not task.cancelled() and task.exception() is None


def _discard(task: asyncio.Task[Any]) -> None:
    """Close an answer that came although nobody waits for it any more."""
    if task.cancelled():
        return
    error = task.exception()
    if error is not None:
        logger.debug("an abandoned attempt failed: %s", error)
        return
    close: Callable[[], Coroutine[Any, Any, None]] | None = getattr(task.result(), "aclose", None)
    if close is not None:
        closing = asyncio.get_running_loop().create_task(close())
        _closing.add(closing)
        closing.add_done_callback(_closed)


def _closed(closing: asyncio.Task[None]) -> None:
    _closing.discard(closing)
    if not closing.cancelled() and (error := closing.exception()) is not None:
        logger.debug("an abandoned answer could not be closed: %s", error)
