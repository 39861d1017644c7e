"""A client that hangs up cancels what is done for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

from starlette.types import Receive, Scope

CONNECTION = "llmrouter.connection"
"""Key of the scope under which our server puts the connection."""


class ClientGoneError(Exception):
    """The client hung up; nobody is left to answer."""


class Connection(Protocol):
    """A connection that tells when it is lost."""

    lost: bool
    when_lost: Callable[[], None] | None


class cancel_on_disconnect:  # noqa: N801 - used like a function, as asyncio.timeout is
    """Asynchronous context: cancels its block when the client hangs up, and raises ClientGoneError then.

    The body of the request must have been read; nothing else may call `receive` meanwhile.

    Parameters
    ----------
    scope : ASGI scope
        Of the request. Where its server says when a connection is lost (ours does), no task has to wait for that.
    receive : ASGI receive
        Of the request.
    """

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._connection: Connection | None = scope.get(CONNECTION)
        self._receive = receive
        self._gone = False
        self._task: asyncio.Task[object] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._cancelling = 0

    async def __aenter__(self) -> None:
        self._task = asyncio.current_task()
        assert self._task is not None  # noqa: S101 - an async context always runs in a task
        self._cancelling = self._task.cancelling()
        if self._connection is None:
            self._watcher = asyncio.create_task(self._watch())
        elif self._connection.lost:
            self._lost()
        else:
            self._connection.when_lost = self._lost

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._lost()

    def _lost(self) -> None:
        self._gone = True
        if self._task is not None:
            self._task.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # No await in here: a cancellation by the watcher has either been delivered inside the block, or never comes.
        if self._watcher is not None:
            self._watcher.cancel()
        elif self._connection is not None:
            self._connection.when_lost = None
        if self._gone and self._task is not None:
            ours = self._task.uncancel() <= self._cancelling
            if ours and kind is not None and issubclass(kind, asyncio.CancelledError):
                raise ClientGoneError from error
