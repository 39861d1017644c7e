"""A client that hangs up cancels what is done for it."""

from __future__ import annotations

import asyncio
from types import TracebackType

from starlette.types import Receive


class ClientGoneError(Exception):
    """The client hung up; nobody is left to answer."""


class cancel_on_disconnect:  # noqa: N801 - used like a function, as asyncio.timeout is
    """Asynchronous context: cancels its block when the client hangs up, and raises ClientGoneError then.

    The body of the request must have been read; nothing else may call `receive` meanwhile.

    Parameters
    ----------
    receive : ASGI receive
        Of the request.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._gone = False
        self._task: asyncio.Task[object] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._cancelling = 0

    async def __aenter__(self) -> None:
        self._task = asyncio.current_task()
        assert self._task is not None  # noqa: S101 - an async context always runs in a task
        self._cancelling = self._task.cancelling()
        self._watcher = asyncio.create_task(self._watch(self._task))

    async def _watch(self, task: asyncio.Task[object]) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        task.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # No await in here: a cancellation by the watcher has either been delivered inside the block, or never comes.
        if self._watcher is not None:
            self._watcher.cancel()
        if self._gone and self._task is not None:
            ours = self._task.uncancel() <= self._cancelling
            if ours and kind is not None and issubclass(kind, asyncio.CancelledError):
                raise ClientGoneError from error
