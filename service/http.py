"""uvicorn's HTTP protocol, with limits on what one connection may cost: its head, its body, its patience in reading."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.disconnect import CONNECTION
from service.drain import LINGER_S

MAX_HEAD_BYTES = 64 * 1024

_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
_UPGRADE = re.compile(rb"\r\n[Uu][Pp][Gg][Rr][Aa][Dd][Ee]:[^\r\n]*(?=\r\n)")
_HEAD_END = b"\r\n\r\n"


class GuardedProtocol(HttpToolsProtocol):
    """One connection.

    uvicorn's own limits begin with the first complete head. Here a client is cut off that does not send a head within
    `header_timeout_s`, on a new connection and on a kept one; one whose head is larger than `MAX_HEAD_BYTES`; one that
    goes on with its body for that long after it has been answered; and one that does not read its answer for
    `write_timeout_s`. Trailers are dropped: uvicorn would collect them without limit.

    The request's scope holds the connection under `CONNECTION`; see `service.disconnect`.

    Attributes
    ----------
    draining : bool
        Whether the process stops: this answer is then the connection's last.
    lost : bool
        Whether the client has gone.
    when_lost : callable or None
        Called when it goes.
    """

    header_timeout_s = 15.0
    write_timeout_s = 60.0
    draining = False
    lost = False
    when_lost: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # of a stream
        """Expect a head."""
        self._head_bytes = 0
        self._in_head = True
        self._in_message = False
        self._outlasts_end = False
        self._timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        counted = self._in_head
        if counted:
            self._head_bytes += len(data)
        if not self._in_message and b"pgrade:" in data:
            data = _without_upgrade(data)
        super().data_received(data)
        if self._in_head and not self.lost:
            if not counted:  # a further head began within `data`
                self._head_bytes = len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(_TOO_LARGE)
            elif self._timer is None:
                self._await_head()

    def on_message_begin(self) -> None:
        """Begin a head."""
        self._in_head = self._in_message = True
        super().on_message_begin()
        scope: Any = self.scope
        scope[CONNECTION] = self

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a line of a head; trailers of a body are nobody's business here, and could be without end."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin a request, unless its head is too large."""
        size, self._head_bytes, self._in_head = self._head_bytes, 0, False
        self._forget_timer()
        # `size` may hold a part of the body.
        if size > MAX_HEAD_BYTES and sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD_BYTES:
            self._refuse(_TOO_LARGE)
            return
        super().on_headers_complete()
        if self.draining and self.cycle is not None:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Take a part of a body."""
        if not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request's body."""
        self._in_message = False
        if not self._in_head:
            self._forget_timer()
        if not self.transport.is_closing():
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """End an answer; what is left of the request may not take for ever."""
        super().on_response_complete()
        if self.transport.is_closing() or self._timer is not None:
            return
        if self._outlasts_end:
            self._outlasts_end = False
            self._timer = self.loop.call_later(LINGER_S, self._close_idle)
        elif self._in_message and not self._in_head:
            self._timer = self.loop.call_later(self.header_timeout_s, self.transport.close)

    def shutdown(self) -> None:
        """Begin the end; an answer whose head has promised another request keeps that promise for a moment."""
        cycle = self.cycle
        if cycle is not None and cycle.response_started and not cycle.response_complete and cycle.keep_alive:
            self._outlasts_end = True
        else:
            super().shutdown()

    def pause_writing(self) -> None:
        """Give a client that does not read its answer some time, not all of it."""
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self.write_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on."""
        self._forget_write_timer()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who waits for it that the client has gone."""
        self.lost = True
        self._forget_timer()
        self._forget_write_timer()
        super().connection_lost(exc)
        if self.when_lost is not None:
            self.when_lost()

    def _close_idle(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()

    def _await_head(self) -> None:
        self._timer = self.loop.call_later(self.header_timeout_s, self._refuse, _TOO_SLOW)

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _forget_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _refuse(self, answer: bytes) -> None:
        self._forget_timer()
        transport: Any = self.transport
        if transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:
            # The answer to the request before is under way, and is not cut off for what comes after it.
            if answer is _TOO_SLOW:
                self._await_head()
            else:
                self.cycle.keep_alive = False
                transport.pause_reading()
            return
        transport.write(answer)
        transport.close()


def protocol(*, header_timeout_s: float, write_timeout_s: float) -> type[GuardedProtocol]:
    """Return the protocol with time limits on heads and on reading answers, in seconds."""
    limits = {"header_timeout_s": header_timeout_s, "write_timeout_s": write_timeout_s}
    return type("GuardedProtocol", (GuardedProtocol,), limits)


def _without_upgrade(data: bytes) -> bytes:
    """Return the beginning of a request without its wish for another protocol, which the parser would obey.

    It would take the body for that protocol's. Java's clients ask so in every plain request.
    """
    head, end, rest = data.partition(_HEAD_END)
    return _UPGRADE.sub(b"", head + end) + rest if end else data
