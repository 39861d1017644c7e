"""A streamed answer of an OpenAI-compatible upstream, relayed event by event."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import aiohttp
import orjson

from llmrouter.exceptions import BackendError, BackendStatusError, BackendStreamError
from llmrouter.pool._limits import CallLimits
from llmrouter.pool._sse import EventSplitter, EventTooLongError, ServerSentEvent
from llmrouter.pool._usage import StreamObserver, error_in

MAX_ERROR_BYTES = 1024 * 1024
"""That much of an error body is read."""

_LINGER_S = 0.02
_RELAYED_HEADERS = frozenset({"content-type", "retry-after", "retry-after-ms", "x-should-retry", "x-request-id"})
_RELAYED_PREFIXES = ("openai-", "x-ratelimit-")
_ERROR_FIELDS = ("message", "type", "param", "code")
_NO_WORDS = {"message": "The upstream reported an error.", "type": "upstream_error", "param": None, "code": None}
_TOO_MANY_REQUESTS, _BAD_GATEWAY = 429, 502
_RATE_LIMIT_CODES = frozenset({"rate_limit_exceeded", "insufficient_quota"})


class OpenAIStream:
    """A stream under way; see `BackendStream`.

    Parameters
    ----------
    limits : CallLimits
        Time limits of the call.
    response : aiohttp.ClientResponse
        With status 200, its body not read yet. The stream owns it.
    max_event_bytes : int
        Larger events are refused, and so is more than that before the first token.

    Attributes
    ----------
    observer : StreamObserver
        What has gone by.
    """

    def __init__(self, limits: CallLimits, response: aiohttp.ClientResponse, *, max_event_bytes: int) -> None:
        self._limits = limits
        self._response = response
        self._max_event_bytes = max_event_bytes
        self._splitter = EventSplitter(max_event_bytes=max_event_bytes)
        self.observer = StreamObserver()
        self._first: list[ServerSentEvent] = []
        self._headers = relayed_headers(response.headers)

    @property
    def headers(self) -> Mapping[str, str]:
        """Upstream headers worth relaying."""
        return self._headers

    async def open(self) -> None:
        """Wait for the first token; what comes before it (keep-alives, empty chunks) is kept and relayed with it.

        Until then another model can answer in place of this one, and nobody notices.

        Raises
        ------
        BackendError
            If the answer is no event stream, breaks off, or an error comes before the first token or with it.
        """
        if self._response.content_type == "application/json":
            raise await self._not_a_stream()
        held_bytes = 0
        begun = False
        while not begun:
            events = await self._next(first=True)
            if events is None:
                rest = self._splitter.flush()
                if not self._hold([] if rest is None else [rest]):
                    raise self._broken("ended before its first token")
                self._check_end(rest)
                return
            begun = self._hold(events)
            held_bytes += sum(len(event.raw) for event in events)
            if not begun and held_bytes > self._max_event_bytes:
                raise self._broken(f"is refused: {self._max_event_bytes} bytes, and no token among them")

    async def __aiter__(self) -> AsyncIterator[Sequence[ServerSentEvent]]:
        """Yield events in batches as they come."""
        events = self._first  # observed when they came
        while True:
            if events:
                yield events
            if self.observer.done:
                events = await self._linger()
                if events:
                    yield events
                return
            following = await self._next()
            if following is None:
                break
            events = following
            for position, event in enumerate(events):
                if self._observe(event):
                    events[position] = event._replace(usage_only=True)
        rest = self._splitter.flush()
        if rest is not None:
            self._observe(rest)
        self._check_end(rest)
        if rest is not None:
            yield [rest]

    async def aclose(self) -> None:
        """Release the connection; one that is not at its end is closed, which cancels the call upstream."""
        self._response.release()

    def _observe(self, event: ServerSentEvent) -> bool:
        return event.data is not None and self.observer.observe(event.data)

    def _hold(self, events: Sequence[ServerSentEvent]) -> bool:
        """Observe events and keep them for the first batch; return whether the answer has begun with them.

        Raises
        ------
        BackendStatusError
            If one of them is an error.
        """
        for event in events:
            self._first.append(event._replace(usage_only=True) if self._observe(event) else event)
            if event.data is not None and (error := self.observer.error):
                raise error_object_error(error, _error_body(error, event.data), self._limits.name)
        return self.observer.begun

    async def _next(self, *, first: bool = False) -> list[ServerSentEvent] | None:
        """Return the events that the next piece completes (maybe none), or None at the end."""
        piece = await read_piece(self._response, self._limits, first=first)
        if not piece:
            return None
        try:
            return self._splitter.feed(piece)
        except EventTooLongError as error:
            raise self._broken(f"is refused: {error}") from error

    def _check_end(self, rest: ServerSentEvent | None) -> None:
        """Raise unless the upstream closed after a complete answer, be it without ``[DONE]``."""
        if rest is not None and rest.data is not None and not self.observer.done and not _is_json(rest.data):
            raise self._broken("broke off within an event")
        if not (self.observer.done or self.observer.finished or self.observer.error):
            raise self._broken("ended in the middle of an answer")

    async def _linger(self) -> list[ServerSentEvent]:
        """Wait a moment for the end of the body after [DONE], so that the connection can be used again."""
        trailing: list[ServerSentEvent] = []
        try:
            async with asyncio.timeout(_LINGER_S):
                while (events := await self._next()) is not None:
                    trailing += events
        except (TimeoutError, BackendError):
            pass  # the answer is complete; the connection is closed instead of kept
        rest = self._splitter.flush()
        return trailing if rest is None else [*trailing, rest]

    async def _not_a_stream(self) -> BackendError:
        body = await read_error_body(self._response, self._limits)
        if error := error_in(body):
            return error_object_error(error, body, self._limits.name)
        return self._broken("is none: it answered with application/json")

    def _broken(self, what: str) -> BackendStreamError:
        return BackendStreamError(f"{self._limits.name}: the upstream's stream {what}", model=self._limits.name)


async def read_piece(response: aiohttp.ClientResponse, limits: CallLimits, *, first: bool = False) -> bytes:
    """Return the next piece of a body, b"" at its end; `first` while the first token is awaited.

    Raises
    ------
    BackendStreamError
        If the upstream breaks off (a reset, fewer bytes than its content-length).
    BackendTimeoutError
        If it is silent for too long.
    """
    content = response.content
    try:
        if (ready := content.read_nowait()) or content.at_eof():
            return ready  # nothing to wait for, so no limit has to be set up
    except (aiohttp.ClientError, OSError) as error:
        raise _broken_off(limits, error) from error
    wait = limits.first_byte if first else limits.next_piece
    try:
        return await wait(content.readany())
    except (aiohttp.ClientError, OSError) as error:
        raise _broken_off(limits, error) from error


def _broken_off(limits: CallLimits, error: Exception) -> BackendStreamError:
    return BackendStreamError(
        f"{limits.name}: the upstream broke off in the middle of its answer ({type(error).__name__})",
        model=limits.name,
    )


async def read_error_body(response: aiohttp.ClientResponse, limits: CallLimits) -> bytes:
    """Return the body of an error, or as much of it as comes."""
    body = b""
    try:
        while len(body) < MAX_ERROR_BYTES and (piece := await read_piece(response, limits)):
            body += piece
    except BackendError:
        pass  # the status says enough
    return body


def relayed_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the upstream headers worth keeping, names in lower case."""
    kept = {}
    for name, value in headers.items():
        lower = name.lower()
        if lower in _RELAYED_HEADERS or lower.startswith(_RELAYED_PREFIXES):
            # Header values are bytes; the client gets the upstream's own.
            kept[lower] = value if value.isascii() else value.encode("utf-8", "surrogateescape").decode("latin-1")
    return kept


def error_object_error(error: Mapping[str, Any], body: bytes, name: str) -> BackendStatusError:
    """Return the HTTP error that an upstream meant when it sent an error object under status 200."""
    code = error.get("code")
    if isinstance(code, int) and 400 <= code < 600:
        status = code
    else:
        status = _TOO_MANY_REQUESTS if isinstance(code, str) and code in _RATE_LIMIT_CODES else _BAD_GATEWAY
    return BackendStatusError(
        f"{name}: the upstream answered with an error object", model=name, status=status, body=body
    )


def _error_body(error: Mapping[str, Any], data: bytes) -> bytes:
    """Return what an upstream sent as an error: its own bytes, or an error object where those are something else."""
    payload = orjson.loads(data)
    if isinstance(payload, dict) and payload.get("error"):
        return data
    said = {name: value for name in _ERROR_FIELDS if isinstance(value := error.get(name), str | int)}
    return orjson.dumps({"error": {**_NO_WORDS, **said}})


def _is_json(data: bytes) -> bool:
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError:
        return False
    return True
