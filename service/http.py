"""uvicorn's HTTP protocol, with limits on the head of a request: how long it may take, and how large it may be."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.disconnect import CONNECTION

MAX_HEAD_BYTES = 64 * 1024

_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class GuardedProtocol(HttpToolsProtocol):
    """One connection.

    A client that opens a connection and does not send the head of a request within `header_timeout_s` is cut off, and
    so is one whose head is larger than `MAX_HEAD_BYTES`: neither costs more than its socket. (uvicorn's own limits
    begin with the first complete head.)

    The request's scope holds the connection under `CONNECTION`; see `service.disconnect`.

    Attributes
    ----------
    lost : bool
        Whether the client has gone.
    when_lost : callable or None
        Called when it goes.
    """

    header_timeout_s = 15.0
    lost = False
    when_lost: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Expect a head."""
        super().connection_made(transport)
        self._head_bytes = 0
        self._in_head = True
        self._head_timer: asyncio.TimerHandle | None = None
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes:
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(_TOO_LARGE)
            elif self._head_timer is None:
                self._await_head()

    def on_message_begin(self) -> None:
        """Begin a head."""
        self._in_head = True
        super().on_message_begin()
        scope: Any = self.scope
        scope[CONNECTION] = self

    def on_headers_complete(self) -> None:
        """Begin a request, unless its head is too large."""
        size, self._head_bytes, self._in_head = self._head_bytes, 0, False
        self._forget_timer()
        # `size` may hold a part of the body.
        if size > MAX_HEAD_BYTES and sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD_BYTES:
            self._refuse(_TOO_LARGE)
            return
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of a body."""
        if not self.transport.is_closing():
            super().on_body(body)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who waits for it that the client has gone."""
        self._forget_timer()
        super().connection_lost(exc)
        self.lost = True
        if self.when_lost is not None:
            self.when_lost()

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self.header_timeout_s, self._refuse, _TOO_SLOW)

    def _forget_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, answer: bytes) -> None:
        self._forget_timer()
        transport: Any = self.transport
        if not transport.is_closing():
            if self.cycle is None or self.cycle.response_complete:  # else the answer to another request is under way
                transport.write(answer)
            transport.close()


def protocol(header_timeout_s: float) -> type[GuardedProtocol]:
    """Return the protocol with a time limit on heads, in seconds."""
    return type("GuardedProtocol", (GuardedProtocol,), {"header_timeout_s": header_timeout_s})
