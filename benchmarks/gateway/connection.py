"""One kept-alive HTTP/1.1 connection of the load generator: callbacks only, each answer checked byte by byte."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import httptools
import orjson

from benchmarks.gateway import answers

_OVERHEAD_HEADER = b"x-llmrouter-overhead-ms"
_OK = 200


@dataclass(slots=True)
class Exchange:
    """One request and what came of it.

    Attributes
    ----------
    mark : bytes
        The request's number.
    due : float
        `time.perf_counter` from which its latency counts: when it was to be sent by the schedule.
    first_byte, end : float
        When the first byte of the body came, and its last.
    trouble : str
        "" for a right answer.
    overhead_ms : float or None
        What the gateway says that it added.
    """

    mark: bytes
    due: float
    first_byte: float = 0.0
    end: float = 0.0
    trouble: str = ""
    overhead_ms: float | None = None


class LoadConnection(asyncio.Protocol):
    """Send one request at a time and hand back its exchange.

    Parameters
    ----------
    on_done : callable
        Gets the connection and the exchange, right or wrong.
    on_lost : callable
        Gets the connection when it is closed; before, an exchange under way has been handed back as broken.
    streamed : bool
        What answers are expected.
    exact : bool
        Whether bodies must be the upstream's own bytes; else the content in them must be.
    """

    def __init__(
        self,
        on_done: Callable[[LoadConnection, Exchange], object],
        on_lost: Callable[[LoadConnection], object],
        *,
        streamed: bool,
        exact: bool,
    ) -> None:
        self._on_done = on_done
        self._on_lost = on_lost
        self._streamed = streamed
        self._exact = exact
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None
        self._pieces: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, _error: Exception | None) -> None:
        """Hand back what was under way."""
        self._transport = None
        self._on_lost(self)
        self._finish("the connection broke off")

    def send(self, request: bytes, exchange: Exchange) -> None:
        """Send a request; the connection must be idle."""
        self._exchange = exchange
        self._pieces.clear()
        if self._transport is None:
            self._finish("the connection is closed")
            return
        self._transport.write(request)

    def close(self) -> None:
        """Close, whatever is under way."""
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Parse."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._finish(f"not HTTP: {error}")
            self.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Note what the gateway says of itself."""
        if name == _OVERHEAD_HEADER and self._exchange is not None:
            self._exchange.overhead_ms = float(value)

    def on_body(self, body: bytes) -> None:
        """Take a piece of the answer."""
        if not self._pieces and self._exchange is not None:
            self._exchange.first_byte = time.perf_counter()
        self._pieces.append(body)

    def on_message_complete(self) -> None:
        """Check the answer and hand it back."""
        if self._exchange is None:
            return
        self._exchange.end = time.perf_counter()
        status = self._parser.get_status_code()
        body = b"".join(self._pieces)
        if status != _OK:
            self._finish(f"status {status}: {body[:200].decode('utf-8', 'replace')}")
        else:
            self._finish(wrong(body, self._exchange.mark, streamed=self._streamed, exact=self._exact))

    def _finish(self, trouble: str) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.trouble = trouble
            self._on_done(self, exchange)


def wrong(body: bytes, mark: bytes, *, streamed: bool, exact: bool) -> str:
    """Return what is wrong with an answer, "" where nothing is.

    Parameters
    ----------
    body : bytes
        All of it.
    mark : bytes
        The number of the request.
    streamed, exact : bool
        See `LoadConnection`.
    """
    if exact:
        expected = answers.stream(mark, usage=False) if streamed else answers.completion(mark)
        return "" if body == expected else "wrong bytes"
    try:
        content = _streamed_content(body) if streamed else _content(body)
    except (ValueError, LookupError, TypeError) as error:
        return f"unreadable answer: {error}"
    wanted = answers.streamed_text(mark) if streamed else answers.text(mark)
    return "" if content == wanted else "wrong content"


def _content(body: bytes) -> str:
    return str(orjson.loads(body)["choices"][0]["message"]["content"])


def _streamed_content(body: bytes) -> str:
    pieces = []
    done = False
    for event in body.split(b"\n\n"):
        data = event.strip().removeprefix(b"data:").strip()
        if data == b"[DONE]":
            done = True
        elif data:
            pieces += [choice["delta"].get("content") or "" for choice in orjson.loads(data)["choices"]]
    if not done:
        raise ValueError("the stream has no [DONE]")
    return "".join(pieces)
